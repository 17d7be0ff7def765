package lvm

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// hostIPC is the inode of the initial IPC namespace, PROC_IPC_INIT_INO in
// include/linux/proc_ns.h.
const hostIPC = "ipc:[4026531839]"

// Limits of [Udev].
const (
	udevTime = 30 * time.Second // what a udevd gets that is busy with a machine that boots
	udevLook = time.Second      // how often a program that runs is looked at
)

// CheckUdev says why LVM must not wait for udev here; nil if it may. What it waits
// for are System V semaphores, and it would wait for ever in a private IPC namespace
// (lvm2 issues 70 and 177) and for a udevd that has died. A udevd without
// device-mapper's rules is found by [Udev.Watch].
func CheckUdev() error {
	ns, err := os.Readlink("/proc/self/ns/ipc")
	if err != nil {
		return err
	}
	if ns != hostIPC {
		return errors.New("this is not the host's IPC namespace")
	}
	if !answers("/run/udev/control") {
		return errors.New("no udevd listens on /run/udev/control")
	}
	return nil
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

// Udev keeps programs that use libdm (lvm, cryptsetup) from waiting for a udevd that
// does not answer: one without device-mapper's rules (a host that has udev only need
// not have them), or one that dies meanwhile. A nil Udev is none.
type Udev struct {
	// GiveUp is called once, when the first program has waited for 30 seconds. From
	// then on none should wait: see [WriteConfig].
	GiveUp func(program string)

	silent   atomic.Bool
	patience time.Duration // 0: udevTime
}

// Answers reports whether there is a udevd that has not failed to answer yet.
func (u *Udev) Answers() bool { return u != nil && !u.silent.Load() }

// Watch looks at a child process until the returned function is called. If it waits
// for udev for too long, its semaphore is set to zero, as an answer does it. LVM then
// makes by itself what udev has not made (verify_udev_operations).
func (u *Udev) Watch(program string, pid int) (stop func()) {
	if u == nil {
		return func() {}
	}
	end := make(chan struct{})
	go func() {
		tick := time.NewTicker(udevLook)
		defer tick.Stop()
		var since time.Time
		var last cookie
		for {
			select {
			case <-end:
				return
			case now := <-tick.C:
				c, ok := waitsFor(pid)
				if !ok {
					since = time.Time{}
					continue
				}
				if since.IsZero() || c != last {
					since, last = now, c
				}
				if now.Sub(since) < cmp.Or(u.patience, udevTime) && u.Answers() {
					continue
				}
				c.answer()
				if !u.silent.Swap(true) {
					u.GiveUp(program)
				}
			}
		}
	}()
	return func() { close(end) }
}

// cookie is the identifier of a semaphore whose key is libdm's magic number and, in
// its lower half, what the kernel's event carries as DM_COOKIE (libdm/libdm-common.c
// of lvm2 2.03.31).
type cookie uintptr

// cookieMagic is DM_COOKIE_MAGIC of libdm.
const cookieMagic = 0x0d4d

// waitsFor returns the cookie for which a process waits now.
func waitsFor(pid int) (cookie, bool) {
	// The system call's number and its arguments, or "running": proc_pid_syscall(5).
	call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	if err != nil {
		return 0, false // it has ended
	}
	f := strings.Fields(string(call))
	if len(f) < 2 || f[0] != strconv.Itoa(unix.SYS_SEMOP) && f[0] != strconv.Itoa(unix.SYS_SEMTIMEDOP) {
		return 0, false
	}
	id, err := strconv.ParseUint(f[1], 0, 31)
	if err != nil {
		return 0, false
	}
	all, err := os.ReadFile("/proc/sysvipc/sem") // proc_sysvipc(5): a key (signed), an identifier …
	if err != nil {
		return 0, false
	}
	for line := range bytes.Lines(all) {
		f := strings.Fields(string(line))
		if len(f) < 2 || f[1] != strconv.FormatUint(id, 10) {
			continue
		}
		key, err := strconv.ParseInt(f[0], 10, 32)
		return cookie(id), err == nil && key>>16 == cookieMagic
	}
	return 0, false
}

// setVal is SETVAL of include/uapi/linux/sem.h.
const setVal = 16

func (c cookie) answer() {
	_, _, _ = unix.Syscall6(unix.SYS_SEMCTL, uintptr(c), 0, setVal, 0, 0, 0) // fails only if it is gone
}
