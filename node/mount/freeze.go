package mount

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
	mountutils "k8s.io/mount-utils"
)

// Hold freezes the filesystem on device, or on the LUKS mapping on it: what was written is made durable,
// writers wait until release. held is false where no filesystem of it is mounted.
//
// LVM freezes the filesystem once more for its own snapshot of the device. The kernel counts that since
// 6.8 (FREEZE_MAY_NEST in fs/super.c); before, LVM's command fails with EBUSY and nothing is lost.
func (m *Mounter) Hold(device string) (release func() error, held bool, err error) {
	path, mounted, err := m.filesystemOf(device)
	if err != nil || !mounted {
		return nil, false, err
	}
	if err := m.kernel.Freeze(path); err != nil {
		return nil, false, fmt.Errorf("freeze the filesystem of %s at %s: %w", device, path, err)
	}
	return func() error { return m.thaw(device, path) }, true, nil
}

// Release thaws the filesystem on device if an agent that was killed has left it frozen.
func (m *Mounter) Release(device string) error {
	path, mounted, err := m.filesystemOf(device)
	if err != nil || !mounted {
		return err
	}
	return m.thaw(device, path)
}

func (m *Mounter) thaw(device, path string) error {
	// EINVAL: it is not frozen (ioctl_fsthaw() in fs/ioctl.c).
	if err := m.kernel.Thaw(path); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("thaw the filesystem of %s at %s: %w", device, path, err)
	}
	return nil
}

// filesystemOf finds where the filesystem of a volume is mounted, whatever the path.
func (m *Mounter) filesystemOf(device string) (path string, mounted bool, err error) {
	table, err := m.mounts.List()
	if err != nil {
		return "", false, fmt.Errorf("list mounts: %w", err)
	}
	for _, at := range table {
		if !isNode(at) && m.shows(at.Device, device) {
			return at.Path, true, nil
		}
	}
	return "", false, nil
}

// isNode tells whether a mount may be the bind mount of a device node, as a block volume is published.
func isNode(at mountutils.MountPoint) bool { return at.Type == "devtmpfs" || at.Type == "tmpfs" }

// shows tells whether the source of a mount is device or lies on it. A source that is no device, such as
// "proc", shows none.
func (m *Mounter) shows(source, device string) bool {
	same, err := m.kernel.SameDevice(source, device)
	if err == nil && !same {
		same, err = m.kernel.LiesOn(source, device)
	}
	return err == nil && same
}

// From include/uapi/linux/fs.h: _IOWR('X', 119, int) and _IOWR('X', 120, int).
const (
	fiFreeze = 0xc0045877
	fiThaw   = 0xc0045878
)

func (linux) Freeze(mountpoint string) error { return freezeIoctl(mountpoint, fiFreeze) }
func (linux) Thaw(mountpoint string) error   { return freezeIoctl(mountpoint, fiThaw) }

func freezeIoctl(mountpoint string, request uint) error {
	f, err := os.OpenFile(mountpoint, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetInt(int(f.Fd()), request, 0)
}
