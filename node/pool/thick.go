package pool

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/lamina-csi/lamina/lvm"
)

// The extents of a thick volume hold what was written to them before, perhaps by
// another tenant. So what a volume gains is zeroed before it is handed out, and a
// tag says so before the extents are taken: all of a volume that is creating, what
// lies beyond lamina.size of one that is growing. Nothing else is ever zeroed: a
// tag that is missing, or a volume that an administrator has extended, is no proof
// that nobody's data lies there.
//
// Whoever hands out a thick volume calls finishThick first, so that a crash
// between an lvm command and the end of the zeroing is mended there.

// zeroed is up to where the volume is its tenant's already.
func (f found) zeroed() (int64, error) {
	switch size := f.tags.int(keySize); f.tags[keyState] {
	case stateCreating:
		return 0, nil
	case stateGrowing:
		if size <= 0 {
			return 0, fmt.Errorf("%s: %w: it was being extended, and its tag lamina.size, which says what is in use, is not readable", f.id(), ErrUnavailable)
		}
		return size, nil
	}
	return f.lv.Size, nil
}

// finishThick zeroes what a thick volume has beyond its zeroed part and records
// it. It costs nothing when all is done.
func (m *Manager) finishThick(ctx context.Context, f found) (found, error) {
	from, err := f.zeroed()
	// A growing volume may be here before its lvextend, which still runs: it stays
	// marked, so that what comes is zeroed.
	if err != nil || from >= f.lv.Size {
		return f, err
	}
	path, err := m.activate(ctx, f)
	if err != nil {
		return found{}, err
	}
	if err := m.reloadThick(ctx, f); err != nil {
		return found{}, err
	}
	if err := m.dm.Zero(path, from, f.lv.Size); err != nil {
		return found{}, wrap(err, "zero %s from byte %d", f.id(), from)
	}
	return m.markReady(ctx, f)
}

// reloadThick makes the device as large as the metadata says: an lvextend that was
// killed has left it smaller.
func (m *Manager) reloadThick(ctx context.Context, f found) error {
	table, err := m.dm.Table(lvm.DMName(f.vg.Name, f.lv.Name, ""))
	if err != nil {
		return wrap(err, "size of %s", f.id())
	}
	var sectors uint64
	for _, t := range table {
		sectors += t.Length
	}
	if int64(sectors)*512 >= f.lv.Size {
		return nil
	}
	return wrap(m.lvm.LVRefresh(ctx, f.group(), f.lv.Name), "reload %s", f.id())
}

// markReady records that all of a thick volume is its tenant's.
func (m *Manager) markReady(ctx context.Context, f found) (found, error) {
	set := tagSet{keyState: stateReady, keySize: strconv.FormatInt(f.lv.Size, 10)}
	if err := m.setTags(ctx, f, set); err != nil {
		return found{}, err
	}
	return m.find(f.id(), kindVolume)
}

// expandThick extends a thick volume. What it gains shows former content until
// it is zeroed. A file system does not look beyond its own end, so that is done
// while it is mounted; a block volume is taken off the host first, which LVM
// refuses (ErrBusy) while a pod has it open.
func (m *Manager) expandThick(ctx context.Context, f found, size int64) (Volume, error) {
	f, err := m.finishThick(ctx, f)
	if err != nil || f.lv.Size >= size {
		return volumeOf(f, err)
	}
	release, err := m.admitGrowth(ctx, f, size-f.lv.Size)
	if err != nil {
		return Volume{}, err
	}
	defer release()
	if f.block() && m.active(f) {
		if err := m.lvm.LVDeactivate(ctx, f.group(), f.lv.Name); err != nil {
			return Volume{}, wrap(err, "expand %s: a thick block volume grows only while no pod uses it", f.id())
		}
	}
	grow := tagSet{keyState: stateGrowing, keySize: strconv.FormatInt(f.lv.Size, 10)}
	if err := m.setTags(ctx, f, grow); err != nil {
		return Volume{}, err
	}
	if err := m.lvm.LVExtend(ctx, f.group(), f.lv.Name, size); err != nil {
		return Volume{}, errors.Join(wrap(err, "expand %s", f.id()), m.notGrown(ctx, f, err))
	}
	release()
	if f, err = m.find(f.id(), kindVolume); err != nil {
		return Volume{}, err
	}
	return volumeOf(m.finishThick(ctx, f))
}

// notGrown takes the mark off a volume whose lvextend has ended without a change:
// what an administrator adds to it later is not ours to zero.
func (m *Manager) notGrown(ctx context.Context, was found, cause error) error {
	if errors.Is(cause, lvm.ErrPending) {
		return nil
	}
	f, err := m.find(was.id(), kindVolume)
	if err != nil || f.lv.Size != was.lv.Size {
		return err
	}
	_, err = m.markReady(ctx, f)
	return err
}

func (m *Manager) active(f found) bool {
	info, err := m.dm.Info(lvm.DMName(f.vg.Name, f.lv.Name, ""))
	return err == nil && info.LiveTable
}
