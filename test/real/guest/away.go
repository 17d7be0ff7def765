//go:build vm

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lamina-csi/lamina/test/agent"
)

// filled leaves volumes for the boot after it.
func filled(ctx context.Context) error {
	f, err := startFaults(ctx, "linear")
	if err != nil {
		return err
	}
	return errors.Join(f.fill(), f.unmount(), f.Stop())
}

// refound asks for the volumes of an earlier boot.
func (f *faults) refound() error {
	list, err := f.ListVolumes(f.ctx, nil)
	if err != nil {
		return err
	}
	for _, e := range list.Entries {
		for _, fs := range []string{"ext4", "xfs"} {
			if e.Volume.VolumeContext["fsType"] == fs {
				f.volumes = append(f.volumes, f.Found(agent.Volume{Volume: e.Volume, Name: fs, FS: fs}))
			}
		}
	}
	if len(f.volumes) != 2 {
		return fmt.Errorf("volumes of the boot before: %v", list.Entries)
	}
	return nil
}

// absent: one of two disks is not there at boot, and comes later.
func absent(ctx context.Context) error {
	f, err := startFaults(ctx, "linear")
	if err != nil {
		return err
	}
	disk, err := bySerial("FAST1")
	if err != nil {
		return err
	}
	if err := f.untouched(disk, func() error {
		return errors.Join(f.awaitHealth("missing-disk", "missing"), f.refused("missing"), f.refound(), f.unstaged("partial"), f.others())
	}); err != nil {
		return err
	}
	return errors.Join(host("insert FAST2"), f.back())
}

// copied: a copy of the pool's disk is there at boot. It is taken away, and plugged in
// again while the volumes are in use.
func copied(ctx context.Context) error {
	f, err := startFaults(ctx, "linear")
	if err != nil {
		return err
	}
	both := func(do func() error) error {
		for _, serial := range []string{"FAST1", "COPY1"} {
			disk, err := bySerial(serial)
			if err != nil {
				return err
			}
			next := do
			do = func() error { return f.untouched(disk, next) }
		}
		return do()
	}
	if err := both(func() error {
		return errors.Join(f.awaitHealth("error", "twice"), f.refused("twice"), f.refound(), f.unstaged("twice"), f.others())
	}); err != nil {
		return err
	}
	mount := func(v agent.Volume) error { return errors.Join(v.Mount(f.ctx), same(v, v.Name)) }
	if err := errors.Join(host("pull COPY1"), f.awaitHealth("ok", ""), f.each(mount), host("insert COPY1"), f.awaitHealth("error", "twice")); err != nil {
		return err
	}
	if err := both(func() error {
		return errors.Join(f.refused("twice"), f.write(), f.others())
	}); err != nil {
		return err
	}
	return errors.Join(host("pull COPY1"), f.awaitHealth("ok", ""), f.unmount(), f.back())
}

// pulled: the pool's only disk is pulled while its volumes are in use, and plugged in again.
func pulled(ctx context.Context) error {
	f, err := startFaults(ctx, "linear")
	if err != nil {
		return err
	}
	if err := errors.Join(f.fill(), host("pull FAST1"), f.failing()); err != nil {
		return err
	}
	if err := errors.Join(f.awaitHealth("error", ""), f.refused(""), f.others(), f.unmount(), host("insert FAST1"), awaitDisk("FAST1")); err != nil {
		return err
	}
	return errors.Join(f.Stop(), typeRunbook("### A disk was away and is back"), f.start(), f.back())
}

// failing waits until writes to the volumes fail.
func (f *faults) failing() error {
	for _, v := range f.volumes {
		for n := 0; ; n++ {
			if f.ctx.Err() != nil {
				return f.ctx.Err()
			}
			if err := put(file(v)+fmt.Sprint(n), content(v.Name)); err != nil {
				fmt.Println("a write that failed:", err)
				break
			}
		}
	}
	return nil
}

// awaitDisk waits until the kernel has found a disk. It looks again and again: there is
// no end to hope for but the disk.
func awaitDisk(serial string) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 1200 {
		if _, err := bySerial(serial); err == nil {
			return nil
		}
		<-tick.C
	}
	return fmt.Errorf("the kernel does not find disk %s", serial)
}
