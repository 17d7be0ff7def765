package lvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// NewLV is what every new logical volume has.
type NewLV struct {
	Group Group
	Name  LVName
	Tags  []Tag
}

// args are the options that every lvcreate gets. There is no --setautoactivation:
// lvcreate refuses it for pools, thin volumes and raid, so the group has it.
func (n NewLV) args() []string {
	args := append(n.Group.devices(), "--name", n.Name.s)
	return append(args, addTags(n.Tags)...)
}

// active makes a volume active now and never by anybody else's "activate all":
// the skip flag holds also in a group that we adopted and whose autoactivation is
// its owner's.
var active = []string{"--setactivationskip", "y", "--ignoreactivationskip", "--activate", "y"}

// ThinPoolCreate describes a thin pool.
type ThinPoolCreate struct {
	NewLV
	Size         int64 // bytes of data, rounded up to extents
	MetadataSize int64 // bytes; LVM keeps a spare of the same size beside it
	ChunkSize    int64 // bytes, a multiple of 64 KiB
	Stripes      int   // disks that the data is spread over; 0 or 1: linear
}

// LVCreateThinPool makes a thin pool and activates it. New chunks read as zeros,
// discards reach the disk, and a full pool fails writes to new chunks at once
// (lvm.conf, error_when_full: lvcreate refuses the option for it).
func (c *Client) LVCreateThinPool(ctx context.Context, o ThinPoolCreate) error {
	args := append(append(o.args(), active...), "--type", "thin-pool",
		"--size", bytesArg(o.Size), "--poolmetadatasize", bytesArg(o.MetadataSize),
		"--chunksize", bytesArg(o.ChunkSize), "--zero", "y", "--discards", "passdown",
		"--poolmetadataspare", "y")
	if o.Stripes > 1 {
		args = append(args, "--stripes", strconv.Itoa(o.Stripes))
	}
	return c.change(ctx, o.Group, Command{"lvcreate", append(args, "--", o.Group.Name.s)})
}

// LVConvertThinPool turns a volume that nobody has used yet into a thin pool,
// with another one as its metadata: the way to a pool on raid, which lvcreate
// cannot make at once. --yes answers that the content of both is lost.
func (c *Client) LVConvertThinPool(ctx context.Context, g Group, data, metadata LVName, chunkSize int64) error {
	args := append(g.devices(), "--yes", "--type", "thin-pool", "--poolmetadata", g.path(metadata),
		"--chunksize", bytesArg(chunkSize), "--zero", "y", "--discards", "passdown", "--poolmetadataspare", "y",
		"--", g.path(data))
	return c.change(ctx, g, Command{"lvconvert", args})
}

// LVCreateThin makes a thin volume and activates it. Size is in bytes, rounded
// up to extents. The signature check is left out: a new volume of a zeroing pool
// reads as zeros, and reading it would be all that the check does.
func (c *Client) LVCreateThin(ctx context.Context, n NewLV, pool LVName, size int64) error {
	args := append(append(n.args(), active...), "--type", "thin", "--virtualsize", bytesArg(size), "--wipesignatures", "n",
		"--", n.Group.path(pool))
	return c.change(ctx, n.Group, Command{"lvcreate", args})
}

// LVSnapshot describes a thin snapshot of a thin volume.
type LVSnapshot struct {
	NewLV
	Origin LVName
	// ReadOnly makes a snapshot that stays inactive: a clone of an active snapshot
	// can hang in the kernel. Otherwise it is a writable volume, activated at once.
	ReadOnly bool
}

// LVCreateSnapshot makes a thin snapshot. LVM freezes a file system on an active
// origin meanwhile. No size is given: with one it would be a copy-on-write
// snapshot of the old kind.
func (c *Client) LVCreateSnapshot(ctx context.Context, s LVSnapshot) error {
	args := append(s.args(), "--snapshot")
	if s.ReadOnly {
		args = append(args, "--setactivationskip", "y", "--permission", "r")
	} else {
		args = append(append(args, active...), "--permission", "rw")
	}
	return c.change(ctx, s.Group, Command{"lvcreate", append(args, "--", s.Group.path(s.Origin))})
}

// Layout is how a volume lies on its disks.
type Layout struct {
	Type    LayoutType
	Stripes int // striped, raid10: how many disks the data is spread over
}

// LayoutType is a segment type of lvcreate --type.
type LayoutType string

// The layouts, by lvcreate's names.
const (
	Linear  LayoutType = "linear"
	Striped LayoutType = "striped"
	Raid1   LayoutType = "raid1"
	Raid10  LayoutType = "raid10"
)

func (l Layout) args() []string {
	args := []string{"--type", string(l.Type)}
	if l.Type == Striped || l.Type == Raid10 {
		args = append(args, "--stripes", strconv.Itoa(l.Stripes))
	}
	if l.Type == Raid1 || l.Type == Raid10 {
		args = append(args, "--mirrors", "1")
	}
	return args
}

// LVCreateThick makes a volume whose extents are all allocated, and activates
// it. It shows what the extents held before: the caller zeroes it before anybody
// else sees it. --zero n and --wipesignatures n, since LVM would clear 4 KiB only.
func (c *Client) LVCreateThick(ctx context.Context, n NewLV, size int64, l Layout) error {
	args := append(append(n.args(), active...), l.args()...)
	args = append(args, "--size", bytesArg(size), "--zero", "n", "--wipesignatures", "n", "--", n.Group.Name.s)
	return c.change(ctx, n.Group, Command{"lvcreate", args})
}

// LVRemove removes a volume, deactivating it first. --yes answers the question
// about an active volume; one that is open is refused all the same (ErrInUse).
//
// Where an earlier command was killed, LVM's metadata may still hold messages that the
// kernel has obeyed. LVM counts a transaction for the first message in the list only
// (lib/metadata/thin_manip.c, attach_thin_pool_message), so that its message about this
// volume would be no transaction and never be sent: the kernel would keep the thin device,
// and a later volume of that id would show its content. It is deleted here then.
func (c *Client) LVRemove(ctx context.Context, g Group, lv LVName) error {
	cmd := Command{"lvremove", append(g.devices(), "--yes", "--", g.path(lv))}
	return c.changeBy(ctx, g, cmd.Name, func(ctx context.Context) error {
		before, err := c.ReadVG(g)
		_, rerr := c.run(ctx, cmd)
		if err != nil {
			return rerr // what lvm says of it counts
		}
		return errors.Join(rerr, c.deleteLeft(g, before, lv))
	})
}

// deleteLeft deletes the thin device of a volume that LVM has removed, if messages had
// been left in the metadata before.
func (c *Client) deleteLeft(g Group, before *VG, name LVName) error {
	lv, ok := before.LV(name)
	if !ok || lv.Thin == nil {
		return nil
	}
	pool, ok := before.LV(lv.Thin.Pool)
	if !ok || pool.Pool == nil || pool.Pool.Messages == 0 {
		return nil
	}
	after, err := c.ReadVG(g)
	if err != nil {
		return err
	}
	// Another group may have come under the same paths; its devices are none of ours.
	if after.UUID != before.UUID || after.HasThin(pool.Name, lv.Thin.DeviceID) {
		return nil
	}
	return c.DeleteThinDevice(after, pool.Name, lv.Thin.DeviceID)
}

// HasThin reports whether a thin volume of the pool has that device.
func (vg *VG) HasThin(pool LVName, device int64) bool {
	return slices.ContainsFunc(vg.LVs, func(lv LV) bool {
		return lv.Thin != nil && lv.Thin.Pool == pool && lv.Thin.DeviceID == device
	})
}

// DeleteThinDevice deletes a device that no volume of the group has from its pool, if that
// is active. One that is gone is no error.
func (c *Client) DeleteThinDevice(vg *VG, pool LVName, device int64) error {
	lv, ok := vg.LV(pool)
	if !ok || vg.HasThin(pool, device) {
		return fmt.Errorf("delete thin device %d of %s/%s: %w: a volume has it", device, vg.Name, pool, ErrInUse)
	}
	for _, layer := range []string{"tpool", ""} { // a pool without volumes has no layer
		name := DMName(vg.Name, pool, layer)
		info, err := c.kernel.Info(name)
		if isNotFound(err) || err == nil && !strings.HasPrefix(info.UUID, DMUUID(vg, lv)) {
			continue // inactive, or of another group of that name
		}
		if err == nil {
			err = c.kernel.Message(name, fmt.Sprintf("delete %d", device))
		}
		if errors.Is(err, syscall.ENODATA) {
			return nil
		}
		return err
	}
	return nil
}

// LVExtend sets the size of a volume, a pool's data included, in bytes, rounded
// up to extents, and makes it live. For a thin volume use
// [Client.LVExtendThin]: this would suspend the pool and every volume in it.
func (c *Client) LVExtend(ctx context.Context, g Group, lv LVName, size int64) error {
	return c.change(ctx, g, Command{"lvextend", append(g.devices(), "--size", bytesArg(size), "--", g.path(lv))})
}

// LVExtendPoolMetadata sets the size of a pool's metadata, in bytes.
func (c *Client) LVExtendPoolMetadata(ctx context.Context, g Group, pool LVName, size int64) error {
	return c.change(ctx, g, Command{"lvextend", append(g.devices(), "--poolmetadatasize", bytesArg(size), "--", g.path(pool))})
}

// LVExtendThin sets the size of a thin volume in LVM's metadata only, then
// reloads that one device. A plain lvextend suspends the pool and with it every
// active volume: seconds of frozen I/O with 200 of them. A crash between the two
// steps leaves the device smaller than the metadata; [Client.ReloadThin] mends
// that, at start and when the call is repeated.
func (c *Client) LVExtendThin(ctx context.Context, g Group, lv LVName, size int64) error {
	args := append(g.devices(), "--driverloaded", "n", "--size", bytesArg(size), "--", g.path(lv))
	if err := c.change(ctx, g, Command{"lvextend", args}); err != nil {
		return err
	}
	return c.ReloadThin(g, lv)
}

// ReloadThin makes the kernel's device of a thin volume as large as LVM's
// metadata says, if it is active and smaller. It never shrinks a device.
func (c *Client) ReloadThin(g Group, name LVName) error {
	vg, err := c.ReadVG(g)
	if err != nil {
		return err
	}
	lv, ok := vg.LV(name)
	if !ok || lv.Thin == nil {
		return fmt.Errorf("reload %s: %w: no thin volume of that name", g.path(name), ErrNotFound)
	}
	dm := DMName(g.Name, name, "")
	info, err := c.kernel.Info(dm)
	if isNotFound(err) {
		return nil // inactive: activation will load the right table
	}
	if err != nil {
		return err
	}
	if info.UUID != DMUUID(vg, lv) {
		return fmt.Errorf("reload %s: %w: device %s is of another volume group of that name", g.path(name), ErrInvalid, dm)
	}
	table, err := c.kernel.Table(dm)
	if isNotFound(err) || err == nil && len(table) == 0 {
		return nil // gone, or lvm was killed before it loaded a table: the same
	}
	if err != nil {
		return err
	}
	if len(table) != 1 || table[0].Type != "thin" {
		return fmt.Errorf("reload %s: %w: its device is no thin device", g.path(name), ErrInvalid)
	}
	if want := uint64(lv.Size / sectorSize); table[0].Length < want {
		table[0].Length = want
		if err := c.loadThin(g.Name, lv, table); err != nil {
			return err
		}
		return c.kernel.Resume(dm)
	}
	return nil
}

// loadThin loads a thin device's table. The kernel refuses that while the pool is being
// suspended, or is (drivers/md/dm-thin.c, thin_ctr()), as somebody else's lvm command
// has it for moments; what it shows of the pool does not tell the first.
func (c *Client) loadThin(vg VGName, lv *LV, table []Target) error {
	err := c.kernel.Load(DMName(vg, lv.Name, ""), table, lv.ReadOnly)
	if errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("%w: %w: another lvm command may have the thin pool suspended", ErrPending, err)
	}
	return err
}

// LVChangeTags adds and removes tags of a volume in one commit.
func (c *Client) LVChangeTags(ctx context.Context, g Group, lv LVName, add, del []Tag) error {
	args := append(g.devices(), addTags(add)...)
	for _, t := range del {
		args = append(args, "--deltag", t.s)
	}
	return c.change(ctx, g, Command{"lvchange", append(args, "--", g.path(lv))})
}

// LVActivate makes volumes of one group usable on this host, those with the
// activation-skip flag included.
func (c *Client) LVActivate(ctx context.Context, g Group, lvs ...LVName) error {
	args := append(g.devices(), "--activate", "y", "--ignoreactivationskip", "--")
	return c.change(ctx, g, Command{"lvchange", append(args, g.paths(lvs)...)})
}

// LVDeactivate takes volumes off this host; an open one is refused (ErrInUse). It
// changes nothing on the disks, so a copy of one does not stop it.
func (c *Client) LVDeactivate(ctx context.Context, g Group, lvs ...LVName) error {
	g.Copies = nil
	args := append(g.devices(), "--activate", "n", "--")
	return c.change(ctx, g, Command{"lvchange", append(args, g.paths(lvs)...)})
}

// LVRefresh reloads a volume's tables from the metadata and resumes it.
func (c *Client) LVRefresh(ctx context.Context, g Group, lv LVName) error {
	return c.change(ctx, g, Command{"lvchange", append(g.devices(), "--refresh", "--", g.path(lv))})
}

func (g Group) paths(lvs []LVName) []string {
	var out []string
	for _, lv := range lvs {
		out = append(out, g.path(lv))
	}
	return out
}
