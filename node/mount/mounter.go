package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	mountutils "k8s.io/mount-utils"
)

// DefaultKubeletDir is kubelet's root directory unless it was told otherwise.
const DefaultKubeletDir = "/var/lib/kubelet"

// Config says what a [Mounter] works on. Zero fields mean the running system. mount-utils finds mount(8)
// and umount(8) through the process's own PATH.
type Config struct {
	// KubeletDir is the directory that every staging and target path must lie below.
	KubeletDir string
	Runner     Runner
	Mounts     mountutils.Interface
	Kernel     Kernel
}

// Mounter formats, mounts, grows and measures volumes.
type Mounter struct {
	kubeletDir string
	runner     Runner
	mounts     mountutils.Interface
	kernel     Kernel
}

// New returns a Mounter for config.
func New(config Config) *Mounter {
	m := &Mounter{kubeletDir: config.KubeletDir, runner: config.Runner, mounts: config.Mounts, kernel: config.Kernel}
	if m.kubeletDir == "" {
		m.kubeletDir = DefaultKubeletDir
	}
	if m.runner == nil {
		m.runner = Exec{}
	}
	if m.mounts == nil {
		m.mounts = direct{mountutils.NewWithoutSystemd("")}
	}
	if m.kernel == nil {
		m.kernel = linux{}
	}
	return m
}

// mountAt returns what is mounted at path, the topmost if mounts are stacked. A path that exists but
// whose filesystem does not answer is ErrCorrupted: it is not unmounted behind anyone's back.
func (m *Mounter) mountAt(path string) (mountutils.MountPoint, bool, error) {
	if _, err := os.Stat(path); mountutils.IsCorruptedMnt(err) {
		return mountutils.MountPoint{}, false, fmt.Errorf("%w: %w", ErrCorrupted, err)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return mountutils.MountPoint{}, false, err
	}
	return m.lastMount(path)
}

// lastMount finds what is mounted at path, last if there is more, without a look into it: a
// filesystem that the kernel has shut down answers nothing, and must be unmounted all the same.
func (m *Mounter) lastMount(path string) (mountutils.MountPoint, bool, error) {
	table, err := m.mounts.List()
	if err != nil {
		return mountutils.MountPoint{}, false, fmt.Errorf("list mounts: %w", err)
	}
	for i := len(table) - 1; i >= 0; i-- {
		if table[i].Path == path {
			return table[i], true, nil
		}
	}
	return mountutils.MountPoint{}, false, nil
}

// mountedFrom tells whether device itself is mounted at path. Something else there is ErrConflict.
func (m *Mounter) mountedFrom(device, path string) (mountutils.MountPoint, bool, error) {
	at, mounted, err := m.mountAt(path)
	if err != nil || !mounted {
		return at, false, err
	}
	same, err := m.kernel.SameDevice(at.Device, device)
	if err != nil {
		return at, false, fmt.Errorf("compare %s, mounted at %s, with %s: %w", at.Device, path, device, err)
	}
	if !same {
		return at, false, fmt.Errorf("%w: %s is mounted at %s, not %s", ErrConflict, at.Device, path, device)
	}
	return at, true, nil
}
