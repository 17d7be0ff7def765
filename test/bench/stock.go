package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// stockSidecars are what other drivers deploy beside themselves, with the flags that
// give what lamina-controller gives. Their replicas and leases are left out.
var stockSidecars = map[string][]string{
	"csi-provisioner": {"--extra-create-metadata", "--feature-gates=Topology=true", "--immediate-topology=true",
		"--strict-topology=true", "--default-fstype=ext4"},
	"csi-resizer":     {"--handle-volume-inuse-error=false"},
	"csi-snapshotter": {"--extra-create-metadata"},
}

// stock measures the stock sidecars at the same work: a controller without its own
// serves them CSI.
func (b *bench) stock(ctx context.Context, c *controller) error {
	if err := poll(ctx, "the CSI socket", time.Minute, func() (bool, error) {
		_, err := os.Stat(c.socket)
		return err == nil, c.alive()
	}); err != nil {
		return err
	}
	if err := poll(ctx, "the agents' links", 15*time.Minute, func() (bool, error) {
		return b.fleet.linked.Load() >= int64(b.Nodes), c.alive()
	}); err != nil {
		return err
	}
	config, err := b.kubeconfig(ctx)
	if err != nil {
		return err
	}
	var all []*controller
	for name, flags := range stockSidecars {
		s := &controller{ended: make(chan struct{}), log: filepath.Join(b.dir, name+".log")}
		s.cmd = exec.Command(filepath.Join(b.sidecars, name), append([]string{
			"--csi-address=" + c.socket, "--kubeconfig=" + config, "--kube-api-qps=100", "--kube-api-burst=200", "--timeout=60s", "--v=0",
		}, flags...)...)
		if err := s.start(); err != nil {
			return err
		}
		defer s.kill()
		all = append(all, s)
	}
	return b.usage(ctx, "stock sidecars (without a driver)", all...)
}

// usage has claims made and deleted, and tells what processes took for it.
func (b *bench) usage(ctx context.Context, who string, processes ...*controller) error {
	b.result.section(fmt.Sprintf("%s: %d claims of late binding", who, b.Claims))
	sum := func(of func(*controller) (float64, error)) (total float64, err error) {
		for _, p := range processes {
			if err := p.alive(); err != nil {
				return 0, err
			}
			n, err := of(p)
			if err != nil {
				return 0, err
			}
			total += n
		}
		return total, nil
	}
	rss := func(p *controller) (float64, error) { return status(p.cmd.Process.Pid, "VmRSS") }
	// What they read at their start is at rest when all claims of a first run are bound.
	if err := b.useOnce(ctx, "warm"); err != nil {
		return err
	}
	rest, err := sum(rss)
	if err != nil {
		return err
	}
	before, err := sum(processor)
	if err != nil {
		return err
	}
	if err := b.useOnce(ctx, "used"); err != nil {
		return err
	}
	after, err := sum(processor)
	if err != nil {
		return err
	}
	worked, err := sum(rss)
	if err != nil {
		return err
	}
	b.result.count("processes", float64(len(processes)), "")
	b.result.memory("memory at rest (VmRSS)", rest, false)
	b.result.memory("memory after the work (VmRSS)", worked, false)
	b.result.milliseconds("processor time per claim", time.Duration((after-before)/float64(b.Claims)*float64(time.Second)), "")
	return nil
}

// useOnce makes claims and deletes them, and waits for both.
func (b *bench) useOnce(ctx context.Context, name string) error {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	bound, err := b.watchBound(watching, name)
	if err != nil {
		return err
	}
	client := b.client().CoreV1().PersistentVolumeClaims(measured)
	begin := time.Now()
	if err := each(ctx, b.Claims, writers, func(ctx context.Context, i int) error {
		_, err := client.Create(ctx, claim(fmt.Sprint(name, i), lateClass, b.node(i)), metav1.CreateOptions{})
		return err
	}); err != nil {
		return err
	}
	if err := poll(ctx, "claims that are bound", 15*time.Minute, func() (bool, error) {
		n := len(bound())
		return n == b.Claims, fmt.Errorf("%d of %d are", n, b.Claims)
	}); err != nil {
		return err
	}
	if err := client.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return err
	}
	_, err = b.deleted(ctx, begin, b.Claims)
	return err
}

// processor is the processor time of a process in seconds (proc_pid_stat(5)).
func processor(p *controller) (float64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %d fields", p.cmd.Process.Pid, len(f))
	}
	const ticks = 100 // a second; USER_HZ is 100 on every architecture that Go supports
	user, err := strconv.ParseFloat(f[11], 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseFloat(f[12], 64)
	return (user + system) / ticks, err
}
