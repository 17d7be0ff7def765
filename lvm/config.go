package lvm

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

//go:embed lvm.conf
var config string

// withoutUdev is appended where no udevd can answer LVM's cookies. The cookies
// are System V semaphores: in a private IPC namespace that sees /run/udev, lvm
// would wait for ever (lvm2 issues 70 and 177).
const withoutUdev = `
activation {
	udev_sync = 0
	udev_rules = 0
}
`

// hostIPC is the inode of the initial IPC namespace, PROC_IPC_INIT_INO in
// include/linux/proc_ns.h.
const hostIPC = "ipc:[4026531839]"

// thinTools names the programs that lvm starts where they are not in /usr/sbin.
const thinTools = `
global {
	thin_check_executable = "%[1]s/usr/sbin/thin_check"
	thin_dump_executable = "%[1]s/usr/sbin/thin_dump"
	thin_repair_executable = "%[1]s/usr/sbin/thin_repair"
	thin_restore_executable = "%[1]s/usr/sbin/thin_restore"
}
`

// WriteConfig writes lvm.conf into dir (made with mode 0700 if missing), for use
// as LVM_SYSTEM_DIR. It synchronises with udev only where that can work: in the
// host's IPC namespace, with a udevd running. The thin tools are those of the
// userland below root; "" is the system's own.
func WriteConfig(dir, root string) error {
	text := config
	if root != "" {
		text += fmt.Sprintf(thinTools, root)
	}
	if !UdevUsable() {
		text += withoutUdev
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write lvm.conf: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lvm.conf"), []byte(text), 0o600); err != nil {
		return fmt.Errorf("write lvm.conf: %w", err)
	}
	return nil
}

// UdevUsable reports whether LVM may wait for udev here.
func UdevUsable() bool {
	ns, err := os.Readlink("/proc/self/ns/ipc")
	return err == nil && ns == hostIPC && answers("/run/udev/control")
}

// answers reports whether a process listens on a socket of udevd's kind. That its
// file is there says nothing: a udevd that was killed leaves it, and libdm, which
// looks no further, would wait for its answer for ever.
func answers(socket string) bool {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
	return err == nil || errors.Is(err, unix.EAGAIN) // EAGAIN: many wait to be heard
}
