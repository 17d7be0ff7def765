package lvmtest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lamina-csi/lamina/lvm"
)

func (c *call) lvcreate() error {
	if len(c.args.pos) != 1 {
		return usage("lvcreate", "one positional argument is needed")
	}
	group, target, _ := strings.Cut(c.args.pos[0], "/")
	name := c.args.str("--name")
	if _, err := lvm.ParseLVName(name); err != nil {
		return &failure{exitInvalid, []string{
			fmt.Sprintf("Names including %q are reserved. Please choose a different LV name.", name),
			"Run `lvcreate --help' for more information.",
		}}
	}
	v, err := c.group(group, true)
	if err != nil {
		return err
	}
	if v.find(name) != nil {
		return failed("Logical Volume %q already exists in volume group %q", name, v.name)
	}
	if err := v.roomFor(600 + len(strings.Join(c.args.values["--addtag"], "______"))); err != nil {
		return err
	}
	l := c.newLV(v, name)
	switch kind := c.args.str("--type"); {
	case c.args.has("--snapshot"):
		return c.createSnapshot(l, target)
	case kind == "thin":
		return c.createThin(l, target)
	case kind == "thin-pool":
		return c.createPool(l)
	case kind == "linear" || kind == "striped" || kind == "raid1" || kind == "raid10":
		return c.createThick(l, kind)
	default:
		return usage("lvcreate", "type "+kind)
	}
}

func (c *call) newLV(v *vg, name string) *lv {
	return &lv{
		vg: v, name: name, uuid: c.h.uuid(), visible: true, created: c.h.tick(),
		tags:           mergeTags(nil, c.args.values["--addtag"], nil),
		readOnly:       strings.HasPrefix(c.args.str("--permission"), "r") && c.args.str("--permission") != "rw",
		skipActivation: c.args.str("--setactivationskip") == "y",
	}
}

// tick is a clock of the host's own: creation times differ and are the same in
// every run.
func (h *Host) tick() time.Time {
	h.now = h.now.Add(time.Second)
	return h.now
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// size reads a size option in extents, rounded up with LVM's remark.
func (c *call) extents(option string) (int64, error) {
	n, err := c.args.bytes(option)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, usage(c.cmd.Name, option+" is missing")
	}
	if n%extentSize != 0 {
		c.print("  Rounding up size to full physical extent %d.00 MiB\n", roundUp(n, extentSize)/mib)
	}
	return roundUp(n, extentSize) / extentSize, nil
}

func (c *call) layout(kind string) (layout, error) {
	stripes, err := c.args.count("--stripes")
	if err != nil {
		return layout{}, err
	}
	mirrors := 0
	if c.args.has("--mirrors") {
		if mirrors, err = c.args.count("--mirrors"); err != nil {
			return layout{}, err
		}
	}
	l := layout{images: mirrors + 1, stripes: stripes}
	if strings.HasPrefix(kind, "raid") {
		l.raid = kind
	}
	if (l.images > 1) != (l.raid != "") {
		return layout{}, usage("lvcreate", "mirrors do not fit type "+kind)
	}
	return l, nil
}

func (c *call) createThick(l *lv, kind string) error {
	if c.args.str("--zero") != "n" || c.args.str("--wipesignatures") != "n" {
		return usage("lvcreate", "a thick volume without --zero n --wipesignatures n")
	}
	extents, err := c.extents("--size")
	if err != nil {
		return err
	}
	lay, err := c.layout(kind)
	if err != nil {
		return err
	}
	if err := l.vg.grow(l, lay, lay.round(extents)); err != nil {
		return err
	}
	l.vg.lvs = append(l.vg.lvs, l)
	c.h.commit(l.vg, "lvcreate")
	if err := c.at(Inactive); err != nil {
		return err
	}
	if _, err := c.h.activate(l); err != nil {
		return err
	}
	c.print("  Logical volume %q created.\n", l.name)
	return nil
}

// grow adds extents to an LV, which may be new. Nothing changes on an error.
func (v *vg) grow(l *lv, lay layout, extents int64) error {
	images, err := v.allocate(lay, extents)
	if err != nil {
		return err
	}
	if lay.raid == "" {
		l.append(images[0])
		return nil
	}
	if len(l.segs) > 0 {
		s := l.first()
		s.extents += extents
		for i, segs := range images {
			s.images[i].append(segs)
		}
		return nil
	}
	s := &segment{kind: lay.raid, extents: extents}
	for i, segs := range images {
		// The image's metadata, one extent, lies on the same disk.
		image := &lv{vg: v, name: fmt.Sprintf("%s_rimage_%d", l.name, i), uuid: l.uuid[:30] + fmt.Sprintf("i%d", i), segs: segs, created: l.created}
		meta := &lv{vg: v, name: fmt.Sprintf("%s_rmeta_%d", l.name, i), uuid: l.uuid[:30] + fmt.Sprintf("m%d", i), created: l.created}
		s.images, s.metas = append(s.images, image), append(s.metas, meta)
		v.lvs = append(v.lvs, image)
	}
	for i, meta := range s.metas {
		home := s.images[i].segs[0].stripes[0].pv
		j := slices.IndexFunc(v.freeRuns(), func(r run) bool { return r.pv == home })
		if j < 0 {
			v.drop(s.images...)
			v.drop(s.metas...)
			return failed("Insufficient suitable allocatable extents for logical volume %s: 1 more required", l.name)
		}
		meta.segs = []*segment{{kind: "striped", extents: 1, stripes: []area{v.freeRuns()[j].area}}}
		v.lvs = append(v.lvs, meta)
	}
	l.segs = []*segment{s}
	return nil
}

func (v *vg) drop(lvs ...*lv) {
	v.lvs = slices.DeleteFunc(v.lvs, func(l *lv) bool { return slices.Contains(lvs, l) })
}

// append joins a segment that continues the last one, as LVM does.
func (l *lv) append(segs []*segment) {
	for _, s := range segs {
		if n := len(l.segs); n > 0 {
			last := l.segs[n-1]
			if len(last.stripes) == 1 && len(s.stripes) == 1 && last.stripes[0].pv == s.stripes[0].pv &&
				last.stripes[0].pe+last.extents == s.stripes[0].pe {
				last.extents += s.extents
				continue
			}
		}
		l.segs = append(l.segs, s)
	}
}

func (c *call) createPool(l *lv) error {
	data, err := c.extents("--size")
	if err != nil {
		return err
	}
	meta, err := c.extents("--poolmetadatasize")
	if err != nil {
		return err
	}
	chunk, err := c.args.bytes("--chunksize")
	if err != nil {
		return err
	}
	if chunk%(64<<10) != 0 {
		return usage("lvcreate", "Chunk size must be a multiple of 64 KiB.")
	}
	lay, err := c.layout("thin-pool")
	if err != nil {
		return err
	}
	v := l.vg
	hidden := func(suffix string) *lv {
		return &lv{vg: v, name: l.name + suffix, uuid: c.h.uuid(), created: l.created}
	}
	d, m := hidden("_tdata"), hidden("_tmeta")
	if have, need := v.free(), lay.round(data)+meta+c.spareFor(v, meta); have < need {
		return failed("Volume group %q has insufficient free space (%d extents): %d required.", v.name, have, need)
	}
	if err := v.grow(m, layout{images: 1, stripes: 1}, meta); err != nil {
		return err
	}
	v.lvs = append(v.lvs, m)
	if err := v.grow(d, lay, lay.round(data)); err != nil {
		v.drop(m)
		return err
	}
	v.lvs = append(v.lvs, d)
	return c.finishPool(l, d, m, chunk)
}

// finishPool makes the pool of its two parts, and the spare for a repair.
func (c *call) finishPool(l, data, meta *lv, chunk int64) error {
	v := l.vg
	if err := c.growSpare(v, meta.extents()); err != nil {
		return err
	}
	l.segs = []*segment{{
		kind: "thin-pool", extents: data.extents(), data: data, meta: meta, chunk: chunk,
		discards: c.args.str("--discards"), zero: c.args.str("--zero") != "n", kernel: newThinPool(c.h.raise),
	}}
	if l.first().discards == "" {
		l.first().discards = "passdown"
	}
	if v.find(l.name) == nil {
		v.lvs = append(v.lvs, l)
	}
	c.h.commit(v, c.cmd.Name)
	if err := c.at(Inactive); err != nil {
		return err
	}
	if _, err := c.h.activate(l); err != nil {
		return err
	}
	c.print("  Logical volume %q created.\n", l.name)
	return nil
}

// spareFor is how many extents lvol0_pmspare must grow by.
func (c *call) spareFor(v *vg, meta int64) int64 {
	if c.args.str("--poolmetadataspare") == "n" {
		return 0
	}
	if spare := v.find("lvol0_pmspare"); spare != nil {
		return max(0, meta-spare.extents())
	}
	return meta
}

func (c *call) growSpare(v *vg, meta int64) error {
	n := c.spareFor(v, meta)
	if n == 0 {
		return nil
	}
	spare := v.find("lvol0_pmspare")
	if spare == nil {
		spare = &lv{vg: v, name: "lvol0_pmspare", uuid: c.h.uuid(), created: c.h.tick()}
		if err := v.grow(spare, layout{images: 1, stripes: 1}, n); err != nil {
			return err
		}
		v.lvs = append(v.lvs, spare)
		return nil
	}
	return v.grow(spare, layout{images: 1, stripes: 1}, n)
}
