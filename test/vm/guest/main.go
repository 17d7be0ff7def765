//go:build linux

// Command guest is process 1 of the test virtual machine, and the kernel's
// modprobe helper there. It mounts what a program expects, runs the one program
// that the host named, and powers off. With a root of its own it hands over to the
// systemd there, and runs the program as a service.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/test/vm/wire"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == wire.RunArg {
		if err := runService(); err != nil {
			fmt.Fprintln(os.Stderr, "init:", err)
			os.Exit(1)
		}
		return
	}
	if os.Getpid() != 1 {
		// The kernel calls: modprobe -q -- NAME (kernel/module/kmod.c).
		idx, err := openIndex()
		if err != nil || loadModule(idx, os.Args[len(os.Args)-1]) != nil {
			os.Exit(1)
		}
		return
	}
	err := boot()
	if err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // process 1 must not end
}

func boot() error {
	if err := mountAll(); err != nil {
		return err
	}
	port, err := openPort()
	if err != nil {
		return err
	}
	l := &link{port: port}
	if err := start(l); err != nil {
		return errors.Join(err, l.send(wire.Fail, []byte(err.Error())))
	}
	return nil
}

func start(l *link) error {
	data, err := os.ReadFile("/" + wire.ConfigPath)
	if err != nil {
		return err
	}
	var cfg wire.Config
	if err := json.Unmarshal(data, &cfg); err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	// The kernel loads file systems, dm targets and ciphers on demand through us.
	if err := os.WriteFile("/proc/sys/kernel/modprobe", []byte("/init\n"), 0); err != nil {
		return err
	}
	idx, err := openIndex()
	if err != nil {
		return err
	}
	for _, m := range cfg.Modules {
		if err := loadModule(idx, m); err != nil {
			return err
		}
	}
	if err := awaitDisks(cfg.Disks); err != nil {
		return err
	}
	if cfg.Root != "" {
		return switchRoot(l, cfg)
	}
	return runProgram(l, cfg)
}

var mounts = []struct {
	fs, dir, opts string
	flags         uintptr
}{
	{"proc", "/proc", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"sysfs", "/sys", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"devtmpfs", "/dev", "mode=0755", unix.MS_NOSUID},
	{"tmpfs", "/dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	{"devpts", "/dev/pts", "mode=0620,ptmxmode=0666", unix.MS_NOSUID | unix.MS_NOEXEC},
	{"tmpfs", "/run", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV},
	{"tmpfs", "/tmp", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	{"cgroup2", "/sys/fs/cgroup", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
}

func mountAll() error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, m.flags, m.opts); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := os.MkdirAll("/run/lock/lvm", 0o755); err != nil {
		return err
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2",
	} {
		if err := os.Symlink(target, filepath.Join("/dev", name)); err != nil {
			return err
		}
	}
	// Controllers are usable in children only when the root hands them down.
	return os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+io +memory +pids"), 0)
}
