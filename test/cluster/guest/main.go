//go:build linux

// Command guest is the init of a node of the test cluster, in place of systemd.
// In the initramfs it mounts the root and starts itself there. Then process 1
// only reaps; its one child sets the node up, starts udevd, containerd, kubelet
// and kube-proxy, and runs programs for the host.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Args[0] == "/init" {
		fmt.Fprintln(os.Stderr, "init: mount the root:", enterRoot())
		powerOff()
	}
	if os.Getpid() == 1 {
		reap()
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	if err := setUp(); err != nil {
		// The machine stays up: its console and its agent say what happened.
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	<-stop
	shutDown()
}

// reap starts the real init and buries orphans. It is apart from it because
// waiting for any child would take the results of os/exec's children.
func reap() {
	for _, m := range []struct{ fs, dir string }{{"proc", "/proc"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m.fs, m.dir, m.fs, unix.MS_NOSUID, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			fmt.Fprintln(os.Stderr, "init: mount", m.dir, err)
		}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin", "HOME=/root"}
	if console, err := os.OpenFile("/dev/console", os.O_RDWR, 0); err == nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = console, console, console
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		powerOff()
	}
	go func() {
		<-stop
		_ = cmd.Process.Signal(unix.SIGTERM)
	}()
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		if pid == cmd.Process.Pid || errors.Is(err, unix.ECHILD) {
			powerOff()
		}
	}
}

func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // process 1 must not end
}
