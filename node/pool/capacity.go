package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/lamina-csi/lamina/lvm"
)

// Capacity is what a pool still admits. What it promises, CreateVolume gives.
type Capacity struct {
	Available int64 // bytes, over all volumes
	Largest   int64 // bytes of the largest single volume
	Smallest  int64 // bytes of the smallest
}

// Capacity tells what the named pool admits; it runs no process.
func (m *Manager) Capacity(name string) (Capacity, error) {
	p, err := m.byName(name)
	if err != nil {
		return Capacity{}, err
	}
	r, err := m.room(p)
	if err != nil {
		return Capacity{}, err
	}
	if r.refusal != nil || !p.wanted {
		return Capacity{Smallest: r.extent}, nil
	}
	free := r.free / r.extent * r.extent
	return Capacity{Available: free, Largest: free, Smallest: r.extent}, nil
}

// room is what a pool has left at one moment.
type room struct {
	extent  int64
	free    int64 // bytes that may still be promised
	layout  lvm.Layout
	refusal error // why nothing at all is admitted
}

// admit refuses what does not fit.
func (r room) admit(size int64) error {
	if r.refusal != nil {
		return r.refusal
	}
	if size > r.free {
		return fmt.Errorf("%w: %d bytes are wanted, %d can be promised", ErrNoSpace, size, max(0, r.free))
	}
	return nil
}

// Limits at which a pool admits nothing more, in percent.
const (
	metadataFullAt   = 70 // thin metadata in use; LVM itself refuses at 75
	textMetadataFree = 20 // of the VG's text metadata area that must stay free
)

// room reads the metadata from the disks and the pool's state from the kernel.
func (m *Manager) room(p *Pool) (room, error) {
	vg, err := m.readVG(p)
	if err != nil {
		return room{}, err
	}
	r := room{extent: vg.ExtentSize}
	if vg.MetadataFree*100 < vg.MetadataSize/2*textMetadataFree {
		r.refusal = fmt.Errorf("%w: less than %d%% of volume group %s's metadata area is free: delete volumes or snapshots", ErrNoSpace, textMetadataFree, vg.Name)
	}
	if err := m.diskFault(p); err != nil && !p.spec.raid() {
		r.refusal = err
	}
	if err := p.group.Copied(); err != nil {
		r.refusal = fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	// LVM changes no group of which it cannot see every disk.
	if missing := len(vg.PVs) - len(p.group.Devices); missing > 0 {
		r.refusal = fmt.Errorf("%w: %d disks of volume group %s are missing", ErrUnavailable, missing, vg.Name)
	}
	if p.spec.Mode == Thick {
		r.layout = layoutFor(p.spec.Layout, len(vg.PVs))
		r.extent *= int64(max(1, r.layout.Stripes)) // LVM rounds up to whole stripes
		r.free = thickFree(vg, r.layout, p.spec.Reserve)
		return r, nil
	}
	pool, ok := vg.LV(thinPoolLV)
	if !ok || pool.Pool == nil {
		return room{}, fmt.Errorf("room in pool %s: %w: volume group %s has no thin pool %s", p.spec.Name, ErrUnavailable, vg.Name, thinPoolLV)
	}
	st, err := m.poolStatus(vg)
	switch {
	case err != nil && r.refusal != nil:
		return r, nil // it is inactive for the same reason
	case errors.Is(err, lvm.ErrNotFound):
		err = errInactive
	}
	if err != nil {
		return room{}, wrap(err, "room in pool %s", p.spec.Name)
	}
	var promised int64
	for i := range vg.LVs {
		if lv := &vg.LVs[i]; lv.Thin != nil && kindOf(lv.Tags) != kindSnapshot {
			promised += lv.Size
		}
	}
	r.free = int64(float64(pool.Size)*p.spec.Overprovision) - promised
	if why := poolRefusal(p.spec, st); why != nil && r.refusal == nil {
		r.refusal = why
	}
	return r, nil
}

// poolRefusal says why a thin pool takes no new volume.
func poolRefusal(s Spec, st lvm.PoolStatus) error {
	switch {
	case st.Mode == lvm.PoolFailed || st.NeedsCheck:
		return fmt.Errorf("%w: the thin pool has failed and needs a repair", ErrUnavailable)
	case st.Mode != lvm.PoolReadWrite:
		return fmt.Errorf("%w: %s", ErrNoSpace, whyFull(st))
	case st.UsedData*100 >= st.AllData*int64(s.FullAt):
		return fmt.Errorf("%w: the thin pool's data is %d%% full (fullAt %d%%): add a disk, or delete volumes or snapshots", ErrNoSpace, st.UsedData*100/max(1, st.AllData), s.FullAt)
	case st.UsedMetadata*100 >= st.AllMetadata*metadataFullAt:
		return fmt.Errorf("%w: the thin pool's metadata is %d%% full: add a disk, or delete snapshots", ErrNoSpace, st.UsedMetadata*100/max(1, st.AllMetadata))
	}
	return nil
}

// whyFull says why a pool takes no writes to new blocks. A lack of metadata makes it
// out_of_data_space too (alloc_data_block() in drivers/md/dm-thin.c), or read-only, and
// then nothing can be deleted in it (pool_message() there).
func whyFull(st lvm.PoolStatus) string {
	if st.Mode == lvm.PoolOutOfSpace && st.UsedData >= st.AllData {
		return "the thin pool has no free block: add a disk, or delete volumes or snapshots"
	}
	return fmt.Sprintf("the thin pool's metadata is full (mode %s): add a disk", st.Mode)
}

// full adds the way out to what LVM says of a pool that has filled since it was asked
// for room.
func (p *Pool) full(err error) error {
	if !errors.Is(err, lvm.ErrNoSpace) {
		return err
	}
	return fmt.Errorf("pool %s is full: %w: add a disk, or delete volumes or snapshots", p.spec.Name, err)
}

// layoutFor spreads a layout over that many disks.
func layoutFor(t lvm.LayoutType, disks int) lvm.Layout {
	switch t {
	case lvm.Striped:
		return lvm.Layout{Type: t, Stripes: disks}
	case lvm.Raid10:
		return lvm.Layout{Type: t, Stripes: disks / 2}
	}
	return lvm.Layout{Type: t}
}

// thickFree is the largest volume of that layout that LVM can still allocate,
// less the reserve. Each leg of a raid also takes an extent for its metadata.
func thickFree(vg *lvm.VG, l lvm.Layout, reserve int) int64 {
	var free []int64
	var size int64
	for _, pv := range vg.PVs {
		free = append(free, pv.Free)
		size += pv.Size
	}
	slices.Sort(free)
	slices.Reverse(free) // largest first
	kept := size / 100 * int64(reserve)
	nth := func(n int) int64 { // free on each of the n emptiest disks
		if n < 1 || n > len(free) {
			return 0
		}
		return free[n-1]
	}
	switch l.Type {
	case lvm.Striped:
		return max(0, nth(l.Stripes)*int64(l.Stripes)-kept)
	case lvm.Raid1:
		return max(0, nth(2)-vg.ExtentSize-kept/2)
	case lvm.Raid10:
		return max(0, (nth(2*l.Stripes)-vg.ExtentSize)*int64(l.Stripes)-kept/2)
	default:
		return max(0, vg.Free()-kept)
	}
}

// admission is held from the check for room until the new volume is in the
// metadata, so that two calls do not get the same room. The function returned
// may be called more than once.
func (p *Pool) admission(ctx context.Context) (release func(), err error) {
	select {
	case p.admit <- struct{}{}:
		var once sync.Once
		return func() { once.Do(func() { <-p.admit }) }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("pool %s: %w: other volumes are being made", p.spec.Name, ErrPending)
	}
}
