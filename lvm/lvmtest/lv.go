package lvmtest

import (
	"fmt"
	"syscall"
	"time"
)

// lv is a logical volume as its VG's metadata says.
type lv struct {
	vg             *vg
	name, uuid     string
	tags           []string
	visible        bool
	readOnly       bool
	skipActivation bool
	created        time.Time
	segs           []*segment
	written        written // see owed
}

// segment is a part of an LV. Thin volumes, pools and raid have one.
type segment struct {
	kind    string // striped, raid1, raid10, thin, thin-pool
	extents int64

	stripes []area // striped; one means linear

	images, metas []*lv // raid

	// thin
	pool     *lv
	origin   *lv
	deviceID int64
	txID     int64 // the pool's too

	// thin-pool
	data, meta *lv
	chunk      int64 // bytes
	discards   string
	zero       bool
	messages   []message // for the kernel, not sent yet
	kernel     *thinPool // what the kernel keeps on meta
}

// stripeSize is LVM's default, 64 KiB.
const stripeSize = 64 << 10

func (l *lv) extents() int64 {
	var n int64
	for _, s := range l.segs {
		n += s.extents
	}
	return n
}

func (l *lv) size() int64 { return l.extents() * extentSize }

func (l *lv) first() *segment { return l.segs[0] }

func (l *lv) path() string { return l.vg.name + "/" + l.name }

// segtype is the name that reports use.
func (s *segment) segtype() string {
	if s.kind == "striped" && len(s.stripes) == 1 {
		return "linear"
	}
	return s.kind
}

// rw reads or writes bytes of the volume; the range lies within it.
func (l *lv) rw(off int64, buf []byte, write bool) error {
	for _, s := range l.segs {
		size := s.extents * extentSize
		if off >= size {
			off -= size
			continue
		}
		n := min(size-off, int64(len(buf)))
		if err := l.rwSegment(s, off, buf[:n], write); err != nil {
			return err
		}
		off, buf = 0, buf[n:]
		if len(buf) == 0 {
			return nil
		}
	}
	return fmt.Errorf("%s: %w: beyond its end", l.path(), syscall.EIO)
}

func (l *lv) rwSegment(s *segment, off int64, buf []byte, write bool) error {
	switch s.kind {
	case "thin":
		return s.pool.first().rwThin(s.deviceID, off, buf, write)
	case "raid1":
		return rwMirror(s.images, off, buf, write)
	case "raid10":
		pairs := int64(len(s.images) / 2)
		return eachStripe(off, buf, pairs, func(i, inner int64, part []byte) error {
			return rwMirror(s.images[2*i:2*i+2], inner, part, write)
		})
	case "striped":
		return eachStripe(off, buf, int64(len(s.stripes)), func(i, inner int64, part []byte) error {
			a := s.stripes[i]
			return a.pv.disk.rw(a.pv.peStart+a.pe*extentSize+inner, part, write)
		})
	}
	return fmt.Errorf("%s: %w: a %s has no data of its own", l.path(), syscall.EIO, s.kind)
}

// rwMirror writes to every image, and reads from the first that can be read.
func rwMirror(images []*lv, off int64, buf []byte, write bool) error {
	var last error
	done := false
	for _, image := range images {
		if err := image.rw(off, buf, write); err != nil {
			last = err
			continue
		}
		done = true
		if !write {
			break
		}
	}
	if done {
		return nil
	}
	return last
}

// eachStripe splits a range over n stripes.
func eachStripe(off int64, buf []byte, n int64, do func(i, inner int64, part []byte) error) error {
	if n == 1 {
		return do(0, off, buf)
	}
	for len(buf) > 0 {
		number, within := off/stripeSize, off%stripeSize
		size := min(stripeSize-within, int64(len(buf)))
		if err := do(number%n, number/n*stripeSize+within, buf[:size]); err != nil {
			return err
		}
		off, buf = off+size, buf[size:]
	}
	return nil
}

// onMissing reports whether the volume cannot be used for want of a disk. Raid
// goes on while an image of each pair is whole.
func (l *lv) onMissing() bool {
	for _, s := range l.segs {
		for _, a := range s.stripes {
			if a.pv.away() {
				return true
			}
		}
		for i := 0; i+1 < len(s.images); i += 2 {
			if s.images[i].onMissing() && s.images[i+1].onMissing() {
				return true
			}
		}
		if s.pool != nil && s.pool.onMissing() || s.data != nil && (s.data.onMissing() || s.meta.onMissing()) {
			return true
		}
	}
	return false
}

// children are the hidden volumes that an LV is made of.
func (l *lv) children() []*lv {
	var out []*lv
	for _, s := range l.segs {
		out = append(append(out, s.metas...), s.images...)
		if s.data != nil {
			out = append(out, s.data, s.meta)
		}
	}
	return out
}
