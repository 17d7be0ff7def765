package lvm

import (
	"context"
	"fmt"
)

// VGCreate describes a volume group to make on blank disks.
type VGCreate struct {
	Group        Group
	Tags         []Tag
	MetadataSize int64 // bytes of each PV's metadata area; it cannot grow later
}

// VGCreate runs vgcreate, which also makes the physical volumes. There is no
// --yes and no --force: with either, LVM wipes a signature that it finds without
// a word. Standard input is empty, so a question is answered with no.
func (c *Client) VGCreate(ctx context.Context, o VGCreate) error {
	args := o.Group.devices()
	args = append(args, "--metadatasize", bytesArg(o.MetadataSize))
	args = append(args, addTags(o.Tags)...)
	// Another host, or the boot scripts of this one, must not activate anything
	// in it: that would show the content of volumes to the host.
	args = append(args, "--setautoactivation", "n", "--", o.Group.Name.s)
	args = append(args, deviceArgs(o.Group.Devices)...)
	return c.change(ctx, o.Group, Command{"vgcreate", args})
}

// VGExtend adds blank disks to the group. The same holds as for [Client.VGCreate].
func (c *Client) VGExtend(ctx context.Context, g Group, disks []DevicePath, metadataSize int64) error {
	all := Group{g.Name, append(append([]DevicePath{}, g.Devices...), disks...), g.Copies}
	args := append(all.devices(), "--metadatasize", bytesArg(metadataSize), "--", g.Name.s)
	return c.change(ctx, all, Command{"vgextend", append(args, deviceArgs(disks)...)})
}

// VGAddTag adds a tag to the group.
func (c *Client) VGAddTag(ctx context.Context, g Group, t Tag) error {
	return c.change(ctx, g, Command{"vgchange", append(g.devices(), "--addtag", t.s, "--", g.Name.s)})
}

func deviceArgs(devs []DevicePath) []string {
	var out []string
	for _, d := range devs {
		out = append(out, d.s)
	}
	return out
}

func addTags(tags []Tag) []string {
	var out []string
	for _, t := range tags {
		out = append(out, "--addtag", t.s)
	}
	return out
}

// bytesArg is a size in bytes, rounded up to sectors; lvm reads "b" as bytes
// (lvm(8), "SIZES") and refuses what is no multiple of 512.
func bytesArg(n int64) string { return fmt.Sprintf("%db", (n+sectorSize-1)/sectorSize*sectorSize) }
