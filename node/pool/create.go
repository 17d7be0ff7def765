package pool

import (
	"context"
	"errors"
	"fmt"

	"github.com/lamina-csi/lamina/lvm"
)

// CreateVolume makes a volume, or finds the one that an earlier call made.
func (m *Manager) CreateVolume(ctx context.Context, req CreateVolume) (Volume, error) {
	if req.Required < 0 || req.Limit < 0 || (req.Limit > 0 && req.Limit < req.Required) {
		return Volume{}, fmt.Errorf("create %.80q: %w: a size of at least %d and at most %d bytes", req.Name, ErrInvalid, req.Required, req.Limit)
	}
	if req.Required > maxSize {
		return Volume{}, fmt.Errorf("create %.80q: %w: %d bytes are more than any pool can hold", req.Name, ErrOutOfRange, req.Required)
	}
	if err := req.Limits.check(); err != nil {
		return Volume{}, fmt.Errorf("create %.80q: %w", req.Name, err)
	}
	lv := volumeLV(req.Name)
	unlock, err := m.keys.lock(ctx, lv.String())
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	p, perr := m.byName(req.Pool)
	in := ""
	if perr == nil {
		in = p.uuid
	}
	have, err := m.findByLV(lv, in)
	switch {
	case err == nil:
		return m.resumeCreate(ctx, have, req)
	case !errors.Is(err, ErrNotFound):
		return Volume{}, err
	case perr != nil:
		return Volume{}, perr
	}
	if !p.wanted {
		return Volume{}, fmt.Errorf("create %.80q: %w: pool %s is no longer wanted on this node; its volumes stay, new ones are refused", req.Name, ErrNoSpace, p.spec.Name)
	}
	create := m.createEmpty
	if req.Source != nil {
		create = m.createFrom
	}
	v, err := create(ctx, p, lv, req)
	if errors.Is(err, lvm.ErrExists) {
		// An earlier call gave up waiting for its lvcreate, which has ended only now.
		if have, err := m.findByLV(lv, in); err == nil {
			return m.resumeCreate(ctx, have, req)
		}
	}
	return v, err
}

// resumeCreate answers a call whose LV exists: it fits and is ready, or an
// earlier call was cut short and is brought to its end.
func (m *Manager) resumeCreate(ctx context.Context, f found, req CreateVolume) (Volume, error) {
	differs := func(format string, args ...any) (Volume, error) {
		return Volume{}, fmt.Errorf("create %.80q: %w: %s", req.Name, ErrConflict, fmt.Sprintf(format, args...))
	}
	source := ""
	if req.Source != nil {
		source = req.Source.ID.LV.String()
	}
	switch {
	case f.tags[keyKind] != kindVolume:
		return Volume{}, fmt.Errorf("create %.80q: %w: logical volume %s/%s has that name", req.Name, ErrForeign, f.vg.Name, f.lv.Name)
	case f.tags[keyName] != req.Name:
		return differs("%s has the name of volume %.80q", f.id(), f.tags[keyName])
	case f.pool.spec.Name != req.Pool:
		return differs("it is in pool %s, not %s", f.pool.spec.Name, req.Pool)
	case f.tags[keySource] != source:
		return differs("it was made from %q, not from %q", f.tags[keySource], source)
	case f.block() != req.Block:
		return differs("its volume mode is another")
	case req.Limit > 0 && f.lv.Size > req.Limit:
		return differs("it has %d bytes, at most %d are wanted", f.lv.Size, req.Limit)
	}
	if f.lv.Thin == nil {
		if f.lv.Size < req.Required {
			return differs("it has %d bytes, at least %d are wanted", f.lv.Size, req.Required)
		}
		return volumeOf(m.finishThick(ctx, f))
	}
	if f.lv.Size < req.Required {
		// A volume that was made from a source gets the source's size first and is
		// extended then: a call that was cut in between goes on here.
		if req.Source == nil || f.tags.int(keySize) < req.Required {
			return differs("it has %d bytes, at least %d are wanted", f.lv.Size, req.Required)
		}
		return m.growNew(ctx, f, req)
	}
	// The call may have been cut between its lvextend and the reload of the device.
	if err := m.lvm.ReloadThin(f.group(), f.lv.Name); err != nil {
		return Volume{}, wrap(err, "create %.80q", req.Name)
	}
	return f.volume(), nil
}

// createEmpty makes a volume without a source.
func (m *Manager) createEmpty(ctx context.Context, p *Pool, lv lvm.LVName, req CreateVolume) (Volume, error) {
	release, err := p.admission(ctx)
	if err != nil {
		return Volume{}, err
	}
	defer release()
	room, err := m.room(p)
	if err != nil {
		return Volume{}, err
	}
	size := req.Required
	if size == 0 {
		size = defaultSize
		if req.Limit > 0 {
			size = min(size, req.Limit)
		}
	}
	if size, err = roundUp(size, req.Limit, room.extent); err != nil {
		return Volume{}, fmt.Errorf("create %.80q: %w", req.Name, err)
	}
	if err := room.admit(size); err != nil {
		return Volume{}, fmt.Errorf("create %.80q in pool %s: %w", req.Name, p.spec.Name, err)
	}
	tags := req.tags(size, stateReady)
	if p.spec.Mode == Thick {
		tags[keyState] = stateCreating
	}
	n, err := p.newLV(lv, tags)
	if err != nil {
		return Volume{}, err
	}
	if p.spec.Mode == Thick {
		err = m.lvm.LVCreateThick(ctx, n, size, room.layout)
	} else {
		err = m.lvm.LVCreateThin(ctx, n, thinPoolLV, size)
	}
	if err != nil {
		return Volume{}, wrap(p.full(err), "create %s/%s", p.group.Name, lv)
	}
	release()
	f, err := m.findByLV(lv, p.uuid)
	if err != nil {
		return Volume{}, err
	}
	if p.spec.Mode == Thick {
		return volumeOf(m.finishThick(ctx, f))
	}
	return f.volume(), nil
}

// createFrom makes a thin snapshot of a volume or of a snapshot.
func (m *Manager) createFrom(ctx context.Context, p *Pool, lv lvm.LVName, req CreateVolume) (Volume, error) {
	kind := kindVolume
	if req.Source.Snapshot {
		kind = kindSnapshot
	}
	src, unlock, err := m.lockSource(ctx, req.Source.ID, kind)
	if err != nil {
		return Volume{}, fmt.Errorf("create %.80q: source: %w", req.Name, err)
	}
	defer unlock()
	switch {
	case src.lv.Thin == nil:
		return Volume{}, fmt.Errorf("create %.80q: %w: its source is a thick volume, which cannot be cloned", req.Name, ErrInvalid)
	case src.pool.uuid != p.uuid:
		return Volume{}, fmt.Errorf("create %.80q in pool %s: %w: its source lies in pool %s", req.Name, p.spec.Name, ErrInvalid, src.pool.spec.Name)
	case src.block() != req.Block:
		return Volume{}, fmt.Errorf("create %.80q: %w: its source has the other volume mode", req.Name, ErrInvalid)
	case req.Limit > 0 && src.lv.Size > req.Limit:
		return Volume{}, fmt.Errorf("create %.80q: %w: its source has %d bytes, at most %d are wanted", req.Name, ErrOutOfRange, src.lv.Size, req.Limit)
	}
	if err := m.notSuspended(src); err != nil {
		return Volume{}, err
	}
	size, err := roundUp(max(req.Required, src.lv.Size), req.Limit, src.vg.ExtentSize)
	if err != nil {
		return Volume{}, fmt.Errorf("create %.80q: %w", req.Name, err)
	}
	release, err := p.admission(ctx)
	if err != nil {
		return Volume{}, err
	}
	defer release()
	room, err := m.room(p)
	if err != nil {
		return Volume{}, err
	}
	if err := room.admit(size); err != nil {
		return Volume{}, fmt.Errorf("create %.80q in pool %s: %w", req.Name, p.spec.Name, err)
	}
	tags := req.tags(size, stateReady)
	tags[keySource], tags[keyFS] = src.lv.Name.String(), src.tags[keyFS]
	n, err := p.newLV(lv, tags)
	if err != nil {
		return Volume{}, err
	}
	if err := m.lvm.LVCreateSnapshot(ctx, lvm.LVSnapshot{NewLV: n, Origin: src.lv.Name}); err != nil {
		return Volume{}, wrap(p.full(err), "create %s/%s from %s", p.group.Name, lv, src.lv.Name)
	}
	f, err := m.findByLV(lv, p.uuid)
	if err != nil {
		return Volume{}, err
	}
	if f.lv.Size < size {
		return m.growNew(ctx, f, req)
	}
	return f.volume(), nil
}

// growNew extends a volume that was just made from a smaller source.
func (m *Manager) growNew(ctx context.Context, f found, req CreateVolume) (Volume, error) {
	size, err := roundUp(req.Required, req.Limit, f.vg.ExtentSize)
	if err != nil {
		return Volume{}, err
	}
	if err := m.lvm.LVExtendThin(ctx, f.group(), f.lv.Name, size); err != nil {
		return Volume{}, wrap(err, "extend %s", f.id())
	}
	return volumeOf(m.find(f.id(), kindVolume))
}
