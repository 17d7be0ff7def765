package lvmtest

import (
	"fmt"
	"io"
	"syscall"

	"github.com/lamina-csi/lamina/lvm"
)

// content is the data of an active device-mapper device.
type content struct {
	h *Host
	d *device
}

// Size is that of the live table.
func (c *content) Size() int64 {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	return c.d.size()
}

func (d *device) size() int64 {
	var sectors uint64
	for _, t := range d.live {
		sectors = max(sectors, t.Start+t.Length)
	}
	return int64(sectors) * sectorSize
}

func (c *content) ReadAt(p []byte, off int64) (int, error) { return c.rw(p, off, false) }

func (c *content) WriteAt(p []byte, off int64) (int, error) { return c.rw(p, off, true) }

func (c *content) rw(p []byte, off int64, write bool) (int, error) {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	for c.h.frozen(c.d) {
		c.h.wake.Wait()
	}
	verb := "read"
	if write {
		verb = "write"
	}
	switch {
	case c.h.devices[c.d.name] != c.d:
		return 0, fmt.Errorf("%s %s: %w", verb, c.d.name, syscall.ENXIO)
	case write && c.d.readOnly:
		return 0, fmt.Errorf("%s %s: %w", verb, c.d.name, syscall.EPERM)
	}
	return within(p, off, c.d.size(), write, func(p []byte) error {
		err := c.d.lv.rw(off, p, write)
		if owed := c.d.lv.owed(); write && owed != nil {
			owed.note(off, p, err == nil, func(off int64, buf []byte) error {
				return c.d.lv.rw(off, buf[:min(pageSize, c.d.lv.size()-off)], false)
			})
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", verb, c.d.name, err)
		}
		return nil
	})
}

// frozen reports whether I/O of the device waits: it, or what lies below it, is
// suspended.
func (h *Host) frozen(d *device) bool {
	if h.devices[d.name] != d {
		return false
	}
	if d.suspended {
		return true
	}
	for _, b := range d.below {
		if h.frozen(b) {
			return true
		}
	}
	return false
}

// within cuts I/O at the end of the device, as io.ReaderAt and io.WriterAt want.
func within(p []byte, off, size int64, write bool, do func([]byte) error) (int, error) {
	if off < 0 {
		return 0, syscall.EINVAL
	}
	n := min(int64(len(p)), max(0, size-off))
	var end error
	if n < int64(len(p)) {
		end = io.EOF
		if write {
			end = syscall.ENOSPC
		}
	}
	if n == 0 {
		return 0, end
	}
	if err := do(p[:n]); err != nil {
		return 0, err
	}
	return int(n), end
}

// diskContent is the data of a disk.
type diskContent struct {
	h *Host
	d *disk
}

func (c *diskContent) Size() int64 { return c.d.size }

func (c *diskContent) ReadAt(p []byte, off int64) (int, error) { return c.rw(p, off, false) }

func (c *diskContent) WriteAt(p []byte, off int64) (int, error) { return c.rw(p, off, true) }

func (c *diskContent) rw(p []byte, off int64, write bool) (int, error) {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	return within(p, off, c.d.size, write, func(p []byte) error { return c.d.rw(off, p, write) })
}

// Discard implements lvm.Kernel.
func (h *Host) Discard(path string) error {
	return h.mutate("discard", func() error {
		d, err := h.byPath(path)
		if err != nil {
			return err
		}
		if h.openCount(d) > 0 {
			return fmt.Errorf("open %s: %w", path, lvm.ErrInUse)
		}
		if d.readOnly {
			return fmt.Errorf("discard %s: %w", path, syscall.EPERM)
		}
		if owed := d.lv.owed(); owed != nil {
			*owed = nil
		}
		if s := d.lv.first(); s.kind == "thin" {
			return s.pool.first().discard(s.deviceID)
		}
		return d.zero(0, d.size())
	})
}

// Zero implements lvm.Kernel.
func (h *Host) Zero(path string, from, to int64) error {
	return h.mutate("zero", func() error {
		d, err := h.byPath(path)
		if err != nil {
			return err
		}
		if from < 0 || to > d.size() || d.readOnly {
			return fmt.Errorf("zero %s from %d to %d: %w", path, from, to, syscall.EINVAL)
		}
		return d.zero(from, to)
	})
}

func (d *device) zero(from, to int64) error {
	buf := make([]byte, mib)
	for from < to {
		n := min(to-from, mib)
		if err := d.lv.rw(from, buf[:n], true); err != nil {
			return err
		}
		from += n
	}
	return nil
}
