package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/test/agent"
)

const (
	disk0    = "/dev/nullb0"
	disk1    = "/dev/nullb1" // for pools of other chunk sizes
	vg       = "bench"
	thinPool = "thinpool"
	udevd    = "/usr/lib/systemd/systemd-udevd"
)

// The directories of lvm.conf: the agent's, and that of a plain installation.
const (
	tunedLVM = "/run/lamina/lvm"
	plainLVM = "/plain"
)

func mustGroup() lvm.Group {
	name, err := lvm.ParseVGName(vg)
	if err != nil {
		panic(err)
	}
	dev, err := lvm.ParseDevicePath(disk0)
	if err != nil {
		panic(err)
	}
	return lvm.Group{Name: name, Devices: []lvm.DevicePath{dev}}
}

// setUp makes the disks, starts udevd and the agent, and waits for its pool.
func (b *bench) setUp(ctx context.Context) error {
	// Two disks in memory whose I/O takes 20 µs by a timer of the same clock.
	if err := loadNullBlk("nr_devices=2 gb=48 memory_backed=1 discard=1 irqmode=2 completion_nsec=20000 queue_mode=2 submit_queues=1"); err != nil {
		return fmt.Errorf("null_blk: %w", err)
	}
	if err := startUdev(); err != nil {
		return fmt.Errorf("udevd: %w", err)
	}
	if err := lvm.WriteConfig(tunedLVM, "", true); err != nil {
		return err
	}
	for _, dir := range []string{tunedLVM, plainLVM} {
		if err := knowDisks(dir); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"pvcreate", "--metadatasize", "16m", disk0}, {"vgcreate", vg, disk0},
	} {
		if err := runLVM(tunedLVM, args...); err != nil {
			return err
		}
	}
	b.reserve = "10%"
	return b.startAgent(ctx)
}

// knowDisks tells LVM of null_blk's device type, where a host's own additions to
// lvm.conf stand.
func knowDisks(dir string) error {
	return os.WriteFile(dir+"/lvmlocal.conf", []byte("devices { types = [ \"nullb\", 16 ] }\n"), 0o600)
}

func (b *bench) startAgent(ctx context.Context) (err error) {
	pools := fmt.Sprintf("pools: {fast: bench}\nprofiles: {bench: {adopt: bench, overprovision: 1000, reserve: %s}}\n", b.reserve)
	b.agent, err = agent.Start(ctx, agent.Options{Program: "/usr/local/bin/lamina-node", Dir: "/var/lib/kubelet", Pools: pools})
	return err
}

// loadNullBlk loads the module with parameters.
func loadNullBlk(params string) error {
	for _, name := range []string{"configfs", "null_blk"} {
		f, err := os.Open("/vm/modules/" + name + ".ko")
		if errors.Is(err, os.ErrNotExist) && name == "configfs" {
			continue // it is built in
		}
		if err != nil {
			return err
		}
		p := ""
		if name == "null_blk" {
			p = params
		}
		err = unix.FinitModule(int(f.Fd()), p, 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
	return nil
}

// startUdev starts udevd as a booted Debian has it.
func startUdev() error {
	if err := os.MkdirAll("/run/udev", 0o755); err != nil {
		return err
	}
	if err := command(udevd, "--daemon").Run(); err != nil {
		return err
	}
	if err := command("udevadm", "trigger", "--action=add", "--subsystem-match=block").Run(); err != nil {
		return err
	}
	return command("udevadm", "settle").Run()
}

// command is a program that prints only when it is asked to.
func command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin", "LC_ALL=C"}
	return cmd
}

// runLVM runs lvm with one of the two configurations.
func runLVM(dir string, args ...string) error {
	cmd := command("/usr/sbin/lvm", args...)
	cmd.Env = append(cmd.Env, "LVM_SYSTEM_DIR="+dir, "LVM_SUPPRESS_FD_WARNINGS=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("lvm %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// run runs a program and fails with what it printed.
func run(name string, args ...string) error {
	if out, err := command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// quiet lets udevd and dmeventd end what they do about what came before. The clock
// jumps over idle time: it costs nothing.
func quiet() { time.Sleep(2 * time.Second) }

// name is a new volume's, of the provisioner's form.
func (b *bench) name() string {
	b.n++
	return fmt.Sprintf("pvc-%08x-0000-4000-8000-%012x", b.n, b.begun.UnixNano()/int64(time.Microsecond)%(1<<48))
}
