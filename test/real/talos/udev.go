//go:build vm

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/lamina-csi/lamina/test/agent"
	"github.com/lamina-csi/lamina/test/service"
)

// udevScenario: the agent beside a udevd. Its rules for device-mapper and LVM come with
// packages that a host of ours need not have: without the first, lvm would wait for
// ever; without the second, it would miss its links.
func udevScenario(ctx context.Context) error {
	spec, err := readSpec()
	if err != nil {
		return err
	}
	k, err := startKubelet()
	if err != nil {
		return err
	}
	if err := os.MkdirAll("/run/udev", 0o755); err != nil {
		return err
	}
	for _, host := range []struct {
		is      string
		removed []string // rules
		answers bool
	}{
		{"LVM's and device-mapper's rules", []string{"69-lvm"}, true}, // it starts what systemd would
		{"device-mapper's rules", []string{"56-lvm"}, true},
		{"no rules of either", []string{"55-dm", "60-persistent-storage-dm", "95-dm-notify"}, false},
	} {
		for _, rules := range host.removed {
			if err := os.Remove("/usr/lib/udev/rules.d/" + rules + ".rules"); err != nil {
				return err
			}
		}
		step(host.is)
		for _, args := range [][]string{
			{"/usr/lib/systemd/systemd-udevd", "--daemon"},
			{"udevadm", "trigger", "--action=add", "--subsystem-match=block"},
			{"udevadm", "settle"},
		} {
			if _, err := run(args[0], args[1:]...); err != nil {
				return err
			}
		}
		if err := eachAgent(ctx, spec, k, host.answers); err != nil {
			return fmt.Errorf("%s: %w", host.is, err)
		}
		if _, err := run("udevadm", "control", "--exit"); err != nil {
			return err
		}
	}
	return nil
}

// eachAgent has the service and a pod's agent make volumes, beside a udevd that answers
// lvm or does not.
func eachAgent(ctx context.Context, spec service.Spec, k *kubelet, answers bool) error {
	for name, start := range map[string]func(log string) (*process, error){
		"service": func(log string) (*process, error) { return startService(spec, log) },
		"pod":     startPod,
	} {
		begin := time.Now()
		p, err := start(fmt.Sprintf("/run/%s-%d.log", name, len(logs)))
		if err != nil {
			return err
		}
		if err := beside(ctx, k, answers); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Printf("%s: %.0f s\n", name, time.Since(begin).Seconds())
		if err := stopInTime(p); err != nil {
			return err
		}
	}
	return nil
}

func beside(ctx context.Context, k *kubelet, answers bool) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	a, err := agent.Attach(ctx, kubeletDir)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := a.MakePool(ctx, "fast", profile); err != nil {
		return err
	}
	if err := volumes(ctx, a, k); err != nil {
		return err
	}
	conf, err := os.ReadFile("/run/lamina/lvm/lvm.conf")
	if err != nil {
		return err
	}
	return expect(answers == !strings.Contains(string(conf), "udev_sync = 0"), "lvm waits for udev: %t", !answers)
}
