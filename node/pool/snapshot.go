package pool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lamina-csi/lamina/lvm"
)

// Snapshot is a snapshot as its metadata describes it. It is ready as soon as it
// exists and outlives its source.
type Snapshot struct {
	ID      ID
	Name    string // CSI name; empty for the member of a group
	Pool    string
	Source  ID    // the volume, which may be gone
	Size    int64 // bytes that a volume made from it needs at least
	Created time.Time
	Group   ID // zero LV: none
	Block   bool
	FS      string
	Context map[string]string // of the volume
}

// CreateSnapshot makes a snapshot of a volume, or finds the one that an earlier
// call made.
func (m *Manager) CreateSnapshot(ctx context.Context, name string, source ID) (Snapshot, error) {
	lv := snapshotLV(name)
	unlock, err := m.keys.lock(ctx, lv.String())
	if err != nil {
		return Snapshot{}, err
	}
	defer unlock()
	have, err := m.findByLV(lv, source.VG)
	if !errors.Is(err, ErrNotFound) {
		return sameSnapshot(have, err, name, source)
	}
	src, release, err := m.snapshotSource(ctx, source)
	if err != nil {
		return Snapshot{}, fmt.Errorf("snapshot %.80q: %w", name, err)
	}
	defer release()
	tags := src.snapshotTags()
	tags[keyName], tags[keyState] = name, stateReady
	// ErrExists: an earlier call gave up waiting for its lvcreate, which has ended
	// only now.
	if err := m.createSnapshotLV(ctx, src, lv, tags); err != nil && !errors.Is(err, lvm.ErrExists) {
		return Snapshot{}, err
	}
	have, err = m.findByLV(lv, source.VG)
	return sameSnapshot(have, err, name, source)
}

// sameSnapshot is what was found under a snapshot's name, if it is that snapshot.
func sameSnapshot(f found, err error, name string, source ID) (Snapshot, error) {
	switch {
	case err != nil:
		return Snapshot{}, err
	case f.tags[keyKind] != kindSnapshot:
		return Snapshot{}, fmt.Errorf("snapshot %.80q: %w: logical volume %s has that name", name, ErrForeign, f.id())
	case f.tags[keyName] != name || f.snapshot().Source != source:
		return Snapshot{}, fmt.Errorf("snapshot %.80q: %w: it shows volume %s", name, ErrConflict, f.snapshot().Source)
	}
	return f.snapshot(), nil
}

// snapshotSource finds a volume that can be snapshotted, and locks it.
func (m *Manager) snapshotSource(ctx context.Context, id ID) (found, func(), error) {
	src, unlock, err := m.lockSource(ctx, id, kindVolume)
	if err != nil {
		return found{}, nil, err
	}
	if src.lv.Thin == nil {
		unlock()
		return found{}, nil, fmt.Errorf("%s: %w: thick volumes have no snapshots; use a pool in thin mode", id, ErrInvalid)
	}
	r, err := m.room(src.pool)
	if err == nil {
		err = r.refusal
	}
	if err != nil {
		unlock()
		return found{}, nil, fmt.Errorf("pool %s: %w", src.pool.spec.Name, err)
	}
	return src, unlock, nil
}

func (m *Manager) createSnapshotLV(ctx context.Context, src found, lv lvm.LVName, tags tagSet) error {
	if err := m.notSuspended(src); err != nil {
		return err
	}
	n, err := src.pool.newLV(lv, tags)
	if err != nil {
		return err
	}
	err = m.lvm.LVCreateSnapshot(ctx, lvm.LVSnapshot{NewLV: n, Origin: src.lv.Name, ReadOnly: true})
	return wrap(src.pool.full(err), "snapshot %s as %s", src.id(), lv)
}

// notSuspended refuses a source that somebody has suspended: LVM (2.03.31) would
// report a snapshot of it that the kernel never made, and no later change of the
// pool would succeed.
func (m *Manager) notSuspended(src found) error {
	name := lvm.DMName(src.vg.Name, src.lv.Name, "")
	if info, err := m.dm.Info(name); err == nil && info.Suspended {
		return fmt.Errorf("%s: %w: its device is suspended: dmsetup resume %s", src.id(), ErrUnavailable, name)
	}
	return nil
}

// snapshotTags are what a snapshot takes over from its volume.
func (f found) snapshotTags() tagSet {
	s := tagSet{
		keySchema: schema,
		keyKind:   kindSnapshot,
		keySource: f.lv.Name.String(),
		keyClaim:  f.tags[keyClaim],
		keyFS:     f.tags[keyFS],
		keyMode:   f.tags[keyMode],
		keySize:   f.tags[keySize],
	}
	for k, v := range f.tags.context() {
		s[keyContext+"."+k] = v
	}
	return s
}

func (f found) snapshot() Snapshot {
	s := Snapshot{
		ID: f.id(), Name: f.tags[keyName], Pool: f.pool.spec.Name, Size: f.lv.Size, Created: f.lv.Created,
		Block: f.block(), FS: f.tags[keyFS], Context: f.tags.context(),
	}
	if src, err := lvm.ParseLVName(f.tags[keySource]); err == nil {
		s.Source = ID{f.vg.UUID, src}
	}
	if g, err := ParseID(f.tags[keyGroup]); err == nil {
		s.Group = g
	}
	return s
}

// DeleteSnapshot removes a snapshot. One that is known not to exist is no error;
// a member of a group goes with its group only (ErrInvalid).
func (m *Manager) DeleteSnapshot(ctx context.Context, id ID) error {
	return m.remove(ctx, id, kindSnapshot)
}

// GetSnapshot reads a snapshot.
func (m *Manager) GetSnapshot(id ID) (Snapshot, error) {
	f, err := m.find(id, kindSnapshot)
	if err != nil {
		return Snapshot{}, err
	}
	return f.snapshot(), nil
}

// ListSnapshots lists the snapshots of every pool, sorted by id. Members of a
// group that is not complete are left out: nobody was told of them.
func (m *Manager) ListSnapshots() ([]Snapshot, error) {
	list, err := m.all(kindSnapshot)
	if err != nil {
		return nil, err
	}
	var out []Snapshot
	for _, f := range list {
		if f.tags[keyState] == stateReady {
			out = append(out, f.snapshot())
		}
	}
	return out, nil
}
