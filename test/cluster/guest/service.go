//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	containerdSocket = "/run/containerd/containerd.sock"
	restartPause     = time.Second
	stopTime         = 10 * time.Second
)

// stopping says that what ends stays so.
var stopping atomic.Bool

// startServices starts what a node runs; each is started again when it ends.
func startServices() {
	go keep("udevd", "/usr/lib/systemd/systemd-udevd")
	go func() {
		// Only LVM asks udev, and only about disks: the rest would load drivers for
		// all that QEMU emulates, which takes a third of the boot.
		if err := call("", "udevadm", "trigger", "--action=add", "--subsystem-match=block"); err != nil {
			fmt.Fprintln(os.Stderr, "init:", err)
		}
	}()
	go keep("containerd", "containerd", "--config", "/etc/containerd/config.toml")
	go keep("kube-proxy", "kube-proxy", "--config", "/etc/kubernetes/proxy.yaml")
	go func() {
		awaitSocket(containerdSocket)
		keep("kubelet", "kubelet", "--config", "/etc/kubernetes/kubelet.yaml",
			"--kubeconfig", "/etc/kubernetes/kubelet.conf", "--node-ip", nodeIP())
	}()
}

func nodeIP() string {
	ifc, err := net.InterfaceByName("eth0")
	if err != nil {
		return ""
	}
	addrs, err := ifc.Addrs()
	if err != nil {
		return ""
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	return ""
}

// awaitSocket returns when somebody accepts on a unix socket.
func awaitSocket(name string) {
	for {
		if c, err := net.Dial("unix", name); err == nil {
			c.Close()
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func keep(name, program string, args ...string) {
	for !stopping.Load() {
		if err := runService(name, program, args...); err != nil {
			fmt.Fprintf(os.Stderr, "init: %s ended: %v\n", name, err)
		}
		time.Sleep(restartPause)
	}
}

func runService(name, program string, args ...string) error {
	log, err := os.OpenFile("/var/log/"+name+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "GOGC=300") // memory is cheaper here than time
	return cmd.Run()
}

// shutDown stops everything as systemd does at the end: a polite signal, a
// deadly one, and then every file system is unmounted.
func shutDown() {
	stopping.Store(true)
	_ = unix.Kill(-1, unix.SIGTERM)
	for deadline := time.Now().Add(stopTime); processes() > 0 && time.Now().Before(deadline); {
		time.Sleep(200 * time.Millisecond)
	}
	_ = unix.Kill(-1, unix.SIGKILL)
	unmountAll()
	powerOff()
}

// processes counts user processes other than init's two.
func processes() int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	n := 0
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil || pid == 1 || pid == os.Getpid() {
			continue
		}
		if exe, err := os.Readlink(d + "/exe"); err == nil && exe != "" {
			n++
		}
	}
	return n
}
