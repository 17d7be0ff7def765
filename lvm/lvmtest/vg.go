package lvmtest

import (
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"github.com/lamina-csi/lamina/lvm"
)

const (
	mib        = 1 << 20
	extentSize = 4 * mib
	sectorSize = 512
)

// vg is a volume group as its newest metadata says.
type vg struct {
	name, uuid     string
	seqno          int64
	tags           []string
	autoactivation bool
	pvs            []*pv
	lvs            []*lv
	raw            lvm.RawMetadata
}

// pv is a physical volume of a VG.
type pv struct {
	key     string // pv0 …, its name within the text
	uuid    string
	disk    *disk
	peStart int64 // bytes
	peCount int64
	missing bool // the MISSING flag, set by the first commit without it
}

func (v *vg) find(name string) *lv {
	i := slices.IndexFunc(v.lvs, func(l *lv) bool { return l.name == name })
	if i < 0 {
		return nil
	}
	return v.lvs[i]
}

// partial reports whether a PV is away.
func (v *vg) partial() bool {
	return slices.ContainsFunc(v.pvs, func(p *pv) bool { return p.away() })
}

func (p *pv) away() bool { return p.missing || p.disk.missing }

// addPV makes a PV of a blank disk. The metadata area begins after the label, at
// 4 KiB, and ends where the extents begin, at a multiple of 1 MiB.
func (h *Host) addPV(v *vg, d *disk, metadataSize int64) {
	start := (4096 + metadataSize + mib - 1) / mib * mib
	d.vg, d.areaSize = v, start-4096
	v.pvs = append(v.pvs, &pv{
		key:     fmt.Sprintf("pv%d", len(v.pvs)),
		uuid:    h.uuid(),
		disk:    d,
		peStart: start,
		peCount: (d.size - start) / extentSize,
	})
}

// commit writes the metadata to every PV that is there.
func (h *Host) commit(v *vg, by string) {
	v.seqno++
	for _, p := range v.pvs {
		p.missing = p.missing || p.disk.missing
	}
	text := h.render(v, by)
	area := v.areaSize()
	// The text follows the former one in a circular buffer, at a sector's start.
	offset := (v.raw.Generation.Offset + v.raw.Generation.Size + sectorSize - 1) / sectorSize * sectorSize
	if offset == 0 || offset >= uint64(area) {
		offset = sectorSize
	}
	v.raw = lvm.RawMetadata{
		Generation: lvm.Generation{Offset: offset, Size: uint64(len(text)), Checksum: crc32.ChecksumIEEE(text)},
		AreaSize:   area,
		Text:       text,
	}
	for _, p := range v.pvs {
		if !p.away() && !p.disk.failing {
			p.disk.raw, p.disk.rawVG = v.raw, v.name
		}
	}
}

func (v *vg) areaSize() int64 {
	area := v.pvs[0].disk.areaSize
	for _, p := range v.pvs {
		area = min(area, p.disk.areaSize)
	}
	return area
}

// roomFor refuses a change when the text that grows by so many bytes would not
// fit the metadata area twice (lib/format_text/format-text.c).
func (v *vg) roomFor(bytes int) error {
	area := v.areaSize() - sectorSize
	size := int64(len(v.raw.Text) + bytes)
	if size*2 <= area {
		return nil
	}
	return failed("VG %s metadata on %s (%d bytes) too large for circular buffer (%d bytes with %d used)",
		v.name, v.pvs[0].disk.path, size, area, len(v.raw.Text)).and("Failed to write VG %s.", v.name)
}

// group finds the VG that a command is about. A command that changes data layout
// is refused while a PV is away (lib/metadata/metadata.c, vg_read).
func (c *call) group(name string, needAll bool) (*vg, error) {
	v := c.h.vgs[name]
	devices := c.args.devices()
	seen := v != nil && slices.ContainsFunc(v.pvs, func(p *pv) bool {
		return !p.disk.missing && !p.disk.failing && (devices == nil || devices[p.disk.path])
	})
	if !seen {
		return nil, failed("Volume group %q not found", name).and("Cannot process volume group %s", name)
	}
	away := slices.ContainsFunc(v.pvs, func(p *pv) bool {
		return p.away() || p.disk.failing || devices != nil && !devices[p.disk.path]
	})
	if needAll && away {
		return nil, failed("Cannot change VG %s while PVs are missing.", name).
			and("See vgreduce --removemissing and vgextend --restoremissing.").
			and("Cannot process volume group %s", name)
	}
	return v, nil
}

// blank finds the disks to make PVs of, and refuses all if one cannot be taken.
func (c *call) blank(paths []string) ([]*disk, error) {
	devices := c.args.devices()
	var out []*disk
	for _, path := range paths {
		d := c.h.disks[path]
		switch {
		case d == nil || d.missing || devices != nil && !devices[path]:
			return nil, failed("No device found for %s.", path)
		case d.failing:
			return nil, failed("Error reading device %s at 0 length 4096.", path).and("No device found for %s.", path)
		case d.vg != nil:
			return nil, failed("Physical volume '%s' is already in volume group '%s'", path, d.vg.name).
				and("Unable to add physical volume '%s' to volume group '%s'", path, d.vg.name).
				and("%s: physical volume not initialized.", path)
		case d.signature != "":
			return nil, failed("WARNING: %s signature detected on %s at offset 0. Wipe it? [y/n]: [n]", d.signature, path).
				and("Aborted wiping of %s.", d.signature).
				and("1 existing signature left on the device.").
				and("Failed to wipe signatures on %s.", path)
		case d.size < 2*extentSize:
			return nil, failed("Device %s is too small.", path)
		}
		out = append(out, d)
	}
	return out, nil
}

func (c *call) vgcreate() error {
	if len(c.args.pos) < 2 {
		return usage("vgcreate", "a name and physical volumes are needed")
	}
	name := c.args.pos[0]
	if _, err := lvm.ParseVGName(name); err != nil {
		return &failure{exitInvalid, []string{"New volume group name \"" + name + "\" is invalid."}}
	}
	size, err := c.args.bytes("--metadatasize")
	if err != nil {
		return err
	}
	if c.h.vgs[name] != nil {
		for _, d := range c.h.devices {
			if d.lv.vg == c.h.vgs[name] && d.lv.visible {
				return &failure{exitInvalid, []string{
					"/dev/" + name + ": already exists in filesystem", "Run `vgcreate --help' for more information.",
				}}
			}
		}
		return failed("A volume group called %s already exists.", name)
	}
	disks, err := c.blank(c.args.pos[1:])
	if err != nil {
		return err
	}
	v := &vg{
		name: name, uuid: c.h.uuid(), tags: mergeTags(nil, c.args.values["--addtag"], nil),
		autoactivation: c.args.str("--setautoactivation") != "n",
	}
	for _, d := range disks {
		c.h.addPV(v, d, max(size, mib-4096))
		c.print("  Physical volume %q successfully created.\n", d.path)
	}
	c.h.vgs[name] = v
	c.h.commit(v, "vgcreate")
	c.print("  Volume group %q successfully created\n", name)
	return nil
}

func (c *call) vgextend() error {
	if len(c.args.pos) < 2 {
		return usage("vgextend", "a name and physical volumes are needed")
	}
	v, err := c.group(c.args.pos[0], false)
	if err != nil {
		return err
	}
	if v.partial() {
		return failed("Cannot change VG %s while PVs are missing.", v.name).
			and("See vgreduce --removemissing and vgextend --restoremissing.")
	}
	size, err := c.args.bytes("--metadatasize")
	if err != nil {
		return err
	}
	disks, err := c.blank(c.args.pos[1:])
	if err != nil {
		return err
	}
	for _, d := range disks {
		c.h.addPV(v, d, max(size, mib-4096))
		c.print("  Physical volume %q successfully created.\n", d.path)
	}
	c.h.commit(v, "vgextend")
	c.print("  Volume group %q successfully extended\n", v.name)
	return nil
}

func (c *call) vgchange() error {
	v, err := c.group(c.args.vg(), true)
	if err != nil {
		return err
	}
	if c.args.str("--activate") == "y" {
		for _, l := range v.lvs {
			if l.visible && !l.skipActivation {
				if _, err := c.h.activate(l); err != nil {
					return err
				}
			}
		}
		return nil
	}
	v.tags = mergeTags(v.tags, c.args.values["--addtag"], nil)
	c.h.commit(v, "vgchange")
	c.print("  Volume group %q successfully changed\n", v.name)
	return nil
}

// mergeTags adds and removes; LVM keeps tags in the order they were added.
func mergeTags(have, add, del []string) []string {
	out := slices.Clone(have)
	for _, t := range add {
		if !slices.Contains(out, t) {
			out = append(out, t)
		}
	}
	return slices.DeleteFunc(out, func(t string) bool { return slices.Contains(del, t) })
}

// AddForeignVG makes a volume group, with one thick LV named data, that somebody
// else made on blank disks which were added before.
func (h *Host) AddForeignVG(name string, tags []string, paths ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := &vg{name: name, uuid: h.uuid(), tags: tags, autoactivation: true}
	for _, p := range paths {
		h.addPV(v, h.disks[p], mib-4096)
	}
	l := &lv{vg: v, name: "data", uuid: h.uuid(), visible: true, created: h.tick()}
	areas, err := v.allocate(layout{images: 1, stripes: 1}, 4)
	if err != nil {
		panic("lvmtest: foreign group " + name + ": " + err.Error())
	}
	l.segs = areas[0]
	v.lvs = append(v.lvs, l)
	h.vgs[name] = v
	h.commit(v, "lvcreate "+strings.Join(paths, " "))
}
