//go:build vm

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/lamina-csi/lamina/lvm"
)

// damaged: the thin metadata of a pool cannot be used any more.
func damaged(ctx context.Context) error {
	f, err := startFaults(ctx, "linear")
	if err != nil {
		return err
	}
	if err := errors.Join(f.fill(), f.unmount(), f.Stop()); err != nil {
		return err
	}
	disk, err := bySerial("FAST1")
	if err != nil {
		return err
	}
	at, err := damageThinMetadata(disk)
	if err != nil {
		return err
	}
	before, err := readAt(disk, at, 4<<20)
	if err != nil {
		return err
	}
	if err := f.start(); err != nil {
		return err
	}
	if err := f.untouched(disk, func() error {
		return errors.Join(f.awaitHealth("error", "Manual repair required"), f.refused("thin"), f.unstaged("Manual repair required"), f.others())
	}); err != nil {
		return err
	}
	after, err := readAt(disk, at, 4<<20)
	if err != nil || !bytes.Equal(before, after) {
		return fmt.Errorf("the damaged metadata was changed (%w)", err)
	}
	if err := f.Stop(); err != nil {
		return err
	}
	if err := typeRunbook("## A thin pool does not activate, or has failed"); err != nil {
		return err
	}
	if err := errors.Join(f.start(), f.back()); err != nil {
		return err
	}
	return lvmDo("lvremove --yes lamina-fast/thinpool_meta0")
}

// damageThinMetadata spoils the block with the root of the data space map: what
// thin_check finds first, and thin_repair can make again of the mappings. It returns
// where the metadata lies on the disk.
func damageThinMetadata(disk string) (at int64, err error) {
	kernel := &lvm.LinuxKernel{}
	if err := lvmDo("lvchange --yes --activate y lamina-fast/thinpool_tmeta"); err != nil {
		return 0, err
	}
	table, err := kernel.Table("lamina--fast-thinpool_tmeta")
	if err != nil || len(table) != 1 {
		return 0, fmt.Errorf("table of the metadata: %v, %w", table, err)
	}
	var sector int64
	if _, err := fmt.Sscanf(strings.Fields(table[0].Params)[1], "%d", &sector); err != nil {
		return 0, err
	}
	if err := lvmDo("lvchange --activate n lamina-fast/thinpool_tmeta"); err != nil {
		return 0, err
	}
	at = sector * 512
	// struct thin_disk_superblock (drivers/md/dm-thin-metadata.c): data_space_map_root lies
	// at 64; struct disk_sm_root (persistent-data/dm-space-map-common.h): bitmap_root at 16.
	super, err := readAt(disk, at, 4096)
	if err != nil {
		return 0, err
	}
	root := int64(binary.LittleEndian.Uint64(super[80:]))
	file, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		return 0, err
	}
	_, err = file.WriteAt(bytes.Repeat([]byte{0xa5}, 4096), at+root*4096)
	return at, errors.Join(err, file.Sync(), file.Close())
}

func readAt(path string, at, size int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, size)
	_, err = f.ReadAt(buf, at)
	return buf, err
}
