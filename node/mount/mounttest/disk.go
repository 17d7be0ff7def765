package mounttest

import (
	"fmt"
	"io"
	"sync"
)

// Device is the content of a block device.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Size returns the size in bytes now: it changes when a volume grows.
	Size() int64
}

// Devices finds a device by its path. A path without a device is an error.
type Devices interface {
	Device(path string) (Device, error)
}

// Disks is a fixed set of devices.
type Disks map[string]*Disk

// Device implements [Devices].
func (d Disks) Device(path string) (Device, error) {
	disk, ok := d[path]
	if !ok {
		return nil, fmt.Errorf("%s: no such device", path)
	}
	return disk, nil
}

const pageSize = 4096

// Disk is a sparse device in memory.
type Disk struct {
	mu    sync.Mutex
	size  int64
	pages map[int64]*[pageSize]byte
}

// NewDisk returns a device of zeros. size is in bytes.
func NewDisk(size int64) *Disk { return &Disk{size: size, pages: map[int64]*[pageSize]byte{}} }

// Size implements [Device].
func (d *Disk) Size() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.size
}

// Resize changes the size.
func (d *Disk) Resize(size int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.size = size
}

// Clone returns a copy of the device, as a snapshot would give it.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := NewDisk(d.size)
	for n, page := range d.pages {
		copied := *page
		c.pages[n] = &copied
	}
	return c
}

// ReadAt implements [io.ReaderAt].
func (d *Disk) ReadAt(p []byte, off int64) (int, error) {
	return d.each(p, off, func(part []byte, page, at int64) {
		clear(part)
		if found := d.pages[page]; found != nil {
			copy(part, found[at:])
		}
	})
}

// WriteAt implements [io.WriterAt].
func (d *Disk) WriteAt(p []byte, off int64) (int, error) {
	return d.each(p, off, func(part []byte, page, at int64) {
		if d.pages[page] == nil {
			d.pages[page] = new([pageSize]byte)
		}
		copy(d.pages[page][at:], part)
	})
}

func (d *Disk) each(p []byte, off int64, do func(part []byte, page, at int64)) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off < 0 || off+int64(len(p)) > d.size {
		return 0, io.ErrUnexpectedEOF
	}
	for done := 0; done < len(p); {
		at := (off + int64(done)) % pageSize
		n := min(len(p)-done, int(pageSize-at))
		do(p[done:done+n], (off+int64(done))/pageSize, at)
		done += n
	}
	return len(p), nil
}

// section is the device that a LUKS2 mapping gives: what lies behind the header.
type section struct {
	under Device
	size  int64
}

const luksDataOffset = 16 << 20

func (s *section) Size() int64 { return s.size }
func (s *section) ReadAt(p []byte, off int64) (int, error) {
	return s.under.ReadAt(p, off+luksDataOffset)
}
func (s *section) WriteAt(p []byte, off int64) (int, error) {
	return s.under.WriteAt(p, off+luksDataOffset)
}
