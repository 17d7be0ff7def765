//go:build vm

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/lamina-csi/lamina/test/agent"
)

// What the operating system has made before the agent comes: a volume group on an
// encrypted disk (RawVolumeConfig with encryption, LVMVolumeGroupConfig), with a volume
// of its own in it.
const (
	mapping = "r-lvm"
	osGroup = "data"
)

const bootPools = `
profiles:
  os: {adopt: ` + osGroup + `}
  own: {disks: {serial: OWN1}}
pools: {os: os, own: own}
`

// bootScenario plays Talos' handling of LVM around the agent.
func bootScenario(ctx context.Context) error {
	if err := makeHost(); err != nil {
		return err
	}
	k, err := startKubelet()
	if err != nil {
		return err
	}
	defer close(k.work)
	control, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: "/run/udev/control", Net: "unixpacket"})
	if err != nil {
		return err
	}
	control.SetUnlinkOnClose(false)
	step("a udevd that is there, and another IPC namespace: nothing waits for it")
	p, a, err := startAgent(ctx, "/run/ipc.log", syscall.CLONE_NEWIPC)
	if err != nil {
		return err
	}
	before, err := tags()
	if err != nil {
		return err
	}
	step("volumes that hold what an operating system looks for")
	for _, pool := range []string{"os", "own"} {
		v, err := a.Create(ctx, pool, "gpt-"+pool, "", 64<<20, nil)
		if err != nil {
			return err
		}
		if err := v.Mount(ctx); err != nil {
			return err
		}
		if err := writeGPT(v.Target(), "EPHEMERAL"); err != nil {
			return err
		}
		if err := v.Unmount(ctx); err != nil {
			return err
		}
	}
	step("lvs -a -o +all beside creation and deletion")
	if err := storm(ctx, a); err != nil {
		return err
	}
	// A udevd that was killed leaves its socket behind: the next agent, in the host's IPC
	// namespace, must not wait for it either.
	if err := control.Close(); err != nil {
		return err
	}
	step("shutdown: the agent ends, the encrypted disk closes")
	if err := errors.Join(a.Close(), p.stop()); err != nil {
		return err
	}
	if _, err := run("cryptsetup", "close", mapping); err != nil {
		return err
	}
	step("boot: the volumes of others come up, and none of ours")
	if err := boot(); err != nil {
		return err
	}
	after, err := tags()
	if err != nil {
		return err
	}
	if err := expect(before == after, "tags of the others' volumes: %q before, %q after", before, after); err != nil {
		return err
	}
	step("and the agent finds all that it had")
	return again(ctx)
}

// lvmHost is the lvm of the operating system, with its own configuration.
func lvmHost(args ...string) (string, error) {
	cmd := exec.Command("lvm", args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin", "LC_ALL=C", "LVM_SYSTEM_DIR=/run/talos", noUdev}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("lvm %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

func diskBySerial(serial string) (string, error) {
	files, err := filepath.Glob("/sys/block/nvme*/device/serial")
	if err != nil {
		return "", err
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		if strings.TrimSpace(string(text)) == serial {
			return "/dev/" + strings.Split(f, "/")[3], nil
		}
	}
	return "", fmt.Errorf("no disk %s", serial)
}

// unlock opens the encrypted disk.
func unlock(command ...string) error {
	disk, err := diskBySerial("LUKS1")
	if err != nil {
		return err
	}
	for i := range command {
		command[i] = strings.ReplaceAll(command[i], "DISK", disk)
	}
	cmd := exec.Command("cryptsetup", command...)
	cmd.Stdin = strings.NewReader("a passphrase")
	cmd.Env = append(os.Environ(), noUdev)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cryptsetup %s: %w: %s", command[0], err, out)
	}
	return nil
}

func makeHost() error {
	if err := errors.Join(os.MkdirAll("/run/talos", 0o755), os.MkdirAll("/run/udev", 0o755)); err != nil {
		return err
	}
	// Talos': the text copies are off, all else is LVM's default.
	if err := os.WriteFile("/run/talos/lvm.conf", []byte("backup {\n\tbackup = 0\n\tarchive = 0\n}\n"), 0o644); err != nil {
		return err
	}
	if err := unlock("luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-", "DISK"); err != nil {
		return err
	}
	if err := unlock("open", "--disable-keyring", "--key-file", "-", "DISK", mapping); err != nil {
		return err
	}
	if _, err := lvmHost("vgcreate", osGroup, "/dev/mapper/"+mapping); err != nil {
		return err
	}
	if _, err := lvmHost("lvcreate", "--name", "theirs", "--size", "64m", "--addtag", "theirs", osGroup); err != nil {
		return err
	}
	_, err := lvmHost("lvchange", "--activate", "n", osGroup+"/theirs")
	return err
}

// tags are those of the others' group and volume, which adoption must not change but
// for the one of the pool.
func tags() (string, error) {
	vg, err := lvmHost("vgs", "--noheadings", "-o", "vg_name,vg_autoactivation,vg_tags", osGroup)
	if err != nil {
		return "", err
	}
	if err := expect(strings.HasSuffix(strings.TrimSpace(vg), " lamina.pool=os"), "the group's tags are %q", vg); err != nil {
		return "", err
	}
	lv, err := lvmHost("lvs", "--noheadings", "-o", "lv_name,lv_size,lv_autoactivation,lv_skip_activation,lv_tags", osGroup+"/theirs")
	return vg + lv, err
}

// startAgent runs the agent outside of any container, in new namespaces if flags say so.
func startAgent(ctx context.Context, log string, flags uintptr) (*process, *agent.Agent, error) {
	const pools = "/run/pools.yaml"
	if err := os.WriteFile(pools, []byte(bootPools), 0o600); err != nil {
		return nil, nil, err
	}
	p, err := startIn(flags, log, "/usr/local/bin/lamina-node", "--debug", "--node-name="+nodeName, "--pools="+pools)
	if err != nil {
		return nil, nil, err
	}
	a, err := agent.Attach(ctx, kubeletDir)
	if err != nil {
		return p, a, err
	}
	for _, pool := range []string{"os", "own"} {
		if err := p.says(ctx, `"pool is as wanted","pool":"`+pool+`"`); err != nil {
			return p, a, err
		}
	}
	return p, a, nil
}

// storm: Talos 1.14 scans with lvs after each event of a device. The scan must not see
// a broken group, and nothing may be lost.
func storm(ctx context.Context, a *agent.Agent) error {
	stop, scans := make(chan struct{}), make(chan error, 1)
	n := 0
	go func() {
		for {
			select {
			case <-stop:
				scans <- nil
				return
			default:
			}
			if _, err := lvmHost("lvs", "-a", "-o", "+all"); err != nil {
				scans <- err
				return
			}
			n++
		}
	}()
	err := churn(ctx, a)
	close(stop)
	if err := errors.Join(err, <-scans); err != nil {
		return err
	}
	fmt.Printf("%d scans meanwhile\n", n)
	if err := expect(n > 0, "no scan"); err != nil {
		return err
	}
	return holds(ctx, a)
}

// The volumes that exist after churn, beside the two with a partition table.
const stormVolumes = 6

// churn makes volumes and deletes every other one.
func churn(ctx context.Context, a *agent.Agent) error {
	for i := range 2 * stormVolumes {
		v, err := a.Create(ctx, "os", fmt.Sprint("storm-", i), "ext4", 32<<20, nil)
		if err != nil {
			return err
		}
		if i%2 == 1 {
			if err := v.Delete(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// holds: LVM and the kernel have what was made and not deleted.
func holds(ctx context.Context, a *agent.Agent) error {
	list, err := a.ListVolumes(ctx, nil)
	if err != nil {
		return err
	}
	if err := expect(len(list.Entries) == stormVolumes+2, "%d volumes, not %d", len(list.Entries), stormVolumes+2); err != nil {
		return err
	}
	_, err = lvmHost("vgck", osGroup)
	return err
}

// boot replays what Talos does when it has opened the disk
// (internal/app/machined/pkg/controllers/block/lvm.go, v1.13).
func boot() error {
	if err := unlock("open", "--disable-keyring", "--key-file", "-", "DISK", mapping); err != nil {
		return err
	}
	own, err := diskBySerial("OWN1")
	if err != nil {
		return err
	}
	for _, pv := range []string{"/dev/mapper/" + mapping, own} {
		if _, err := lvmHost("pvscan", "--cache", "--listvg", "--checkcomplete", "--vgonline", "--autoactivation", "event", "--udevoutput", pv); err != nil {
			return err
		}
	}
	for _, vg := range []string{osGroup, "lamina-own"} {
		if _, err := lvmHost("vgchange", "-aay", "--autoactivation", "event", vg); err != nil {
			return err
		}
	}
	active, err := lvmHost("lvs", "-a", "--noheadings", "-o", "lv_name", "-S", "lv_active=active")
	if err != nil {
		return err
	}
	if err := expect(strings.TrimSpace(active) == "theirs", "active after boot: %q", active); err != nil {
		return err
	}
	// What Talos' volume discovery would find: no partition table on any device.
	devices, err := filepath.Glob("/sys/block/*")
	if err != nil {
		return err
	}
	for _, d := range devices {
		out, _ := exec.Command("blkid", "--probe", "/dev/"+filepath.Base(d)).Output() // exit 2: nothing found
		if strings.Contains(string(out), "PTTYPE") {
			return fmt.Errorf("the host sees %s", out)
		}
	}
	_, err = lvmHost("lvchange", "--activate", "n", osGroup+"/theirs")
	return err
}

// again: the agent comes up on what the boot left, serves a volume, and lets go of the
// encrypted disk once more.
func again(ctx context.Context) error {
	p, a, err := startAgent(ctx, "/run/again.log", 0)
	if err != nil {
		return err
	}
	if err := holds(ctx, a); err != nil {
		return err
	}
	v, err := a.Create(ctx, "os", "gpt-os", "", 64<<20, nil)
	if err != nil {
		return err
	}
	if err := v.Mount(ctx); err != nil {
		return err
	}
	out, err := run("blkid", "--probe", v.Target())
	if err != nil {
		return err
	}
	if err := expect(strings.Contains(out, `PTTYPE="gpt"`), "the volume holds %q", out); err != nil {
		return err
	}
	if err := v.Unmount(ctx); err != nil {
		return err
	}
	if err := errors.Join(a.Close(), p.stop()); err != nil {
		return err
	}
	_, err = run("cryptsetup", "close", mapping)
	return err
}
