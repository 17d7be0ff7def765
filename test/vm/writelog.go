package vm

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"

	"golang.org/x/sys/unix"
)

// WriteLog is what a Disk.WriteLog holds: the writes, discards and flushes that the
// guest sent to the disk, in their order. The format is that of dm-log-writes
// (drivers/md/dm-log-writes.c), as QEMU writes it (block/blklogwrites.c).
type WriteLog struct {
	Entries []LogEntry
	file    *os.File
}

// LogEntry is one request to a logged disk.
type LogEntry struct {
	Offset, Length int64 // bytes on the disk; a flush has none
	Flush, Discard bool
	End            int64 // of the entry in the log: a log of that size has it
	data           int64 // where its bytes lie in the log
}

const (
	logMagic    = 0x6a736677736872
	logVersion  = 1
	logSector   = 512
	logFlush    = 1 << 0
	logDiscard  = 1 << 2
	logDataFrom = logSector // behind an entry's header
)

// ReadWriteLog reads the log of a machine that has ended. The caller closes it.
func ReadWriteLog(path string) (*WriteLog, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	l := &WriteLog{file: f}
	if err := l.read(); err != nil {
		f.Close()
		return nil, fmt.Errorf("write log %s: %w", path, err)
	}
	return l, nil
}

// Close closes the log's file.
func (l *WriteLog) Close() error { return l.file.Close() }

func (l *WriteLog) read() error {
	info, err := l.file.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, 28)
	if _, err := l.file.ReadAt(head, 0); err != nil {
		return err
	}
	le := binary.LittleEndian
	if le.Uint64(head) != logMagic || le.Uint64(head[8:]) != logVersion || le.Uint32(head[24:]) != logSector {
		return fmt.Errorf("its superblock is %x", head)
	}
	if err := l.entries(info.Size()); err != nil {
		return err
	}
	// It is written with each flush: behind the entries when the power was cut.
	if n := le.Uint64(head[16:]); uint64(len(l.Entries)) < n {
		return fmt.Errorf("it has %d entries, and %d can be read", n, len(l.Entries))
	}
	return nil
}

func (l *WriteLog) entries(size int64) error {
	le := binary.LittleEndian
	for at := int64(logSector); at < size; {
		e := make([]byte, 32)
		if _, err := l.file.ReadAt(e, at); err != nil {
			return err
		}
		sector, sectors, flags := int64(le.Uint64(e)), int64(le.Uint64(e[8:])), le.Uint64(e[16:])
		if sectors == 0 && flags == 0 {
			return nil // it was not written any more, and so not answered
		}
		if flags&^(logFlush|logDiscard) != 0 || sectors < 0 || sector < 0 || sectors > 1<<32 || sector > 1<<40 {
			return fmt.Errorf("entry %d at %d is %x", len(l.Entries), at, e)
		}
		entry := LogEntry{
			Offset: sector * logSector, Length: sectors * logSector,
			Flush: flags&logFlush != 0, Discard: flags&logDiscard != 0, data: at + logDataFrom,
		}
		entry.End = entry.data
		if !entry.Discard {
			entry.End += entry.Length
		}
		if at = entry.End; at > size {
			return nil
		}
		l.Entries = append(l.Entries, entry)
	}
	return nil
}

// Index is how many entries a log of that size has.
func (l *WriteLog) Index(size int64) int {
	n := 0
	for n < len(l.Entries) && l.Entries[n].End <= size {
		n++
	}
	return n
}

// Apply does entry n to an image of the disk.
func (l *WriteLog) Apply(n int, image *os.File) error {
	e := l.Entries[n]
	switch {
	case e.Length == 0:
		return nil
	case e.Discard: // discarded sectors of the rig's disks read as zeros
		return unix.Fallocate(int(image.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, e.Offset, e.Length)
	}
	_, err := io.Copy(io.NewOffsetWriter(image, e.Offset), io.NewSectionReader(l.file, e.data, e.Length))
	return err
}

// Volatile are the entries among the first n that lie in the disk's volatile cache:
// those after the last flush. A power cut after n entries may lose any of them.
func (l *WriteLog) Volatile(n int) []int {
	var out []int
	for i := n - 1; i >= 0 && !l.Entries[i].Flush; i-- {
		out = append([]int{i}, out...)
	}
	return out
}

// Survivors chooses which entries of a volatile cache a power cut leaves: all, none or
// any of them, each as a whole. Those that lie below inOrder bytes reach the disk in
// their order: where one is lost, the later ones are too.
func (l *WriteLog) Survivors(rng *rand.Rand, volatile []int, inOrder int64) []int {
	kind, stopped := rng.IntN(3), false
	var out []int
	for _, n := range volatile {
		ordered := l.Entries[n].Offset < inOrder
		switch {
		case kind == 0, ordered && stopped:
		case kind == 1, rng.IntN(2) == 0:
			out = append(out, n)
			continue
		}
		stopped = stopped || ordered
	}
	return out
}
