package pool

import (
	"context"
	"errors"
	"fmt"

	"github.com/lamina-csi/lamina/lvm"
)

// loadTargets makes the kernel know what the pool's volumes are made of.
func (m *Manager) loadTargets(s Spec) error {
	targets := []string{}
	if s.Mode == Thin {
		targets = append(targets, "thin-pool")
	}
	if s.Layout == lvm.Raid1 || s.Layout == lvm.Raid10 {
		targets = append(targets, "raid")
	}
	for _, t := range targets {
		if err := m.dm.LoadTarget(t); err != nil {
			return fmt.Errorf("pool %s: %w: %w", s.Name, ErrUnavailable, err)
		}
	}
	return nil
}

// bringUp makes the thin pool if the volume group has none yet, activates it and
// grows it into room that was added.
func (m *Manager) bringUp(ctx context.Context, uuid string) error {
	p, err := m.byVG(uuid)
	if err != nil {
		return err
	}
	if p.spec.Mode == Thick {
		return nil
	}
	if err := m.ensureThinPool(ctx, p); err != nil {
		return err
	}
	vg, err := m.readVG(p)
	if err != nil {
		return fmt.Errorf("activate %w", err)
	}
	if _, err := m.poolStatus(vg); errors.Is(err, lvm.ErrNotFound) {
		if err := m.activatePool(ctx, p); err != nil {
			return err
		}
	} else if err != nil {
		return wrap(err, "activate pool %s", p.spec.Name)
	}
	return m.grow(ctx, p)
}

// activatePool activates the thin pool and mends it. LVM fails where it finds a
// half-made snapshot, and leaves the pool's device active: once that is mended, it
// succeeds.
func (m *Manager) activatePool(ctx context.Context, p *Pool) error {
	err := m.lvm.LVActivate(ctx, p.group, thinPoolLV)
	if merr := m.mend(p); merr != nil {
		return errors.Join(wrap(err, "activate pool %s", p.spec.Name), merr)
	}
	if err != nil {
		err = m.lvm.LVActivate(ctx, p.group, thinPoolLV)
	}
	return wrap(err, "activate pool %s", p.spec.Name)
}

// ensureThinPool makes the thin pool of a new volume group. A group that has
// volumes of ours and no thin pool has lost it: that is for a person.
func (m *Manager) ensureThinPool(ctx context.Context, p *Pool) error {
	vg, err := m.readVG(p)
	if err != nil {
		return err
	}
	lv, ok := vg.LV(thinPoolLV)
	switch {
	case ok && lv.Pool != nil && !lv.Pool.Zero:
		return fmt.Errorf("pool %s: %w: thin pool %s/%s does not zero new blocks, so a volume would show a former one's data: lvchange --zero y", p.spec.Name, ErrForeign, vg.Name, thinPoolLV)
	case ok && lv.Pool != nil:
		return nil
	case ok && kindOf(lv.Tags) != kindPool:
		return fmt.Errorf("pool %s: %w: logical volume %s/%s is no thin pool of ours", p.spec.Name, ErrForeign, vg.Name, thinPoolLV)
	}
	for _, other := range vg.LVs {
		if kindOf(other.Tags) == kindVolume {
			return fmt.Errorf("pool %s: %w: it has volumes such as %s and no thin pool %s; nothing is made in its place", p.spec.Name, ErrUnavailable, other.Name, thinPoolLV)
		}
		if p.spec.Adopt.IsZero() && other.Visible && other.Name != thinPoolLV && other.Name != thinMetaLV {
			return fmt.Errorf("pool %s: %w: volume group %s has a logical volume %s that we did not make", p.spec.Name, ErrForeign, vg.Name, other.Name)
		}
	}
	return m.makeThinPool(ctx, p, vg)
}

// thinMetaLV is the metadata of a thin pool on raid until it is converted.
var thinMetaLV = mustLV("thinpoolmeta")

// makeThinPool gives the thin pool all of the group but the reserve. On raid it
// takes three commands; a crash between them is taken up where it happened.
func (m *Manager) makeThinPool(ctx context.Context, p *Pool, vg *lvm.VG) error {
	layout := layoutFor(p.spec.Layout, len(vg.PVs))
	tags := tagSet{keySchema: schema, keyKind: kindPool}
	n, err := p.newLV(thinPoolLV, tags)
	if err != nil {
		return err
	}
	_, resumed := vg.LV(thinPoolLV)
	data, meta, chunk := thinPoolSizes(p.spec, vg, layout)
	if data < 2*meta && !resumed {
		return fmt.Errorf("pool %s: %w: %d bytes are free in volume group %s, too little for a thin pool", p.spec.Name, ErrNoSpace, vg.Free(), vg.Name)
	}
	if layout.Type == lvm.Linear || layout.Type == lvm.Striped {
		err := m.lvm.LVCreateThinPool(ctx, lvm.ThinPoolCreate{NewLV: n, Size: data, MetadataSize: meta, ChunkSize: chunk, Stripes: layout.Stripes})
		return wrap(err, "make thin pool %s/%s", vg.Name, thinPoolLV)
	}
	if lv, ok := vg.LV(thinPoolLV); ok {
		chunk = p.spec.chunkSize(lv.Size)
		meta = thinMetadataSize(lv.Size, chunk)
	} else if err := m.lvm.LVCreateThick(ctx, n, data, layout); err != nil {
		return wrap(err, "make thin pool %s/%s", vg.Name, thinPoolLV)
	}
	// Its content is lost below: one that we did not make is left alone.
	switch have, ok := vg.LV(thinMetaLV); {
	case ok && kindOf(have.Tags) != kindPool:
		return fmt.Errorf("pool %s: %w: logical volume %s/%s is in the way", p.spec.Name, ErrForeign, vg.Name, thinMetaLV)
	case !ok:
		n.Name = thinMetaLV
		if err := m.lvm.LVCreateThick(ctx, n, meta, lvm.Layout{Type: lvm.Raid1}); err != nil {
			return wrap(err, "make thin pool metadata in %s", vg.Name)
		}
	}
	return wrap(m.lvm.LVConvertThinPool(ctx, p.group, thinPoolLV, thinMetaLV, chunk), "make thin pool %s/%s", vg.Name, thinPoolLV)
}

// thinPoolSizes divides what is free: data, metadata, a spare of the same size
// that LVM keeps for a repair, and the reserve.
func thinPoolSizes(s Spec, vg *lvm.VG, l lvm.Layout) (data, meta, chunk int64) {
	free := thickFree(vg, l, s.Reserve)
	chunk = s.chunkSize(free)
	meta = (thinMetadataSize(free, chunk) + vg.ExtentSize - 1) / vg.ExtentSize * vg.ExtentSize
	width := int64(max(1, l.Stripes))
	// Metadata and spare may lie on one disk, which then has less for each stripe;
	// a raid's metadata has legs and an extent for each leg's own metadata.
	data = free - width*(2*meta+4*vg.ExtentSize)
	unit := vg.ExtentSize * width
	return max(0, data/unit*unit), meta, chunk
}

// When a pool is grown, in percent of use.
const (
	growDataAt     = 80
	growMetadataAt = 60
)

// Grow extends every pool in thin mode whose group has room: its data into what
// the reserve leaves, its metadata before it fills, out of the reserve. It runs
// no process when there is nothing to do.
func (m *Manager) Grow(ctx context.Context) error {
	var errs []error
	for _, p := range m.snapshot() {
		// Behind a command that does not end, the other pools would wait too.
		if _, stuck := m.lvm.Stuck(p.group.Name); p.spec.Mode == Thin && p.wanted && !stuck {
			errs = append(errs, m.grow(ctx, p))
		}
	}
	return errors.Join(errs...)
}

// grow takes big steps, and seldom: LVM suspends the pool and each volume in it
// while it extends. With the kernel's waits expedited that stalls writers for
// milliseconds and not seconds.
func (m *Manager) grow(ctx context.Context, p *Pool) error {
	unlock, err := m.keys.lock(ctx, "grow "+p.uuid)
	if err != nil {
		return err
	}
	defer unlock()
	vg, err := m.readVG(p)
	if err != nil {
		return fmt.Errorf("grow %w", err)
	}
	lv, ok := vg.LV(thinPoolLV)
	if !ok || lv.Pool == nil {
		return nil
	}
	st, err := m.poolStatus(vg)
	if errors.Is(err, lvm.ErrNotFound) {
		return nil // inactive, or LVM is about to change its table: it does not fill
	}
	if err != nil {
		return wrap(err, "grow pool %s", p.spec.Name)
	}
	meta, ok := vg.LV(lv.Pool.Metadata)
	if !ok {
		return fmt.Errorf("grow pool %s: %w: it has no metadata LV", p.spec.Name, ErrUnavailable)
	}
	if st.UsedMetadata*100 >= st.AllMetadata*growMetadataAt && meta.Size < maxThinMetadata {
		// The spare grows with it, and on raid each of the two legs.
		if step := min(meta.Size, maxThinMetadata-meta.Size, vg.Free()/4/vg.ExtentSize*vg.ExtentSize); step >= vg.ExtentSize {
			restore := m.dm.Expedite()
			err := m.lvm.LVExtendPoolMetadata(ctx, p.group, thinPoolLV, meta.Size+step)
			restore()
			if err != nil {
				return wrap(err, "grow the metadata of pool %s", p.spec.Name)
			}
			if vg, err = m.readVG(p); err != nil {
				return fmt.Errorf("grow %w", err)
			}
		}
	}
	l := layoutFor(p.spec.Layout, len(vg.PVs))
	unit := vg.ExtentSize * int64(max(1, l.Stripes))
	more := thickFree(vg, l, p.spec.Reserve) / unit * unit
	filling := st.UsedData*100 >= st.AllData*growDataAt
	if more < unit || !filling && more < lv.Size/20 {
		return nil
	}
	defer m.dm.Expedite()()
	return wrap(m.lvm.LVExtend(ctx, p.group, thinPoolLV, lv.Size+more), "grow pool %s", p.spec.Name)
}
