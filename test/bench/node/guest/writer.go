package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime/debug"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// writerCommand makes this program a writer; device and shared file follow.
const writerCommand = "write"

const (
	writeSize = 4 << 10
	writeSpan = 4 << 20 // provisioned first, so that no write allocates
	writeTick = time.Millisecond
)

// shared is what the writer tells: how many writes it made, and the slowest since
// somebody set it to 0, in nanoseconds.
type shared struct{ writes, worst int64 }

func mapShared(path string) (*shared, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(4096); err != nil {
		return nil, err
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*shared)(unsafe.Pointer(&mem[0])), nil
}

// write writes 4 KiB at random places of a device, each millisecond, until it is
// killed. It has a real-time priority: on one processor it would otherwise wait
// for lvm's turn to end, and that wait be taken for the disk's.
func write(device, path string) error {
	s, err := mapShared(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(device, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	buf, err := aligned(1 << 20)
	if err != nil {
		return err
	}
	for off := int64(0); off < writeSpan; off += int64(len(buf)) {
		if _, err := f.WriteAt(buf, off); err != nil {
			return err
		}
	}
	debug.SetGCPercent(-1)
	if err := realTime(); err != nil {
		return fmt.Errorf("real-time priority: %w", err)
	}
	fd := int(f.Fd())
	tick := unix.NsecToTimespec(int64(writeTick))
	random := rand.New(rand.NewPCG(1, 2))
	for {
		off := random.Int64N(writeSpan/writeSize) * writeSize
		start := time.Now()
		if _, err := unix.Pwrite(fd, buf[:writeSize], off); err != nil {
			return err
		}
		took := int64(time.Since(start))
		if took > atomic.LoadInt64(&s.worst) {
			atomic.StoreInt64(&s.worst, took)
		}
		atomic.AddInt64(&s.writes, 1)
		if err := unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &tick, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// aligned is memory that O_DIRECT takes.
func aligned(n int) ([]byte, error) {
	return unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
}

// realTime sets SCHED_FIFO for every thread of the process (sched(7)).
func realTime() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	var param [4]byte
	binary.NativeEndian.PutUint32(param[:], 50)
	for _, t := range tasks {
		var tid int
		if _, err := fmt.Sscan(t.Name(), &tid); err != nil {
			return err
		}
		if _, _, errno := unix.Syscall(unix.SYS_SCHED_SETSCHEDULER, uintptr(tid), unix.SCHED_FIFO, uintptr(unsafe.Pointer(&param[0]))); errno != 0 {
			return errno
		}
	}
	return nil
}

// writer is a writer in a process of its own.
type writer struct {
	cmd *exec.Cmd
	*shared
}

func startWriter(device string) (*writer, error) {
	const path = "/tmp/writer"
	_ = os.Remove(path) // of an earlier writer
	s, err := mapShared(path)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", writerCommand, device, path)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	w := &writer{cmd, s}
	return w, w.pass()
}

// pass waits until writes have begun and ended since the call: what was in flight
// is counted then.
func (w *writer) pass() error {
	seen := atomic.LoadInt64(&w.writes)
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(writeTick) {
		if atomic.LoadInt64(&w.writes) >= seen+2 {
			return nil
		}
	}
	return errors.New("the writer does not write")
}

// worstDuring is the slowest write while do ran.
func (w *writer) worstDuring(do func() error) (time.Duration, error) {
	if err := w.pass(); err != nil {
		return 0, err
	}
	atomic.StoreInt64(&w.worst, 0)
	if err := do(); err != nil {
		return 0, err
	}
	err := w.pass()
	return time.Duration(atomic.LoadInt64(&w.worst)), err
}

func (w *writer) stop() {
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait() // it was killed
}
