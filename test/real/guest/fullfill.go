//go:build vm

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/test/agent"
)

// fill brings the pool near its end, and lets the writers take what is left while
// volumes and snapshots are asked for.
func (f *full) fill() error {
	near := f.nearlyFull
	if f.metadata {
		near = f.nearlyFullMetadata
	}
	if err := near(); err != nil {
		return err
	}
	for _, w := range f.writers {
		w.start()
	}
	if err := f.askUntilRefused(); err != nil {
		return err
	}
	if !f.metadata {
		return nil
	}
	return f.eatUp()
}

// nearlyFull fills the ballast to some 85 % of the pool; of this its snapshot has a part
// for itself.
func (f *full) nearlyFull() (err error) {
	s, err := f.status()
	if err != nil {
		return err
	}
	const step = 1 << 20
	mine := s.GetSize() / 4
	upTo := s.GetSize()*int64(80+f.rnd.IntN(8))/100 - s.GetUsed() - mine
	if err := f.overwrite(f.ballast, upTo/step*step, step, step); err != nil {
		return err
	}
	if f.old, err = f.ballast.Snapshot(f.ctx, f.pool+"-old"); err != nil {
		return err
	}
	return f.overwrite(f.ballast, mine/step*step, step, step)
}

// A block of the metadata has 126 to 252 mappings of chunks that were written in order.
const (
	chunk64 = 64 << 10
	leaf    = 126 * chunk64
	leaves  = 120
	copies  = 9
)

// nearlyFullMetadata makes the ballast's mappings, shares them with copies, and writes to
// some of these: each write copies a block of metadata.
func (f *full) nearlyFullMetadata() (err error) {
	if err := f.overwrite(f.ballast, leaves*leaf, chunk64, 4096); err != nil {
		return err
	}
	if f.old, err = f.ballast.Snapshot(f.ctx, f.pool+"-old"); err != nil {
		return err
	}
	for n := range copies {
		v, err := f.Create(f.ctx, f.pool, fmt.Sprint(f.pool, "-copy-", n), "", 4*gib, f.old)
		if err != nil {
			return err
		}
		if err := v.Mount(f.ctx); err != nil {
			return err
		}
		f.copies = append(f.copies, v)
	}
	for {
		s, err := f.status()
		if err != nil || s.GetMetadataUsed()*100 > s.GetMetadataSize()*66 {
			return err
		}
		if err := f.eat(); err != nil {
			return err
		}
	}
}

// eat writes to each block of mappings of the next copy.
func (f *full) eat() error {
	if f.eaten == copies {
		return fmt.Errorf("after %d copies the metadata is not full", copies)
	}
	f.eaten++
	return f.overwrite(f.copies[f.eaten-1], leaves*leaf, leaf, 4096)
}

// eatUp takes what metadata is left.
func (f *full) eatUp() error {
	var err error
	for err == nil && f.eaten < copies {
		err = f.eat()
	}
	fmt.Println("  the write that failed:", err)
	out, err := exec.Command("dmsetup", "status", "--target", "thin-pool").Output()
	fmt.Printf("  %s", out)
	return err
}

// overwrite writes size bytes at every step of the beginning, past the page cache.
func (f *full) overwrite(v agent.Volume, to, step int64, size int) error {
	file, err := os.OpenFile(v.Target(), os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	if err != nil {
		return err
	}
	defer unix.Munmap(buf) //nolint:errcheck // a buffer
	buf[0] = 1
	for at := int64(0); at < to; at += step {
		if _, err := file.WriteAt(buf, at); err != nil {
			return err
		}
	}
	return file.Sync()
}

// askUntilRefused asks for volumes and snapshots while the writers fill the pool, until
// both are refused. Nothing else may stop them.
func (f *full) askUntilRefused() error {
	refused := map[string]bool{}
	for n := 0; len(refused) < 2; n++ {
		name := fmt.Sprint(f.pool, "-n", n)
		_, created := f.Create(f.ctx, f.pool, name, "ext4", gib, nil)
		_, snapped := f.writers[n%len(f.writers)].Snapshot(f.ctx, name)
		for what, err := range map[string]error{"volume": created, "snapshot": snapped} {
			if err == nil {
				continue
			}
			if err := tellsTheWayOut(err, f.pool); err != nil {
				return fmt.Errorf("%s %s: %w", what, name, err)
			}
			refused[what] = true
		}
	}
	return nil
}

func (f *full) status() (s *link.PoolStatus, err error) {
	err = f.await("there", func(got *link.PoolStatus) bool { s = got; return true })
	return s, errors.Join(err)
}
