package lvmtest

import (
	"bytes"
	"fmt"
	"syscall"

	"github.com/lamina-csi/lamina/lvm"
)

// disk is a block device that is no logical volume.
type disk struct {
	path      string
	size      int64
	minor     int // of major 259, as NVMe disks have
	signature string
	data      sparse
	missing   bool // pulled out
	failing   bool // there, but its I/O fails

	// The LVM metadata on it. A disk that was away holds what it last got.
	vg       *vg
	raw      lvm.RawMetadata
	rawVG    string
	areaSize int64
}

// AddDisk adds a blank disk of that size in bytes.
func (h *Host) AddDisk(path string, size int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disks[path] = &disk{path: path, size: size, minor: len(h.disks), data: sparse{}}
}

// AddSignedDisk adds a disk on which blkid finds a signature, such as "ext4".
func (h *Host) AddSignedDisk(path string, size int64, signature string) {
	h.AddDisk(path, size)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disks[path].signature = signature
}

// MissDisk pulls the disk out. Its content stays for [Host.ReturnDisk].
func (h *Host) MissDisk(path string) { h.setDisk(path, func(d *disk) { d.missing = true }) }

// FailDisk makes all I/O on the disk fail; the disk stays visible.
func (h *Host) FailDisk(path string) { h.setDisk(path, func(d *disk) { d.failing = true }) }

// ReturnDisk undoes MissDisk and FailDisk.
func (h *Host) ReturnDisk(path string) {
	h.setDisk(path, func(d *disk) { d.missing, d.failing = false, false })
}

func (h *Host) setDisk(path string, change func(*disk)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.disks[path]
	if d == nil {
		panic("lvmtest: no disk " + path)
	}
	change(d)
}

func (d *disk) rw(off int64, buf []byte, write bool) error {
	if d.missing || d.failing {
		return fmt.Errorf("%s: %w", d.path, syscall.EIO)
	}
	if write {
		d.data.write(off, buf)
	} else {
		d.data.read(off, buf)
	}
	return nil
}

// sparse is content by page; a page that is not there reads as zeros.
type sparse map[int64]*[pageSize]byte

const pageSize = 4096

func (s sparse) read(off int64, buf []byte) {
	for len(buf) > 0 {
		n := min(pageSize-off%pageSize, int64(len(buf)))
		if p := s[off/pageSize]; p != nil {
			copy(buf[:n], p[off%pageSize:])
		} else {
			clear(buf[:n])
		}
		off, buf = off+n, buf[n:]
	}
}

func (s sparse) write(off int64, buf []byte) {
	for len(buf) > 0 {
		n := min(pageSize-off%pageSize, int64(len(buf)))
		p := s[off/pageSize]
		if p == nil && !isZero(buf[:n]) {
			p = &[pageSize]byte{}
			s[off/pageSize] = p
		}
		if p != nil {
			copy(p[off%pageSize:], buf[:n])
			if isZero(p[:]) {
				delete(s, off/pageSize)
			}
		}
		off, buf = off+n, buf[n:]
	}
}

// zeroPage makes the comparison one of memory, not of bytes: thick volumes are
// zeroed by the gigabyte.
var zeroPage [pageSize]byte

// isZero takes at most a page.
func isZero(b []byte) bool { return bytes.Equal(b, zeroPage[:len(b)]) }
