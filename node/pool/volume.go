package pool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lamina-csi/lamina/lvm"
)

// Volume is a volume as its metadata describes it.
type Volume struct {
	ID      ID
	Name    string // CSI name
	Pool    string
	Size    int64 // bytes
	Created time.Time
	Block   bool              // raw block volume
	FS      string            // FSNew, FSRaw or the file system type that it was formatted with
	Source  ID                // volume or snapshot that it was made from; zero LV: none
	Context map[string]string // CSI volume context
	Thick   bool
	Limits  string // of I/O, as ParseLimits reads them; "": none
}

// Source is what a volume is made from.
type Source struct {
	ID       ID
	Snapshot bool // else a volume
}

// CreateVolume asks for a volume.
type CreateVolume struct {
	Name     string
	Pool     string
	Required int64 // bytes; 0: 1 GiB, or the size of the source
	Limit    int64 // bytes; 0: none
	Block    bool
	FS       string // FSNew or FSRaw; of a volume that has a source, the source's counts
	Source   *Source
	Claim    string // namespace/name of the claim, for people
	Context  map[string]string
	Limits   Limits // of I/O; those of a volume that exists stay
}

// defaultSize is what a request without a size gets.
const defaultSize = gib

// maxSize keeps the arithmetic on sizes away from overflow; it is far beyond
// what LVM's metadata and dm-thin can address.
const maxSize = int64(1) << 60

// DeleteVolume removes a volume. One that is known not to exist is no error.
func (m *Manager) DeleteVolume(ctx context.Context, id ID) error {
	return m.remove(ctx, id, kindVolume)
}

func (m *Manager) remove(ctx context.Context, id ID, kind string) error {
	unlock, err := m.keys.lock(ctx, id.LV.String())
	if err != nil {
		return err
	}
	defer unlock()
	f, err := m.find(id, kind)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if f.tags[keyGroup] != "" && kind == kindSnapshot {
		return fmt.Errorf("delete %s: %w: it belongs to the group snapshot %s and goes with it", id, ErrInvalid, f.tags[keyGroup])
	}
	return m.removeLV(ctx, f)
}

// removeLV gives the blocks of an active volume back to the disk, so that their
// content does not outlive it there, and removes the LV. What a snapshot or an
// inactive volume held stays on the disk until it is written over; no other volume
// shows it. The kernel discards nothing when a thin device is deleted (message
// "delete", drivers/md/dm-thin-metadata.c), and activating one to discard it would
// be an lvm command more (docs/limits.md, "What stays on the disk").
func (m *Manager) removeLV(ctx context.Context, f found) error {
	if err := m.deletable(f); err != nil {
		return fmt.Errorf("delete %s: %w", f.id(), err)
	}
	info, err := m.device(f)
	switch {
	case errors.Is(err, ErrForeign), errors.Is(err, ErrUnavailable) && !errors.Is(err, lvm.ErrNotFound):
		return fmt.Errorf("delete %w", err) // a discard would hit another's device, or hang
	case err == nil && info.OpenCount > 0:
		return fmt.Errorf("delete %s: %w: its device %s is open; unmount it first", f.id(), ErrBusy, info.Path())
	case err == nil && !f.lv.ReadOnly && m.holdsBlocks(f):
		if err := m.dm.Discard(info.Path()); errors.Is(err, lvm.ErrInUse) {
			return wrap(err, "delete %s", f.id())
		}
		// Any other error: the disk does not discard. The pool zeroes the blocks, and
		// the agent a thick volume, before anybody else sees them.
	}
	err = m.lvm.LVRemove(ctx, f.group(), f.lv.Name)
	if errors.Is(err, lvm.ErrNotFound) {
		// An earlier call gave up waiting for its lvremove, which has ended only now.
		if _, ferr := m.find(f.id(), f.tags[keyKind]); errors.Is(ferr, ErrNotFound) {
			return nil
		}
	}
	return wrap(err, "delete %s", f.id())
}

// deletable refuses a deletion before anything is discarded that LVM would refuse, or the
// kernel once LVM has written it down: a thin pool without metadata, or one that has
// failed, takes no messages.
func (m *Manager) deletable(f found) error {
	if err := f.group().Copied(); err != nil {
		return fmt.Errorf("pool %s: %w: %w", f.pool.spec.Name, ErrUnavailable, err)
	}
	if f.lv.Thin == nil {
		return nil
	}
	st, err := m.poolStatus(f.vg)
	if err != nil || st.Mode == lvm.PoolReadWrite || st.Mode == lvm.PoolOutOfSpace {
		return nil // inactive: LVM activates it first
	}
	why := whyFull(st)
	if st.Mode == lvm.PoolFailed || st.NeedsCheck {
		why = "the thin pool has failed and needs a repair"
	}
	return fmt.Errorf("pool %s: %w: nothing can be deleted now: %s", f.pool.spec.Name, ErrUnavailable, why)
}

// holdsBlocks reports whether a volume may have blocks of the pool; a thick one always
// has. Where it has none its device is better not opened for writing: udevd would look into it
// again, and lvremove wait for that.
func (m *Manager) holdsBlocks(f found) bool {
	st, err := m.lvm.ThinStatus(f.vg.Name, f.lv.Name)
	return err != nil || st.Failed || st.MappedSectors > 0
}

// ExpandVolume makes a volume at least required bytes large.
func (m *Manager) ExpandVolume(ctx context.Context, id ID, required, limit int64) (Volume, error) {
	if required <= 0 && limit <= 0 || required < 0 || limit < 0 || (limit > 0 && limit < required) {
		return Volume{}, fmt.Errorf("expand %s: %w: a size of at least %d and at most %d bytes", id, ErrInvalid, required, limit)
	}
	if required > maxSize {
		return Volume{}, fmt.Errorf("expand %s: %w: %d bytes are more than any pool can hold", id, ErrOutOfRange, required)
	}
	unlock, err := m.keys.lock(ctx, id.LV.String())
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	f, err := m.find(id, kindVolume)
	if err != nil {
		return Volume{}, err
	}
	size, err := roundUp(required, limit, f.vg.ExtentSize)
	if err != nil {
		return Volume{}, fmt.Errorf("expand %s: %w", id, err)
	}
	if f.lv.Thin == nil {
		return m.expandThick(ctx, f, size)
	}
	if f.lv.Size >= size {
		// The answer to an earlier call may have been lost, or the agent's life
		// have ended before the device was reloaded.
		if err := m.lvm.ReloadThin(f.group(), f.lv.Name); err != nil {
			return Volume{}, wrap(err, "expand %s", id)
		}
		return f.volume(), nil
	}
	release, err := m.admitGrowth(ctx, f, size-f.lv.Size)
	if err != nil {
		return Volume{}, err
	}
	defer release()
	return m.growNew(ctx, f, CreateVolume{Required: size})
}

// admitGrowth checks that the pool still has room for that many bytes more, and
// admits nothing else until the caller releases it.
func (m *Manager) admitGrowth(ctx context.Context, f found, more int64) (release func(), err error) {
	release, err = f.pool.admission(ctx)
	if err != nil {
		return nil, err
	}
	room, err := m.room(f.pool)
	if err == nil {
		err = room.admit(more)
	}
	if err != nil {
		release()
		return nil, fmt.Errorf("expand %s in pool %s: %w", f.id(), f.pool.spec.Name, err)
	}
	return release, nil
}

// GetVolume reads a volume.
func (m *Manager) GetVolume(id ID) (Volume, error) {
	return volumeOf(m.find(id, kindVolume))
}

// ListVolumes lists the volumes of every pool, sorted by id.
func (m *Manager) ListVolumes() ([]Volume, error) {
	list, err := m.all(kindVolume)
	if err != nil {
		return nil, err
	}
	var out []Volume
	for _, f := range list {
		out = append(out, f.volume())
	}
	return out, nil
}
