package lvmtest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// thinPool is what the kernel keeps on a pool's metadata device. It outlives a
// reboot, as that device does.
type thinPool struct {
	txID    int64
	devices map[int64]*thinDevice
	refs    map[int64]int // data chunk → how many devices map it
	next    int64         // no free chunk lies below

	lowWater    bool // the event was sent
	outOfSpace  bool
	extraBlocks int64 // metadata blocks used up by a test
	event       func()
}

// thinDevice is a thin device within a pool: its chunks → the pool's chunks.
type thinDevice struct {
	chunks map[int64]int64
	owed   written
}

// message is a change that LVM's metadata asks the kernel to make.
type message struct {
	device int64
	origin int64 // -1: create_thin, else create_snap
	remove bool  // delete
}

// text is what the kernel is told.
func (m message) text() string {
	switch {
	case m.remove:
		return fmt.Sprintf("delete %d", m.device)
	case m.origin >= 0:
		return fmt.Sprintf("create_snap %d %d", m.device, m.origin)
	default:
		return fmt.Sprintf("create_thin %d", m.device)
	}
}

// done reports whether libdm takes the kernel's answer for "that is so already"
// (libdm/libdm-deptree.c, _thin_pool_node_message): not for create_snap.
func (m message) done(err error) bool {
	return m.remove && errors.Is(err, syscall.ENODATA) || !m.remove && m.origin < 0 && errors.Is(err, syscall.EEXIST)
}

func newThinPool(event func()) *thinPool {
	return &thinPool{devices: map[int64]*thinDevice{}, refs: map[int64]int{}, event: event}
}

// send carries out the pool's pending messages, as LVM does whenever it
// activates or updates a pool (lib/metadata/thin_manip.c, update_thin_pool_lv).
// Messages of a transaction that the kernel has are done already.
func (s *segment) send(path string, pause func() error) error {
	k := s.kernel
	switch {
	case k.txID == s.txID:
		s.messages = nil
		return nil
	case len(s.messages) == 0 || k.txID != s.txID-1:
		return s.outOfStep(path)
	}
	for _, m := range s.messages {
		if err := k.message(m.text()); err != nil && !m.done(err) {
			return failed("device-mapper: message ioctl on  (%d:2) failed: %v", major, err).
				and("Failed to process message %q.", m.text()).
				and("Failed to suspend logical volume %s.", path)
		}
	}
	if err := pause(); err != nil {
		return err
	}
	k.txID = s.txID
	s.messages = nil
	return nil
}

// outOfStep is what LVM says when the kernel's transaction is another.
func (s *segment) outOfStep(path string) *failure {
	return failed("Thin pool %s transaction_id is %d, while expected %d.", path, s.kernel.txID, s.txID).
		and("Failed to suspend %s with queued messages.", path).
		and("Failed to update thin pool %s.", path)
}

// message obeys a message of the kernel's thin pool target.
func (k *thinPool) message(text string) error {
	words := strings.Fields(text)
	var n [2]int64
	for i, w := range words[min(1, len(words)):] {
		v, err := strconv.ParseInt(w, 10, 64)
		if err != nil || i >= len(n) {
			return syscall.EINVAL
		}
		n[i] = v
	}
	_, have := k.devices[n[0]]
	switch {
	case len(words) == 2 && words[0] == "delete" && have:
		k.remove(n[0])
	case len(words) == 2 && words[0] == "delete":
		return syscall.ENODATA
	case len(words) == 2 && words[0] == "create_thin" && !have:
		k.devices[n[0]] = &thinDevice{chunks: map[int64]int64{}}
	case len(words) == 3 && words[0] == "create_snap" && k.devices[n[1]] == nil:
		return syscall.ENODATA
	case len(words) == 3 && words[0] == "create_snap" && !have:
		k.snapshot(n[0], n[1])
	case have && strings.HasPrefix(words[0], "create_"):
		return syscall.EEXIST
	case len(words) == 3 && words[0] == "set_transaction_id" && k.txID == n[0]:
		k.txID = n[1]
	default:
		return syscall.EINVAL
	}
	return nil
}

func (k *thinPool) snapshot(id, origin int64) {
	d := &thinDevice{chunks: maps.Clone(k.devices[origin].chunks), owed: maps.Clone(k.devices[origin].owed)}
	for _, c := range d.chunks {
		k.refs[c]++
	}
	k.devices[id] = d
}

func (k *thinPool) remove(id int64) {
	if d := k.devices[id]; d != nil {
		for _, c := range d.chunks {
			k.unref(c)
		}
		delete(k.devices, id)
	}
}

// unref reports whether that was the last use of the chunk.
func (k *thinPool) unref(chunk int64) bool {
	if k.refs[chunk]--; k.refs[chunk] > 0 {
		return false
	}
	delete(k.refs, chunk)
	k.next = min(k.next, chunk)
	return true
}

// totalChunks and the two numbers below it are those of the kernel's status.
func (s *segment) totalChunks() int64 { return s.data.size() / s.chunk }

func (s *segment) usedChunks() int64 { return int64(len(s.kernel.refs)) }

// metadataBlocks is how many blocks of 4 KiB are used and there are. The use is
// the order of what the kernel's B-trees take.
func (s *segment) metadataBlocks() (used, total int64) {
	k := s.kernel
	total = s.meta.size() / 4096
	// The kernel counts its reserve as used (dm-thin-metadata.c).
	used = min(4096, total/10) + 9 + int64(len(k.devices)) + s.usedChunks()/128 + k.extraBlocks
	return min(used, total), total
}

// threshold is activation/thin_pool_autoextend_threshold of the package's
// lvm.conf, in percent.
const threshold = 95

// lowWaterMark is in chunks; LVM derives it from the threshold.
func (s *segment) lowWaterMark() int64 { return s.totalChunks() * (100 - threshold) / 100 }

// full reports whether lvcreate would refuse a thin volume: data or metadata
// above the threshold (lib/metadata/thin_manip.c, thin_pool_below_threshold).
func (s *segment) full() bool {
	used, total := s.metadataBlocks()
	return s.usedChunks()*100 > s.totalChunks()*threshold || used*100 > total*threshold
}

// take allocates a chunk; ENOSPC when there is none.
func (s *segment) take() (int64, error) {
	k := s.kernel
	if used, total := s.metadataBlocks(); used >= total || s.usedChunks() >= s.totalChunks() {
		s.noSpace()
		return 0, syscall.ENOSPC
	}
	for k.refs[k.next] > 0 {
		k.next++
	}
	chunk := k.next
	k.refs[chunk] = 1
	if s.totalChunks()-s.usedChunks() <= s.lowWaterMark() && !k.lowWater {
		k.lowWater = true
		k.event()
	}
	return chunk, nil
}

func (s *segment) noSpace() {
	if !s.kernel.outOfSpace {
		s.kernel.outOfSpace = true
		s.kernel.event()
	}
}

// rwThin reads or writes a thin device. A write to a chunk that is shared, or
// not there, takes a new one.
func (s *segment) rwThin(id, off int64, buf []byte, write bool) error {
	d := s.kernel.devices[id]
	if d == nil {
		return fmt.Errorf("thin device %d: %w", id, syscall.EIO)
	}
	for len(buf) > 0 {
		number, within := off/s.chunk, off%s.chunk
		n := min(s.chunk-within, int64(len(buf)))
		if err := s.rwChunk(d, number, within, buf[:n], write); err != nil {
			return err
		}
		off, buf = off+n, buf[n:]
	}
	return nil
}

func (s *segment) rwChunk(d *thinDevice, number, within int64, buf []byte, write bool) error {
	chunk, mapped := d.chunks[number]
	switch {
	case !mapped && !write:
		clear(buf)
		return nil
	case mapped && !write, mapped && s.kernel.refs[chunk] == 1:
		return s.data.rw(chunk*s.chunk+within, buf, write)
	}
	// New chunk, or break sharing.
	content := make([]byte, s.chunk)
	switch {
	case mapped:
		if err := s.data.rw(chunk*s.chunk, content, false); err != nil {
			return err
		}
	case !s.zero:
		content = nil
	}
	fresh, err := s.take()
	if err != nil {
		return err
	}
	if mapped {
		s.kernel.unref(chunk)
	}
	d.chunks[number] = fresh
	if content == nil {
		return s.data.rw(fresh*s.chunk+within, buf, true)
	}
	copy(content[within:], buf)
	return s.data.rw(fresh*s.chunk, content, true)
}

// discard unmaps every chunk of a device. What nobody else maps goes back to the
// disk too (passdown), which then reads as zeros.
func (s *segment) discard(id int64) error {
	d := s.kernel.devices[id]
	if d == nil {
		return fmt.Errorf("thin device %d: %w", id, syscall.EIO)
	}
	for _, number := range slices.Sorted(maps.Keys(d.chunks)) {
		chunk := d.chunks[number]
		delete(d.chunks, number)
		if s.kernel.unref(chunk) && s.discards == "passdown" {
			if err := s.data.rw(chunk*s.chunk, make([]byte, s.chunk), true); err != nil {
				return err
			}
		}
	}
	s.checkSpace()
	return nil
}

// checkSpace leaves the out-of-space mode once there is room again.
func (s *segment) checkSpace() {
	used, total := s.metadataBlocks()
	if s.usedChunks() < s.totalChunks() && used < total {
		s.kernel.outOfSpace = false
	}
	if s.totalChunks()-s.usedChunks() > s.lowWaterMark() {
		s.kernel.lowWater = false
	}
}
