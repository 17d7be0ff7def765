package pool

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lamina-csi/lamina/lvm"
)

// A Holder holds the writers of a volume while it is snapshotted with others. It
// freezes the file system: to suspend the device instead does not work, since
// LVM (2.03.31) leaves the snapshot of a suspended origin out of the kernel and
// reports success.
type Holder interface {
	// Hold freezes what is mounted from the device; held is false where nothing is.
	Hold(device string) (release func() error, held bool, err error)
	// Release thaws what an agent that was killed has left frozen.
	Release(device string) error
}

// HoldLimit is how long writers are held at most, whatever becomes of those who
// asked for it.
const HoldLimit = 10 * time.Second

var errHeldTooLong = fmt.Errorf("writers are held for %s at most", HoldLimit)

// heldPart is a part of a group whose volumes are locked and whose writers are
// held.
type heldPart struct {
	ctx     context.Context // ends before a writer goes on
	end     context.CancelFunc
	part    GroupPart
	sources []found
	making  sync.Mutex // held while members are made
}

// PrepareGroup makes a part ready to be made: what calls that were cut short
// have left of it is removed, and its volumes are looked for.
//
// If a member is ready, nothing is done and its instant is returned: all members
// on all nodes were made then, and what is not ready is to be committed.
func (m *Manager) PrepareGroup(ctx context.Context, part GroupPart) (instant string, err error) {
	part, unlock, err := m.lockGroup(ctx, part)
	if err != nil {
		return "", err
	}
	defer unlock()
	if instant, err = m.prepare(ctx, part); err != nil || instant != "" {
		return instant, err
	}
	_, unlock, err = m.lockSources(ctx, part)
	if err != nil {
		return "", err
	}
	unlock()
	return "", nil
}

// HoldGroup holds the writers of the part's volumes and calls held. It lets them
// go when [Manager.SnapshotHeld] has made the members or failed, when ctx ends, or
// at [HoldLimit], which is an error.
func (m *Manager) HoldGroup(ctx context.Context, part GroupPart, held func() error) error {
	part, unlock, err := m.lockGroup(ctx, part)
	if err != nil {
		return err
	}
	defer unlock()
	members, err := m.members(part.id().LV)
	if err != nil {
		return err
	}
	if len(members) > 0 {
		return part.errorf("%w: %d members are there already", ErrAborted, len(members))
	}
	return m.holdPart(ctx, part, func(h *heldPart) error {
		m.setHeld(part, h)
		defer func() {
			h.end()
			// Members that are still being made need the locks, if not the writers.
			h.making.Lock()
			defer h.making.Unlock()
			m.setHeld(part, nil)
		}()
		if err := held(); err != nil {
			return part.errorf("%w", err)
		}
		<-h.ctx.Done()
		if errors.Is(context.Cause(h.ctx), errHeldTooLong) {
			return part.errorf("%w: %w", ErrAborted, errHeldTooLong)
		}
		return nil
	})
}

func (m *Manager) setHeld(part GroupPart, h *heldPart) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[part.id().LV] = h
	if h == nil {
		delete(m.held, part.id().LV)
	}
}

// SnapshotHeld makes the members of a part that [Manager.HoldGroup] holds for
// this instant, and lets the writers go. The members are not ready yet. No error
// says that the writers were held from before the call until all were made.
func (m *Manager) SnapshotHeld(ctx context.Context, part GroupPart) error {
	m.mu.Lock()
	h := m.held[groupLV(part.Name)]
	m.mu.Unlock()
	if h == nil || h.part.Instant != part.Instant {
		return part.errorf("%w: nothing is held for instant %.80q", ErrAborted, part.Instant)
	}
	h.making.Lock()
	defer h.making.Unlock()
	defer h.end()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	return m.makeMembers(ctx, h)
}

// makeMembers snapshots each source. No error says that the writers were held
// until the last member was made.
func (m *Manager) makeMembers(ctx context.Context, h *heldPart) error {
	for _, src := range h.sources {
		if h.ctx.Err() != nil {
			break
		}
		tags := src.snapshotTags()
		tags[keyGroup], tags[keyState], tags[keyInstant] = h.part.id().String(), stateCreating, h.part.Instant
		tags[keyGroupName], tags[keyGroupSize] = h.part.Name, fmt.Sprint(h.part.Total)
		err := m.createSnapshotLV(ctx, src, memberLV(h.part.id().LV, src.id()), tags)
		if errors.Is(err, lvm.ErrExists) {
			// An earlier call gave up waiting for its lvcreate, which has ended only now.
			err = fmt.Errorf("%w: %w", ErrAborted, err)
		}
		if err != nil {
			return h.part.errorf("%w", err)
		}
	}
	if err := context.Cause(h.ctx); err != nil {
		return h.part.errorf("%w: the writers went on before the last snapshot was made: %w", ErrAborted, err)
	}
	return nil
}

// CommitGroup marks the members of a part as ready, once all parts of the instant
// were made. It can be repeated. ErrNotFound: they are not there.
func (m *Manager) CommitGroup(ctx context.Context, part GroupPart) (Group, error) {
	part, unlock, err := m.lockGroup(ctx, part)
	if err != nil {
		return Group{}, err
	}
	defer unlock()
	return m.commit(ctx, part)
}

// lockGroup checks a part and locks its group. A caller who has gone changes
// nothing any more: another attempt may have begun on his behalf.
func (m *Manager) lockGroup(ctx context.Context, part GroupPart) (GroupPart, func(), error) {
	part, err := part.check()
	if err != nil {
		return part, nil, err
	}
	unlock, err := m.keys.lock(ctx, part.id().LV.String())
	if err != nil {
		return part, nil, err
	}
	if err := ctx.Err(); err != nil {
		unlock()
		return part, nil, part.errorf("%w: %w", ErrAborted, err)
	}
	return part, unlock, nil
}

// holdPart locks the volumes of a part and holds their writers while do runs.
// They go on when do returns, when ctx ends, or at HoldLimit, whichever comes
// first; the ctx of the held part ends before any of them does.
func (m *Manager) holdPart(ctx context.Context, part GroupPart, do func(*heldPart) error) (err error) {
	sources, unlock, err := m.lockSources(ctx, part)
	if err != nil {
		return err
	}
	defer unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, HoldLimit, errHeldTooLong)
	w := &writers{}
	defer func() {
		cancel()
		if thaw := w.release(); thaw != nil {
			err = errors.Join(err, part.errorf("%w", thaw))
		}
	}()
	// In a goroutine of its own: this one may hang in a freeze, or in do.
	context.AfterFunc(ctx, func() { _ = w.release() })
	for _, src := range sources {
		release, err := m.hold(src, part.Total)
		if err != nil {
			return part.errorf("%w", err)
		}
		w.add(release)
	}
	if err := context.Cause(ctx); err != nil {
		return part.errorf("%w: not all writers could be held: %w", ErrAborted, err)
	}
	return do(&heldPart{ctx: ctx, end: cancel, part: part, sources: sources})
}

// writers are those that are held.
type writers struct {
	mu   sync.Mutex
	gone bool
	thaw []func() error
	err  error
}

// add takes over what lets a writer go on; nil is nobody.
func (w *writers) add(release func() error) {
	w.mu.Lock()
	if release != nil {
		w.thaw = append(w.thaw, release)
	}
	gone := w.gone
	w.mu.Unlock()
	if gone {
		_ = w.release()
	}
}

// release lets all go on, now and whoever is added later. It returns the errors
// of all calls.
func (w *writers) release() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gone = true
	for _, thaw := range w.thaw {
		w.err = errors.Join(w.err, thaw())
	}
	w.thaw = nil
	return w.err
}

// hold holds the writers of one of several sources. A volume that nobody has
// open has none. One that is open without a mounted file system is a raw block
// volume in use: nothing can hold its writers, so it can only be alone.
func (m *Manager) hold(src found, sources int) (release func() error, err error) {
	info, err := m.dm.Info(lvm.DMName(src.vg.Name, src.lv.Name, ""))
	if errors.Is(err, lvm.ErrNotFound) || err == nil && info.OpenCount == 0 || sources == 1 {
		return nil, nil
	}
	if err != nil {
		return nil, wrap(err, "hold %s", src.id())
	}
	held := false
	if m.holder != nil {
		if release, held, err = m.holder.Hold(info.Path()); err != nil {
			return nil, fmt.Errorf("hold %s: %w", src.id(), err)
		}
	}
	if !held {
		return nil, fmt.Errorf("%s: %w: a raw block volume that a pod uses cannot be held while others are snapshotted; snapshot it alone, or stop the pod", src.id(), ErrBusy)
	}
	return release, nil
}
