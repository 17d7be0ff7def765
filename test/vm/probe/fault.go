//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// gone waits until a disk has left, woken by the kernel's events.
func gone(args []string) error {
	name, err := disk(args[0])
	if err != nil {
		return err
	}
	events, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return err
	}
	if err := unix.Bind(events, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return err
	}
	fmt.Println("here")
	buf := make([]byte, 1<<16)
	for {
		_, err := os.Stat(filepath.Join("/dev", name))
		if errors.Is(err, os.ErrNotExist) {
			// The device leaves before its slot is switched off, which is what PullDisk
			// waits for: the machine stays up until the host has seen that too.
			_ = say("gone")
			return nil
		}
		if _, _, err := unix.Recvfrom(events, buf, 0); err != nil {
			return err
		}
	}
}

// tryIO reads and writes a disk once at the start and once after each line
// from the host, and says what came of it.
func tryIO(args []string) error {
	devs, err := devices(args)
	if err != nil {
		return err
	}
	for {
		said := fmt.Sprintf("write %v, read %v, fsync %v",
			direct(devs[0], true), direct(devs[0], false), buffered(devs[0]))
		if say(said) != nil {
			return nil // the host has seen enough
		}
	}
}

// direct moves one block past the page cache.
func direct(dev string, write bool) error {
	fd, err := unix.Open(dev, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// A page from mmap has the alignment that O_DIRECT needs.
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer unix.Munmap(page)
	if write {
		_, err = unix.Pwrite(fd, page, 0)
	} else {
		_, err = unix.Pread(fd, page, 0)
	}
	return err
}

// buffered writes through the page cache, as a file system does.
func buffered(dev string) error {
	f, err := os.OpenFile(dev, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 4096), 1<<20); err != nil {
		return err
	}
	return errors.Unwrap(f.Sync()) // without the path
}

// fill makes a file system on a small disk and writes until it is full.
func fill(args []string) error {
	devs, err := devices(args)
	if err != nil {
		return err
	}
	if err := command("mkfs.ext4", "-q", devs[0]); err != nil {
		return err
	}
	if err := mount(args[0]); err != nil {
		return err
	}
	err = os.WriteFile(mountPoint+"/big", make([]byte, 64<<20), 0o644)
	fmt.Println("full:", errors.Is(err, unix.ENOSPC))
	return nil
}

// hang waits for ever, in a way that the Go runtime does not call a deadlock.
func hang([]string) error {
	fmt.Println("hanging")
	never := make(chan os.Signal, 1)
	signal.Notify(never, unix.SIGUSR1)
	<-never
	return nil
}

func crash([]string) error {
	fmt.Println("crashing")
	return os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
}
