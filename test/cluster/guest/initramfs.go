//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	rootDisk  = "/dev/vda"
	probeTime = 20 * time.Second
)

// enterRoot replaces the initramfs with the root disk and starts its init. It
// returns only if that failed.
func enterRoot() error {
	if err := unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return err
	}
	driver, err := os.Open("/virtio_blk.ko")
	if err != nil {
		return err
	}
	if err := unix.FinitModule(int(driver.Fd()), "", 0); err != nil {
		return fmt.Errorf("load virtio_blk: %w", err)
	}
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if err = unix.Mount(rootDisk, "/newroot", "ext4", 0, ""); err == nil {
			break
		}
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENXIO) || time.Since(start) > probeTime {
			return fmt.Errorf("mount %s: %w", rootDisk, err)
		}
	}
	if err := unix.Mount("/dev", "/newroot/dev", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	// A move of the root mount, as switch_root(8) does it.
	if err := unix.Chdir("/newroot"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Exec("/usr/sbin/node-init", []string{"/usr/sbin/node-init"}, os.Environ())
}
