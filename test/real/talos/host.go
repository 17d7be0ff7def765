//go:build vm

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
	mountutils "k8s.io/mount-utils"

	"github.com/lamina-csi/lamina/test/service"
)

const kubeletDir = "/var/lib/kubelet"

// host makes of the initramfs what Talos starts a service on: a root that can be left by
// pivot_root(2), shared, with /var on another mount.
func host() error {
	const dir = "/overlay"
	root := filepath.Join(dir, "root")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	for _, d := range []string{"root", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("overlay", root, "overlay", 0, "lowerdir=/,upperdir="+dir+"/upper,workdir="+dir+"/work"); err != nil {
		return fmt.Errorf("mount the root: %w", err)
	}
	for _, d := range []string{"/proc", "/sys", "/dev", "/run", "/tmp"} {
		if err := unix.Mount(d, root+d, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s: %w", d, err)
		}
	}
	// As switch_root(8).
	if err := os.Chdir(root); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// /var is a partition of its own.
	if err := unix.Mount("tmpfs", "/var", "tmpfs", 0, "mode=0755"); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return err
	}
	return service.MountRoot(container, "/run/overlay")
}

// kubelet is a kubelet's view: a thread in a mount namespace whose mounts are peers of
// the host's, as those of a container with rshared mounts are.
type kubelet struct{ work chan func() }

func startKubelet() (*kubelet, error) {
	if err := os.MkdirAll(filepath.Join(kubeletDir, "plugins_registry"), 0o750); err != nil {
		return nil, err
	}
	k := &kubelet{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNS)
		ready <- err
		if err != nil {
			return
		}
		for f := range k.work {
			f()
		}
	}()
	return k, <-ready
}

// do runs f in kubelet's namespace; what f starts is there too.
func (k *kubelet) do(f func()) {
	done := make(chan struct{})
	k.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// read reads a file as kubelet, and a container that gets the mount from it, does.
func (k *kubelet) read(path string) (data []byte, err error) {
	k.do(func() { data, err = os.ReadFile(path) })
	return data, err
}

// mounted tells whether something is mounted at a path in kubelet's namespace.
func (k *kubelet) mounted(path string) (found bool, err error) {
	k.do(func() {
		var table []mountutils.MountInfo
		table, err = mountutils.ParseMountInfo("/proc/thread-self/mountinfo")
		for _, m := range table {
			found = found || m.MountPoint == path
		}
	})
	return found, err
}

// The kernel's modules. Talos 1.14's kernel has no modprobe; the machine's own helper
// stands for what the machine configuration names.

func setModprobe(path string) error {
	return os.WriteFile("/proc/sys/kernel/modprobe", []byte(path+"\n"), 0)
}

func loadModule(name string) error {
	if out, err := exec.Command("/init", name).CombinedOutput(); err != nil {
		return fmt.Errorf("load module %s: %w: %s", name, err, out)
	}
	return nil
}

func unloadModule(name string) error {
	if err := unix.DeleteModule(name, unix.O_NONBLOCK); err != nil {
		return fmt.Errorf("unload module %s: %w", name, err)
	}
	return nil
}

// noUdev keeps programs of the host from waiting for a udevd that is not there.
const noUdev = "DM_DISABLE_UDEV=1"

// run runs a program of the host and gives its output.
func run(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), noUdev)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// expect is an error if a condition does not hold.
func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}
