package mount

import (
	"golang.org/x/sys/unix"
	mountutils "k8s.io/mount-utils"
)

// direct makes the common mounts by system call: a process of mount(8) takes
// longer than the mount, and mount-utils runs two for a bind mount. What has an
// option that is more than a flag, and what fails, is left to mount(8), which knows
// all of them and says why.
type direct struct{ mountutils.Interface }

// plainFlags are options that are one flag of mount(2) each, at a first mount.
var plainFlags = map[string]uintptr{
	"defaults": 0, "rw": 0, "ro": unix.MS_RDONLY,
	"nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC, "nosuid": unix.MS_NOSUID,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME, "lazytime": unix.MS_LAZYTIME,
}

// mountFlags are those of a call that mount(2) alone can do. A bind mount with
// options takes a remount, which has to keep what the first mount had.
func mountFlags(fsType string, options []string) (flags uintptr, plain bool) {
	if fsType == "" {
		return unix.MS_BIND, len(options) == 1 && options[0] == "bind"
	}
	for _, o := range options {
		flag, known := plainFlags[o]
		if !known {
			return 0, false
		}
		flags |= flag
	}
	return flags, true
}

// Mount implements mountutils.Interface.
func (d direct) Mount(source, target, fsType string, options []string) error {
	if flags, plain := mountFlags(fsType, options); plain && unix.Mount(source, target, fsType, flags, "") == nil {
		return nil
	}
	return d.Interface.Mount(source, target, fsType, options)
}

// Unmount implements mountutils.Interface.
func (d direct) Unmount(target string) error {
	if unix.Unmount(target, unix.UMOUNT_NOFOLLOW) == nil {
		return nil
	}
	return d.Interface.Unmount(target)
}
