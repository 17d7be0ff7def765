package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// settle is how long the kernel must have been quiet about disks before they are
// looked at: a disk that appears sends several events.
const settle = time.Second

// watchDisks makes a reconciliation due when the kernel reports a disk, or a module
// that pools may have waited for
// (netlink(7), NETLINK_KOBJECT_UEVENT; a pod's network namespace gets block
// events too, lib/kobject_uevent.c, uevent_net_broadcast_untagged). Without
// events the resync finds new disks later.
func (a *Agent) watchDisks(ctx context.Context, events *os.File) {
	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer stop()
	defer events.Close()
	timer := time.AfterFunc(settle, a.poke)
	timer.Stop() // until there is an event
	defer timer.Stop()
	buf := make([]byte, 64<<10)
	for {
		n, err := events.Read(buf)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !isOverrun(err) {
			a.log.Warn("no more events of new disks", "error", err)
			return
		}
		if err != nil || diskEvent(buf[:n]) || moduleEvent(buf[:n]) {
			timer.Reset(settle)
		}
	}
}

func openUevents() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("uevent socket: %w", err)
	}
	// Group 1 is the kernel's own; udevd's is 2.
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("uevent socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "uevent"), nil
}

// isOverrun: events were lost, so anything may have happened.
func isOverrun(err error) bool { return errors.Is(err, unix.ENOBUFS) }

// moduleEvent reports whether a device-mapper module was loaded: "add@/module/dm_thin_pool\x00…"
// (mod_sysfs_setup() in kernel/module/sysfs.c).
func moduleEvent(msg []byte) bool { return bytes.HasPrefix(msg, []byte("add@/module/dm_")) }

// diskEvent reports whether a uevent is about a whole disk that a pool might
// have: "add@/devices/…\x00ACTION=add\x00SUBSYSTEM=block\x00DEVTYPE=disk\x00…".
// The volumes that LVM makes are disks to the kernel too and are passed over.
func diskEvent(msg []byte) bool {
	block, disk, virtual := false, false, false
	for _, field := range bytes.Split(msg, []byte{0}) {
		switch string(field) {
		case "SUBSYSTEM=block":
			block = true
		case "DEVTYPE=disk":
			disk = true
		}
		virtual = virtual || bytes.HasPrefix(field, []byte("DEVPATH=/devices/virtual/"))
	}
	return block && disk && !virtual
}
