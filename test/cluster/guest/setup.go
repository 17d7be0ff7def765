//go:build linux

package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/test/cluster/wire"
)

var mounts = []struct {
	fs, dir, opts string
	flags         uintptr
}{
	{"sysfs", "/sys", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"tmpfs", "/dev/shm", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	{"devpts", "/dev/pts", "mode=0620,ptmxmode=0666,gid=5", unix.MS_NOSUID | unix.MS_NOEXEC},
	{"mqueue", "/dev/mqueue", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"tmpfs", "/run", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV},
	{"tmpfs", "/tmp", "mode=1777", unix.MS_NOSUID | unix.MS_NODEV},
	{"cgroup2", "/sys/fs/cgroup", "", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
	{"bpf", "/sys/fs/bpf", "mode=0700", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
}

// modules that containerd, the bridge plugin, kube-proxy and LVM expect. The
// kernel loads the rest on demand with modprobe.
var modules = []string{
	"virtio_net", "overlay", "br_netfilter", "veth", "nf_tables", "nft_ct", "nft_nat", "nft_masq",
	"dm_mod", "dm_thin_pool", "dm_snapshot", "loop",
}

var sysctls = map[string]string{
	"net/ipv4/ip_forward":                "1",
	"net/bridge/bridge-nf-call-iptables": "1",
	"net/ipv4/conf/all/rp_filter":        "0",
	"fs/inotify/max_user_instances":      "8192",
	"kernel/hung_task_timeout_secs":      "0",
}

func setUp() error {
	if err := mountAll(); err != nil {
		return err
	}
	if err := unpack(wire.ConfigDisk, "/"); err != nil {
		return fmt.Errorf("read the configuration disk: %w", err)
	}
	data, err := os.ReadFile("/" + wire.ConfigPath)
	if err != nil {
		return err
	}
	var node wire.Node
	if err := json.Unmarshal(data, &node); err != nil {
		return fmt.Errorf("read %s: %w", wire.ConfigPath, err)
	}
	if err := unix.Sethostname([]byte(node.Name)); err != nil {
		return err
	}
	if err := call("", "modprobe", append([]string{"-a"}, modules...)...); err != nil {
		return err
	}
	for key, value := range sysctls {
		if err := os.WriteFile("/proc/sys/"+key, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := network(node); err != nil {
		return err
	}
	go serve()
	if err := unix.Mount(wire.ImageDisk, "/var/lib/containerd", "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount the image store: %w", err)
	}
	if err := mergeExtension(); err != nil {
		return fmt.Errorf("merge the system extension: %w", err)
	}
	startServices()
	return startExtensions()
}

func mountAll() error {
	for _, m := range mounts {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, m.flags, m.opts); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	// As systemd has it: kubelet's volumes must reach the pods that share them.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share the mounts: %w", err)
	}
	for _, d := range []string{"/run/lock/lvm", "/run/udev", "/var/log/pods"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2",
	} {
		if err := os.Symlink(target, filepath.Join("/dev", name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	// Controllers are usable in children only when the root hands them down.
	return os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+cpu +cpuset +io +memory +pids"), 0)
}

// unpack writes a tar archive's regular files below dir.
func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Join(dir, h.Name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if err := os.WriteFile(name, data, os.FileMode(h.Mode).Perm()); err != nil {
			return err
		}
	}
}

func network(node wire.Node) error {
	batch := []string{
		"link set lo up",
		"link set eth0 up",
		"addr replace " + node.Address + " dev eth0",
		"route replace default via " + node.Gateway,
	}
	for _, r := range node.Routes {
		batch = append(batch, "route replace "+r.CIDR+" via "+r.Via)
	}
	return call(strings.Join(batch, "\n")+"\n", "ip", "-batch", "-")
}

// call runs a program to its end.
func call(stdin, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
