package pool

import (
	"context"
	"errors"
	"time"

	"github.com/lamina-csi/lamina/lvm"
)

// Released says that nobody on this node uses a volume any more: [Manager.CloseIdle]
// may deactivate it. A volume that is opened again is not closed.
func (m *Manager) Released(id ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.idle[id] = time.Now()
}

// CloseIdle deactivates the volumes that were released at least that long ago, by
// one process each. It waits, because a pod that is replaced is back in seconds, and
// because the blocks of an inactive volume are not discarded when it is deleted.
func (m *Manager) CloseIdle(ctx context.Context, after time.Duration) error {
	var due []ID
	m.mu.Lock()
	for id, since := range m.idle {
		if time.Since(since) >= after {
			due = append(due, id)
		}
	}
	m.mu.Unlock()
	var errs []error
	for _, id := range due {
		errs = append(errs, m.closeIdle(ctx, id))
	}
	return errors.Join(errs...)
}

func (m *Manager) closeIdle(ctx context.Context, id ID) error {
	unlock, err := m.keys.lock(ctx, id.LV.String())
	if err != nil {
		return err
	}
	defer unlock()
	m.mu.Lock()
	_, idle := m.idle[id]
	delete(m.idle, id)
	m.mu.Unlock()
	if !idle {
		return nil // it was opened meanwhile
	}
	f, err := m.find(id, kindVolume)
	if err != nil {
		return nil // deleted; or its pool is away, and with it the device
	}
	if _, err := m.device(f); err != nil {
		return nil // inactive
	}
	err = m.lvm.LVDeactivate(ctx, f.group(), f.lv.Name)
	if errors.Is(err, lvm.ErrInUse) {
		return nil // by an admin, say; it is not ours to close
	}
	return wrap(err, "deactivate %s", id)
}

// CloseAll deactivates what nobody uses: each volume of ours that is not open, and a
// thin pool of ours that has no active volume left. The disks below, which may be
// encrypted, can be closed then, and the host can shut down. One process a pool. used
// tells of a device that a pod has without having it open: the node of a block volume.
func (m *Manager) CloseAll(ctx context.Context, used func(device string) bool) error {
	var errs []error
	for _, p := range m.snapshot() {
		errs = append(errs, wrap(m.closeAll(ctx, p, used), "close pool %s", p.spec.Name))
	}
	return errors.Join(errs...)
}

func (m *Manager) closeAll(ctx context.Context, p *Pool, used func(device string) bool) error {
	vg, err := m.readVG(p)
	if err != nil {
		return err
	}
	var closed []lvm.LVName
	poolUsed := false
	for i := range vg.LVs {
		lv := &vg.LVs[i]
		info, err := m.dm.Info(lvm.DMName(vg.Name, lv.Name, ""))
		if err != nil || lv.Name == thinPoolLV {
			continue
		}
		kind := readTags(lv.Tags)[keyKind]
		if ours := kind == kindVolume || kind == kindSnapshot; ours && info.OpenCount == 0 && !used(info.Path()) {
			closed = append(closed, lv.Name)
		} else if lv.Thin != nil {
			poolUsed = true
		}
	}
	// With the own device of the pool gone, LVM takes the rest of it down with the last
	// volume, whatever the order.
	if lv, ok := vg.LV(thinPoolLV); ok && !poolUsed && readTags(lv.Tags)[keyKind] == kindPool {
		if _, err := m.lvm.PoolStatus(vg.Name, thinPoolLV); err == nil {
			closed = append(closed, thinPoolLV)
		}
	}
	if len(closed) == 0 {
		return nil
	}
	err = m.lvm.LVDeactivate(ctx, p.group, closed...)
	if errors.Is(err, lvm.ErrInUse) {
		return nil // opened meanwhile
	}
	return err
}

// opened takes back what [Manager.Released] said. The caller holds the volume's key.
func (m *Manager) opened(id ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.idle, id)
}
