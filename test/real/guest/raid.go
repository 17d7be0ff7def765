//go:build vm

package main

import (
	"context"
	"errors"
	"slices"

	"github.com/lamina-csi/lamina/driver/link"
)

// leg: a disk of a raid1 pool is pulled, another one takes its place.
func leg(ctx context.Context) error {
	f, err := startFaults(ctx, "raid1")
	if err != nil {
		return err
	}
	if err := errors.Join(f.fill(), host("pull FAST2")); err != nil {
		return err
	}
	disk, err := bySerial("FAST1")
	if err != nil {
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
	return errors.Join(f.awaitHealth("ok", ""), f.write(), f.unmount(), f.back())
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
