package lvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReadMetadata implements [Kernel]. A buffered read is coherent with LVM's
// direct writes: the kernel drops cached pages of what is written directly.
func (*LinuxKernel) ReadMetadata(dev DevicePath, known Generation) (RawMetadata, error) {
	f, err := openDevice(dev.s, os.O_RDONLY)
	if err != nil {
		return RawMetadata{}, err
	}
	defer f.Close()
	raw, err := readMetadata(f, known)
	for try := 0; try < 3 && errors.Is(err, errTorn); try++ {
		raw, err = readMetadata(f, known)
	}
	if err != nil {
		return RawMetadata{}, fmt.Errorf("%s: %w", dev, err)
	}
	return raw, nil
}

// Probe implements [Kernel].
func (*LinuxKernel) Probe(dev DevicePath) error {
	f, err := openDevice(dev.s, os.O_RDONLY|unix.O_DIRECT)
	if err != nil {
		return err
	}
	defer f.Close()
	buf, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	if err != nil {
		return fmt.Errorf("read %s: %w", dev, err)
	}
	defer unix.Munmap(buf) //nolint:errcheck // a buffer
	if _, err := f.ReadAt(buf, 0); err != nil {
		return err
	}
	return nil
}

// Flush implements [Kernel]: fsync on a block device sends a cache flush. LVM
// does not flush its last metadata write, so a power cut could undo a change
// that was already acknowledged.
func (*LinuxKernel) Flush(dev DevicePath) error {
	f, err := openDevice(dev.s, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fsync(int(f.Fd())); err != nil {
		return fmt.Errorf("flush %s: %w", dev, err)
	}
	return nil
}

// Discard implements [Kernel]. O_EXCL makes the kernel refuse a device that is
// mounted or held, and keeps others from it meanwhile.
func (*LinuxKernel) Discard(path string) error {
	f, err := openDevice(path, os.O_RDWR|unix.O_EXCL)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := deviceSize(f)
	if err != nil {
		return err
	}
	return rangeIoctl(f, unix.BLKDISCARD, 0, size)
}

// Zero implements [Kernel].
func (*LinuxKernel) Zero(path string, from, to int64) error {
	f, err := openDevice(path, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := rangeIoctl(f, unix.BLKZEROOUT, from, to-from); err != nil {
		return err
	}
	return f.Sync()
}

func openDevice(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, fmt.Errorf("open %s: %w", path, ErrInUse)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("open %s: %w", path, ErrNotFound)
	case err != nil:
		return nil, err
	}
	return f, nil
}

func deviceSize(f *os.File) (int64, error) {
	var size uint64
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size))); errno != 0 {
		return 0, fmt.Errorf("size of %s: %w", f.Name(), errno)
	}
	return int64(size), nil
}

// rangeIoctl makes an ioctl that takes {start, length} in bytes.
func rangeIoctl(f *os.File, request uintptr, start, length int64) error {
	if length <= 0 {
		return nil
	}
	arg := make([]byte, 16)
	binary.NativeEndian.PutUint64(arg, uint64(start))
	binary.NativeEndian.PutUint64(arg[8:], uint64(length))
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&arg[0]))); errno != 0 {
		return fmt.Errorf("%s, %d bytes at %d: %w", f.Name(), length, start, errno)
	}
	return nil
}
