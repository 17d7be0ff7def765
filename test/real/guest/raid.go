//go:build vm

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/test/agent"
)

// leg: the disk of a raid1 pool that has the pool's spare too is pulled, another one takes
// its place, and then the one that was left is pulled.
func leg(ctx context.Context) error {
	f, err := startFaults(ctx, "raid1")
	if err != nil {
		return err
	}
	if err := f.fill(); err != nil {
		return err
	}
	spare, err := lvmOutput("lvs", "-a", "--noheadings", "-o", "devices", "lamina-fast/lvol0_pmspare")
	if err != nil {
		return err
	}
	disk, err := bySerial("FAST1")
	if err != nil {
		return err
	}
	gone, left := "FAST2", "FAST1"
	if strings.Contains(spare, disk) {
		gone, left = left, gone
	}
	if disk, err = bySerial(left); err != nil {
		return err
	}
	if err := host("pull " + gone); err != nil {
		return err
	}
	if err := f.untouched(disk, func() error {
		return errors.Join(f.write(), f.awaitHealth("missing-disk", ""), f.refused("missing"), f.others(), f.write())
	}); err != nil {
		return err
	}
	if err := errors.Join(host("insert FAST3"), awaitDisk("FAST3")); err != nil {
		return err
	}
	fresh, err := bySerial("FAST3")
	if err != nil {
		return err
	}
	if err := f.AwaitPool(ctx, "extended", func(s *link.PoolStatus) bool {
		return s.GetName() == "fast" && slices.Contains(s.GetDisks(), fresh)
	}); err != nil {
		return err
	}
	// The volumes stay in use all the time.
	if err := errors.Join(f.Stop(), typeRunbook("### A disk of a raid pool is replaced"), f.start()); err != nil {
		return err
	}
	if err := errors.Join(f.awaitHealth("ok", ""), f.write(), f.takesMore(), awaitSync(ctx)); err != nil {
		return err
	}
	if _, err := lvmOutput("lvs", "-a", "lamina-fast/lvol0_pmspare"); err != nil {
		return err
	}
	// Now all is on the new disk too.
	if err := errors.Join(host("pull "+left), f.awaitHealth("missing-disk", ""), f.write(), f.unmount()); err != nil {
		return err
	}
	return errors.Join(f.each(func(v agent.Volume) error {
		return errors.Join(v.Mount(ctx), same(v, v.Name), v.Unmount(ctx))
	}), f.others(), f.Stop())
}

// awaitSync waits until both parts of the pool are on both disks.
func awaitSync(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		out, err := lvmOutput("lvs", "-a", "--noheadings", "-o", "sync_percent", "lamina-fast/thinpool_tdata", "lamina-fast/thinpool_tmeta")
		if err != nil {
			return err
		}
		if strings.Count(out, "100.00") == 2 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the copy has come to %s: %w", out, ctx.Err())
		}
	}
}

// ioErrors: a disk fails every request for a while.
func ioErrors(ctx context.Context) error {
	f, err := startFaults(ctx, "linear")
	if err != nil {
		return err
	}
	if err := errors.Join(f.fill(), host("fail FAST1"), f.failing()); err != nil {
		return err
	}
	if err := errors.Join(f.awaitHealth("error", "cannot be read"), f.refused("cannot be read"), f.others(), f.unmount(), host("heal FAST1")); err != nil {
		return err
	}
	return errors.Join(f.Stop(), typeRunbook("### A disk was away and is back"), f.start(), f.back())
}
