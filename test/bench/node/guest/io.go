package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	ioSpan  = 64 << 20
	ioBar   = 0.98
	ioSmall = 2000 // operations of 4 KiB
	ioLarge = 200  // of 1 MiB
)

// io compares a file on a volume that the agent mounted with the bare device of a
// thin LV, and with a file on a file system made and mounted by hand.
func (b *bench) io(ctx context.Context) error {
	v, err := b.agent.Create(ctx, "fast", b.name(), "ext4", gib, nil)
	if err != nil {
		return err
	}
	if err := v.Mount(ctx); err != nil {
		return err
	}
	bare, hand := b.name(), b.name()
	for _, name := range []string{bare, hand} {
		if err := runLVM(plainLVM, "lvcreate", "-V", "1g", "--thinpool", thinPool, "-n", name, vg); err != nil {
			return err
		}
	}
	const at = "/tmp/hand"
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	dev := "/dev/" + vg + "/" + hand
	if err := run("mkfs.ext4", "-q", dev); err != nil {
		return err
	}
	if err := run("mount", dev, at); err != nil {
		return err
	}
	time.Sleep(time.Minute) // mkfs with its defaults leaves work to the kernel
	b.table.section("Volume I/O, O_DIRECT, one at a time; the mounted volume's speed ÷ another's")
	targets := []string{filepath.Join(v.Target(), "file"), "/dev/" + vg + "/" + bare, filepath.Join(at, "file")}
	var times [3][5]sample
	for i, path := range targets {
		if err := provision(path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for j := range ioKinds {
			times[i][j] = nil
		}
	}
	for range 3 {
		for i, path := range targets {
			for j, k := range ioKinds {
				if err := times[i][j].timed(func() error { return k.do(path) }); err != nil {
					return fmt.Errorf("%s: %w", k.what, err)
				}
			}
		}
	}
	for j, k := range ioKinds {
		ours, device, byHand := times[0][j].median(), times[1][j].median(), times[2][j].median()
		got := float64(device) / float64(ours)
		b.table.judge(k.what+": ÷ the bare thin LV", "≥ 0.98", fmt.Sprintf("%.3f (%s ÷ %s)", got, ms(device), ms(ours)), got >= ioBar)
		b.table.tell(k.what+": ÷ ext4 made and mounted by hand", fmt.Sprintf("%.3f", float64(byHand)/float64(ours)))
	}
	if err := run("umount", at); err != nil {
		return err
	}
	if err := v.Unmount(ctx); err != nil {
		return err
	}
	if err := v.Delete(ctx); err != nil {
		return err
	}
	return b.removeAll([]string{bare, hand})
}

// provision writes all that is read and written later.
func provision(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < ioSpan; off += int64(len(buf)) {
		if _, err := f.WriteAt(buf, off); err != nil {
			return err
		}
	}
	return f.Sync()
}

var ioKinds = []struct {
	what string
	do   func(path string) error
}{
	{"4 KiB random writes", func(p string) error { return transfer(p, ioSmall, 4<<10, true, true, false) }},
	{"4 KiB random reads", func(p string) error { return transfer(p, ioSmall, 4<<10, false, true, false) }},
	{"1 MiB sequential writes", func(p string) error { return transfer(p, ioLarge, 1<<20, true, false, false) }},
	{"1 MiB sequential reads", func(p string) error { return transfer(p, ioLarge, 1<<20, false, false, false) }},
	{"4 KiB writes with fdatasync", func(p string) error { return transfer(p, ioSmall/4, 4<<10, true, true, true) }},
}

func transfer(path string, n, size int, write, random, sync bool) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buf, err := aligned(size)
	if err != nil {
		return err
	}
	defer unix.Munmap(buf) //nolint:errcheck // it was mapped above
	fd := int(f.Fd())
	r := rand.New(rand.NewPCG(3, 4))
	for i := range n {
		off := int64(i*size) % ioSpan
		if random {
			off = r.Int64N(ioSpan/int64(size)) * int64(size)
		}
		if write {
			_, err = unix.Pwrite(fd, buf, off)
		} else {
			_, err = unix.Pread(fd, buf, off)
		}
		if err == nil && sync {
			err = unix.Fdatasync(fd)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
