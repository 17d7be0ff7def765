//go:build vm

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/test/agent"
)

// writer appends records to files of a volume, each with an fsync. What that has
// acknowledged must be there for ever.
type writer struct {
	agent.Volume
	seed  uint64
	next  uint64
	files int // that were given up
	acked []entry
	// doubtful was acknowledged in a file after an fsync of that file had failed.
	doubtful []entry

	longest time.Duration // of the records that were acknowledged
	took    time.Duration // of the one that failed first
	err     error         // of that one
	failed  chan struct{} // closed at the first failure
	stop    chan struct{}
	done    chan error
}

// entry is where a content lies that can be computed again.
type entry struct {
	file  string
	at    int64
	size  int
	count uint64
}

// perFile is how many records a file has.
const perFile = 50

// start writes until stop is closed or a record fails.
func (w *writer) start() {
	w.failed, w.done = make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-w.stop:
				w.done <- nil
				return
			default:
			}
			if err := w.one(); err != nil {
				w.err = err
				close(w.failed)
				w.done <- err
				return
			}
		}
	}()
}

// write appends some records.
func (w *writer) write(records int) error {
	for range records {
		if err := w.one(); err != nil {
			return err
		}
	}
	return nil
}

// again writes a record to the file whose fsync has failed, and gives the file up.
func (w *writer) again() error {
	before := len(w.acked)
	err := w.one()
	w.doubtful = append(w.doubtful, w.acked[before:]...)
	w.acked = w.acked[:before]
	w.files++
	return err
}

func (w *writer) one() error {
	r := entry{file: filepath.Join(w.Target(), fmt.Sprintf("records-%d-%d", w.files, w.next/perFile)), count: w.next}
	r.size = 1 + int(w.random(r.count).Uint64N(256<<10))
	w.next++
	start := time.Now()
	at, err := appendTo(r.file, w.content(r))
	took := time.Since(start)
	if err != nil {
		w.took = took
		return err
	}
	r.at, w.longest = at, max(w.longest, took)
	w.acked = append(w.acked, r)
	return nil
}

func appendTo(file string, data []byte) (at int64, err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	at, err = f.Seek(0, 2)
	if err != nil {
		return 0, errors.Join(err, f.Close())
	}
	if _, err := f.Write(data); err != nil {
		return 0, errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return 0, errors.Join(err, f.Close())
	}
	return at, f.Close()
}

func (w *writer) random(count uint64) *rand.Rand { return rand.New(rand.NewPCG(w.seed, count)) }

func (w *writer) content(r entry) []byte {
	rnd := w.random(r.count)
	rnd.Uint64() // its size
	data := make([]byte, 0, r.size+8)
	for len(data) < r.size {
		data = binary.LittleEndian.AppendUint64(data, rnd.Uint64())
	}
	return data[:r.size]
}

// check reads every record that was acknowledged, from the device.
func (w *writer) check() error {
	if len(w.acked) == 0 {
		return fmt.Errorf("%s: nothing was acknowledged", w.Name)
	}
	for _, r := range w.acked {
		if err := w.there(r); err != nil {
			return err
		}
	}
	return nil
}

// there reads one record, from the device.
func (w *writer) there(r entry) error {
	f, err := os.Open(r.file)
	if err != nil {
		return err
	}
	defer f.Close()
	got := make([]byte, r.size)
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	if _, err := f.ReadAt(got, r.at); err != nil {
		return fmt.Errorf("record %d of %s: %w", r.count, w.Name, err)
	}
	want := w.content(r)
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("record %d of %s (%d bytes at %d of %s) was acknowledged, and byte %d of it is %#x, not %#x",
				r.count, w.Name, r.size, r.at, r.file, i, got[i], want[i])
		}
	}
	return nil
}
