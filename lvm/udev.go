package lvm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// hostIPC is the inode of the initial IPC namespace, PROC_IPC_INIT_INO in
// include/linux/proc_ns.h.
const hostIPC = "ipc:[4026531839]"

// udevTime is what a udevd gets that is busy with a machine that boots.
const udevTime = 30 * time.Second

// CheckUdev says why LVM must not wait for udev here; nil if it may. What it waits
// for are System V semaphores, and it would wait for ever in a private IPC namespace
// (lvm2 issues 70 and 177), for a udevd that has died, and for one without
// device-mapper's rules: a host that has udev only need not have them. So it tries:
// it makes a device, removes it, and waits for the answer.
func CheckUdev(ctx context.Context) error {
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
	ctx, cancel := context.WithTimeout(ctx, udevTime)
	defer cancel()
	if err := tryCookie(ctx); err != nil {
		return fmt.Errorf("udevd does not tell of device-mapper's devices (95-dm-notify.rules): %w", err)
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

// tried is the device of [tryCookie]. LVM's names have a "-".
const tried = "lamina.udev"

// tryCookie removes a device as libdm does (libdm/libdm-common.c, lvm2 2.03.31) and
// waits until the rules have run "dmsetup udevcomplete".
func tryCookie(ctx context.Context) error {
	c, err := newCookie()
	if err != nil {
		return err
	}
	defer c.remove()
	// ErrInUse: an agent that was killed here has left it.
	if _, _, err := dmCall(dmDevCreateCmd, tried, dmHeader{}, nil); err != nil && !errors.Is(err, ErrInUse) {
		return fmt.Errorf("make %s: %w", tried, err)
	}
	// Since 5.15 a device without a table is none to udev.
	_, _, err = dmCall(dmTableLoadCmd, tried, dmHeader{TargetCount: 1}, encodeTargets([]Target{{Length: 1, Type: "error"}}))
	h, _, rm := dmCall(dmDevRemoveCmd, tried, dmHeader{EventNr: uint32(c.base)}, nil)
	if err := errors.Join(err, rm); err != nil {
		return fmt.Errorf("make and remove %s: %w", tried, err)
	}
	if h.Flags&dmUeventGeneratedFlag == 0 {
		return errors.New("the kernel has sent no event")
	}
	return c.wait(ctx)
}

// cookie is a semaphore whose key is libdm's magic number and, in its lower half,
// what the event carries as DM_COOKIE.
type cookie struct {
	base uint16
	id   uintptr
}

// cookieMagic is DM_COOKIE_MAGIC of libdm.
const cookieMagic = 0x0d4d

// setVal is SETVAL of include/uapi/linux/sem.h.
const setVal = 16

func newCookie() (cookie, error) {
	for {
		base := uint16(1 + rand.N(0xffff))
		id, _, errno := unix.Syscall(unix.SYS_SEMGET, cookieMagic<<16|uintptr(base), 1, unix.IPC_CREAT|unix.IPC_EXCL|0o600)
		if errno == unix.EEXIST {
			continue // somebody else's
		}
		if errno != 0 {
			return cookie{}, fmt.Errorf("make a semaphore: %w", errno)
		}
		c := cookie{base: base, id: id}
		if _, _, errno := unix.Syscall6(unix.SYS_SEMCTL, id, 0, setVal, 1, 0, 0); errno != 0 {
			c.remove()
			return cookie{}, fmt.Errorf("set a semaphore: %w", errno)
		}
		return c, nil
	}
}

// wait returns when the semaphore is zero.
func (c cookie) wait(ctx context.Context) error {
	zero := struct { // struct sembuf
		num     uint16
		op, flg int16
	}{}
	for ctx.Err() == nil {
		// So short that the end of ctx is seen.
		most := unix.NsecToTimespec(int64(100 * time.Millisecond))
		_, _, errno := unix.Syscall6(unix.SYS_SEMTIMEDOP, c.id, uintptr(unsafe.Pointer(&zero)), 1, uintptr(unsafe.Pointer(&most)), 0, 0)
		switch errno {
		case 0:
			return nil
		case unix.EAGAIN, unix.EINTR:
		default:
			return fmt.Errorf("wait for a semaphore: %w", errno)
		}
	}
	return fmt.Errorf("no answer: %w", ctx.Err())
}

func (c cookie) remove() {
	_, _, _ = unix.Syscall(unix.SYS_SEMCTL, c.id, 0, unix.IPC_RMID) // fails only if it is gone
}
