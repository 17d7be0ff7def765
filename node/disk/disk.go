// Package disk finds the block devices of a node and decides which of them a pool may claim.
//
// It only reads. A disk is vetted as blank when each check proves it; a check that cannot be made is a
// refusal, because absence of proof is not blankness.
package disk

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Disk is one whole block device, as sysfs described it at one moment.
type Disk struct {
	Name      string   // the kernel's name: nvme0n1
	Path      string   // the device node: /dev/nvme0n1
	Model     string   // trimmed; empty when the kernel tells none
	Serial    string   // trimmed; empty when the kernel tells none
	WWN       string   // the kernel's wwid: eui.…, naa.…, uuid.…
	Transport string   // one of Transports, or empty when it is not known
	Links     []string // names under /dev/disk/by-id, and those that udev's rules would give it
	Size      int64    // bytes
	ReadOnly  bool
	Removable bool
	// Rotational is true for spinning disks, and for those of which the kernel does not know better.
	Rotational   bool
	Major, Minor uint32
	// Seq is the kernel's diskseq, which is never used twice; 0 before Linux 5.15.
	Seq uint64
}

// Signature is what blkid found on a device, by its keys TYPE, UUID, USAGE, LABEL and PTTYPE. The zero value
// means that it knows nothing there.
type Signature struct {
	Type, UUID, Usage, Label, PTType string
}

// Prober asks blkid (low-level probing, blkid -p) what a device holds.
type Prober interface {
	// Probe returns the zero Signature only when blkid knows nothing on the device. blkid answers 2 for
	// that and also, in silence, for a device that it cannot open: the latter must come back as an error.
	Probe(ctx context.Context, device string) (Signature, error)
}

// System is where disks are looked for. The zero roots mean /sys, /proc and /dev.
type System struct {
	Sys, Proc, Dev string
	Prober         Prober

	open func(Disk) (*os.File, error) // tests open regular files; nil opens the block device exclusively
}

func (s *System) sys(elem ...string) string  { return join(cmp.Or(s.Sys, "/sys"), elem) }
func (s *System) proc(elem ...string) string { return join(cmp.Or(s.Proc, "/proc"), elem) }
func (s *System) dev(elem ...string) string  { return join(cmp.Or(s.Dev, "/dev"), elem) }

func join(root string, elem []string) string {
	return filepath.Join(append([]string{root}, elem...)...)
}

// List returns every whole block device that could become part of a pool, sorted by name.
//
// Left out are devices that are no disks of the node's own: RAM disks, loop, zram, device-mapper and md
// devices, zvols, bcache, DRBD, RBD, optical and floppy drives, MTD, eMMC boot areas, unattached nbd, and
// the hidden paths of NVMe multipath disks (the disk itself is listed). A disk that is removed during the
// listing is left out too.
func (s *System) List(ctx context.Context) ([]Disk, error) {
	entries, err := os.ReadDir(s.sys("block"))
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	links, err := s.udevLinks()
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var disks []Disk
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("list disks: %w", err)
		}
		if !candidate(e.Name()) || s.hidden(e.Name()) {
			continue
		}
		d, err := s.load(e.Name())
		if vanished(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list disks: %w", err)
		}
		if d.Size == 0 && strings.HasPrefix(d.Name, "nbd") {
			continue
		}
		d.Links = append(links[d.Name], d.Links...)
		slices.Sort(d.Links)
		d.Links = slices.Compact(d.Links)
		disks = append(disks, d)
	}
	slices.SortFunc(disks, func(a, b Disk) int { return strings.Compare(a.Name, b.Name) })
	return disks, nil
}

// notDisks are the kernel's name prefixes of devices that are never a pool's disk.
var notDisks = []string{
	"ram", "loop", "zram", "dm-", "md", "zd", "bcache", "drbd", "rbd", "sr", "fd", "mtdblock",
}

func candidate(name string) bool {
	if strings.HasPrefix(name, "mmcblk") && (strings.Contains(name, "boot") || strings.Contains(name, "rpmb")) {
		return false
	}
	return !slices.ContainsFunc(notDisks, func(p string) bool { return strings.HasPrefix(name, p) })
}

// hidden tells an NVMe multipath path (nvme0c0n1): the kernel makes it a disk without a device node.
func (s *System) hidden(name string) bool {
	return s.attr("block", name, "hidden") == "1"
}

// vanished tells the errors that sysfs gives for a device that is gone: no such file, and no such device
// from an attribute that was opened just before.
func vanished(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENXIO)
}
