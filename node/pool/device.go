package pool

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/lamina-csi/lamina/lvm"
)

// Device is a volume that is ready to be staged.
type Device struct {
	Volume
	Path   string // /dev/dm-N
	UUID   string // for the volume's file system, RFC 4122, derived from the LV's
	Copied bool   // made from a source, whose file system's UUID it may still have
}

// OpenDevice activates a volume and returns its device. It runs no process when
// the volume is active.
func (m *Manager) OpenDevice(ctx context.Context, id ID) (Device, error) {
	unlock, err := m.keys.lock(ctx, id.LV.String())
	if err != nil {
		return Device{}, err
	}
	defer unlock()
	m.opened(id)
	f, err := m.find(id, kindVolume)
	if err != nil {
		return Device{}, err
	}
	path, err := m.activate(ctx, f)
	if err != nil {
		return Device{}, err
	}
	if f.lv.Thin == nil {
		// Activation may have waited for an lvextend that an earlier call gave up on.
		if f, err = m.find(id, kindVolume); err != nil {
			return Device{}, err
		}
		f, err = m.finishThick(ctx, f)
	} else {
		// An expansion that was cut short has left a device smaller than its metadata.
		err = wrap(m.lvm.ReloadThin(f.group(), f.lv.Name), "open %s", id)
	}
	if err != nil {
		return Device{}, err
	}
	return Device{Volume: f.volume(), Path: path, UUID: fsUUID(f.lv.UUID), Copied: f.tags[keySource] != ""}, nil
}

// fsUUID derives a UUID (RFC 9562 §5.8, version 8) from that of the LV, so that
// a file system made twice, or copied twice, gets the same one again and a
// clone never has that of its source.
func fsUUID(lvUUID string) string {
	h := sha256.Sum256([]byte("lamina file system " + lvUUID))
	h[6] = h[6]&0x0f | 0x80
	h[8] = h[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[0:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// Prezeroed reports whether every byte of the volume reads as zero and stays so
// beside what is written: no chunk is mapped, and the pool zeroes new ones.
func (m *Manager) Prezeroed(id ID) (bool, error) {
	f, err := m.find(id, kindVolume)
	if err != nil {
		return false, err
	}
	if f.lv.Thin == nil {
		return false, nil
	}
	pool, ok := f.vg.LV(f.lv.Thin.Pool)
	if !ok || pool.Pool == nil || !pool.Pool.Zero {
		return false, nil
	}
	st, err := m.lvm.ThinStatus(f.vg.Name, f.lv.Name)
	if err != nil {
		return false, wrap(err, "status of %s", id)
	}
	return !st.Failed && st.MappedSectors == 0, nil
}

// MarkFormatted records what a volume was formatted with, before it is mounted
// for the first time. From then on it is never formatted again.
func (m *Manager) MarkFormatted(ctx context.Context, id ID, fs string) error {
	unlock, err := m.keys.lock(ctx, id.LV.String())
	if err != nil {
		return err
	}
	defer unlock()
	f, err := m.find(id, kindVolume)
	if err != nil {
		return err
	}
	if f.tags[keyFS] != FSNew {
		return fmt.Errorf("record that %s holds %s: %w: it holds %q", id, fs, ErrConflict, f.tags[keyFS])
	}
	return m.setTags(ctx, f, tagSet{keyFS: fs})
}

// ActiveDevice is the node of a volume's device, "" where it is inactive.
func (m *Manager) ActiveDevice(id ID) (string, error) {
	f, err := m.find(id, kindVolume)
	if err != nil {
		return "", err
	}
	info, err := m.ownDevice(f)
	if errors.Is(err, lvm.ErrNotFound) {
		return "", nil
	}
	return info.Path(), wrap(err, "device of %s", id)
}

// Usage is what the kernel says of a volume.
type Usage struct {
	Mapped int64 // bytes of the pool that it has; its size, for a thick one
	Failed bool  // the pool gave up on it
	Open   bool
}

// Usage asks the kernel about an active volume; it runs no process.
func (m *Manager) Usage(id ID) (Usage, error) {
	f, err := m.find(id, kindVolume)
	if err != nil {
		return Usage{}, err
	}
	info, err := m.ownDevice(f)
	if err != nil {
		return Usage{}, wrap(err, "usage of %s", id)
	}
	u := Usage{Mapped: f.lv.Size, Open: info.OpenCount > 0}
	if f.lv.Thin != nil {
		st, err := m.lvm.ThinStatus(f.vg.Name, f.lv.Name)
		if err != nil {
			return Usage{}, wrap(err, "usage of %s", id)
		}
		u.Mapped, u.Failed = st.MappedSectors*512, st.Failed
	}
	return u, nil
}
