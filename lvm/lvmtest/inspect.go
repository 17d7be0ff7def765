package lvmtest

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"

	"github.com/lamina-csi/lamina/lvm"
)

// Devices lists every device-mapper device, sorted by name.
func (h *Host) Devices() []lvm.DeviceInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []lvm.DeviceInfo
	for _, name := range slices.Sorted(maps.Keys(h.devices)) {
		out = append(out, h.info(h.devices[name]))
	}
	return out
}

// ThinIDs lists the thin devices that the kernel has in a pool, sorted.
func (h *Host) ThinIDs(vgName, pool string) ([]int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := h.vgs[vgName]
	if v == nil || v.find(pool) == nil || v.find(pool).first().kind != "thin-pool" {
		return nil, fmt.Errorf("thin pool %s/%s: %w", vgName, pool, lvm.ErrNotFound)
	}
	return slices.Sorted(maps.Keys(v.find(pool).first().kernel.devices)), nil
}

// CheckData reads back all that was written to active devices and acknowledged,
// in volumes and in snapshots of them. A volume that was discarded, as one that is
// deleted is, owes nothing any more. What a disk that is away or fails holds is not
// judged.
func (h *Host) CheckData() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(h.vgs)) {
		for _, l := range h.vgs[name].lvs {
			errs = append(errs, l.checkData())
		}
	}
	return errors.Join(errs...)
}

func (l *lv) checkData() error {
	owed := l.owed()
	if owed == nil {
		return nil
	}
	got := make([]byte, pageSize)
	for _, page := range slices.Sorted(maps.Keys(*owed)) {
		size := min(pageSize, l.size()-page*pageSize)
		if size <= 0 {
			return fmt.Errorf("%s: it is %d bytes large, and byte %d was written", l.path(), l.size(), page*pageSize)
		}
		err := l.rw(page*pageSize, got[:size], false)
		if errors.Is(err, syscall.EIO) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: page %d: %w", l.path(), page, err)
		}
		if want := (*owed)[page][:size]; !bytes.Equal(got[:size], want) {
			return fmt.Errorf("%s: page %d does not hold what was written and acknowledged", l.path(), page)
		}
	}
	return nil
}

// owed is what users have written to a volume, by page: it must read back. nil: the
// kernel does not have the thin device.
func (l *lv) owed() *written {
	if s := l.first(); s.kind == "thin" {
		if d := s.pool.first().kernel.devices[s.deviceID]; d != nil {
			return &d.owed
		}
		return nil
	}
	return &l.written
}

// written is content by page. Unlike in [sparse], zeros that were written are there.
type written map[int64]*[pageSize]byte

// note records a write. What lies beside it on a page that nobody wrote before is
// read. A write that failed may have changed any of its bytes.
func (w *written) note(off int64, p []byte, ok bool, read func(off int64, buf []byte) error) {
	if *w == nil {
		*w = written{}
	}
	for len(p) > 0 {
		number, at := off/pageSize, off%pageSize
		n := min(pageSize-at, int64(len(p)))
		var page [pageSize]byte // a new one: snapshots share the old
		if have := (*w)[number]; have != nil {
			page = *have
		} else {
			ok = ok && read(number*pageSize, page[:]) == nil
		}
		copy(page[at:], p[:n])
		if (*w)[number] = &page; !ok {
			delete(*w, number)
		}
		off, p = off+n, p[n:]
	}
}
