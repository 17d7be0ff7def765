package lvmtest

import "strings"

func (c *call) lvextend() error {
	lvs, err := c.volumes(true)
	if err != nil {
		return err
	}
	if len(lvs) != 1 {
		return usage("lvextend", "one volume is needed")
	}
	l := lvs[0]
	if c.args.has("--poolmetadatasize") {
		return c.extendMetadata(l)
	}
	size, err := c.extents("--size")
	if err != nil {
		return err
	}
	if err := larger(size, l.extents()); err != nil {
		return err
	}
	switch l.first().kind {
	case "thin":
		return c.extendThin(l, size)
	case "thin-pool":
		if err := c.extendData(l, size); err != nil {
			return err
		}
	default:
		if err := c.growBy(l, size-l.extents()); err != nil {
			return err
		}
	}
	return c.extended(l)
}

// extendData grows the metadata first when 64 bytes a chunk would not fit it
// (thin_manip.c, estimate_thin_pool_metadata_size). That is a commit of its own:
// it stays when the data then finds no room.
func (c *call) extendData(l *lv, size int64) error {
	s := l.first()
	want := roundUp(size*extentSize/s.chunk*64, extentSize) / extentSize
	if have := s.meta.extents(); want > have {
		if err := c.growBy(s.meta, want-have); err != nil {
			return err
		}
		if err := c.growSpare(l.vg, want); err != nil {
			return err
		}
		c.h.commit(l.vg, "lvextend")
	}
	if err := c.growBy(s.data, size-l.extents()); err != nil {
		return err
	}
	s.extents = s.data.extents()
	s.checkSpace()
	return nil
}

// larger is lib/metadata/lv_manip.c, _lvresize_adjust_extents().
func larger(size, have int64) error {
	switch {
	case size == have:
		return failed("No size change.")
	case size < have:
		return failed("New size given (%d extents) not larger than existing size (%d extents)", size, have)
	}
	return nil
}

// extendThin needs no extents. With --driverloaded n the kernel is left alone.
func (c *call) extendThin(l *lv, size int64) error {
	pool := l.first().pool
	if c.args.str("--driverloaded") == "n" {
		l.first().extents = size
		c.h.commit(l.vg, "lvextend")
		c.print("  Logical volume %s successfully resized.\n", l.path())
		return nil
	}
	if c.h.poolDevice(pool) != nil {
		if err := pool.first().send(pool.path(), func() error { return nil }); err != nil {
			return err
		}
	}
	l.first().extents = size
	return c.extended(l)
}

func (c *call) extended(l *lv) error {
	c.h.commit(l.vg, "lvextend")
	if err := c.at(Committed); err != nil {
		return err
	}
	c.h.reload(l)
	c.print("  Logical volume %s successfully resized.\n", l.path())
	return nil
}

// growBy extends an LV in the layout that it has.
func (c *call) growBy(l *lv, extents int64) error {
	s := l.first()
	lay := layout{images: 1, stripes: max(1, len(s.stripes))}
	switch s.kind {
	case "raid1":
		lay = layout{raid: s.kind, images: len(s.images), stripes: 1}
	case "raid10":
		lay = layout{raid: s.kind, images: 2, stripes: len(s.images) / 2}
	}
	extents = lay.round(extents)
	need := extents
	if lay.raid != "" {
		need *= int64(lay.images)
	}
	if have := l.vg.free(); have < need {
		return failed("Insufficient free space: %d extents needed, but only %d available", need, have)
	}
	return l.vg.grow(l, lay, extents)
}

func (c *call) extendMetadata(l *lv) error {
	size, err := c.extents("--poolmetadatasize")
	if err != nil {
		return err
	}
	if l.first().kind != "thin-pool" {
		return failed("--poolmetadatasize can be used only with thin pools.")
	}
	meta := l.first().meta
	if err := larger(size, meta.extents()); err != nil {
		return err
	}
	grow := size - meta.extents()
	if have, need := l.vg.free(), grow+c.spareFor(l.vg, size); have < need {
		return failed("Insufficient free space: %d extents needed, but only %d available", need, have)
	}
	if err := c.growBy(meta, grow); err != nil {
		return err
	}
	if err := c.growSpare(l.vg, size); err != nil {
		return err
	}
	l.first().checkSpace()
	return c.extended(l)
}

// lvconvert makes a thin pool of two LVs: the pool takes the name of the first.
func (c *call) lvconvert() error {
	if c.args.str("--type") != "thin-pool" || !c.args.has("--yes") {
		return usage("lvconvert", "only --yes --type thin-pool is known here")
	}
	lvs, err := c.volumes(true)
	if err != nil {
		return err
	}
	v, data := lvs[0].vg, lvs[0]
	group, name, _ := strings.Cut(c.args.str("--poolmetadata"), "/")
	meta := v.find(name)
	if group != v.name || meta == nil || meta == data {
		return notFound(v, name)
	}
	chunk, err := c.args.bytes("--chunksize")
	if err != nil {
		return err
	}
	for _, l := range []*lv{data, meta} {
		if kind := l.first().kind; kind == "thin" || kind == "thin-pool" {
			return failed("Operation not permitted on LV %s type %s.", l.path(), kind)
		}
		if d := c.h.deviceOf(l); d != nil && c.h.openCount(d) > 0 {
			return inUse(l)
		}
	}
	if have, need := v.free(), c.spareFor(v, meta.extents()); have < need {
		return failed("Volume group %q has insufficient free space (%d extents): %d required.", v.name, have, need)
	}
	for _, l := range []*lv{data, meta} {
		if err := c.h.deactivate(l); err != nil {
			return err
		}
	}
	// insert_layer_for_lv(): the pool keeps the LV, its segments move down.
	pool := data
	below := &lv{vg: v, name: pool.name + "_tdata", uuid: c.h.uuid(), segs: pool.segs, created: pool.created}
	v.lvs = append(v.lvs, below)
	rename(below, pool.name, below.name)
	rename(meta, meta.name, pool.name+"_tmeta")
	meta.name, meta.visible, meta.tags = pool.name+"_tmeta", false, nil
	pool.segs = nil
	pool.tags = mergeTags(pool.tags, c.args.values["--addtag"], nil)
	v.drop(pool)
	return c.finishPool(pool, below, meta, chunk)
}

// rename follows a new name in the names of a raid's hidden volumes.
func rename(l *lv, from, to string) {
	for _, child := range l.children() {
		child.name = to + strings.TrimPrefix(child.name, from)
	}
}
