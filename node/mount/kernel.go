package mount

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Kernel is what the package asks of the running kernel without a fork.
type Kernel interface {
	// DeviceSize returns the size of a block device in bytes.
	DeviceSize(device string) (int64, error)
	// SameDevice tells whether two paths are nodes of one block device, whatever their names.
	SameDevice(a, b string) (bool, error)
	// DeviceNumber returns the number of a block device.
	DeviceNumber(device string) (major, minor uint32, err error)
	// LiesOn tells whether the device-mapper device upper lies directly on lower.
	LiesOn(upper, lower string) (bool, error)
	// CheckReadable reads where signatures live. blkid cannot be asked: it exits as if it had found
	// nothing when it cannot open or read a device.
	CheckReadable(device string) error
	// Superblock reads the primary superblock from the device. Of a mounted filesystem it may be an
	// older one, so Size may be too small then; filesystems of volumes never shrink.
	Superblock(device string, fsType FSType) (Superblock, error)
	// GrowXFS grows a mounted xfs to the size of its device, in bytes.
	GrowXFS(mountpoint string, size int64) error
	// Freeze makes a mounted filesystem durable and holds its writers until Thaw (FIFREEZE, FITHAW).
	// Thaw of one that is not frozen is EINVAL.
	Freeze(mountpoint string) error
	Thaw(mountpoint string) error
	// Stats measures a mounted filesystem or a block device.
	Stats(path string) (Stats, error)
	// FilesystemErrors returns how many errors ext4 has recorded on a device, 0 for others.
	FilesystemErrors(device string) (uint64, error)
}

type linux struct{}

func (linux) DeviceSize(device string) (int64, error) {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return blockSize(f)
}

func blockSize(f *os.File) (int64, error) {
	var size uint64
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), unix.BLKGETSIZE64, uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return 0, &os.PathError{Op: "BLKGETSIZE64", Path: f.Name(), Err: errno}
	}
	return int64(size), nil
}

// blockNumber returns a block device's number; ok is false when path is no block device or is gone
// (the source of a mount may be "tmpfs").
func blockNumber(path string) (number uint64, ok bool, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	} else if err != nil {
		return 0, false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Rdev, st.Mode&unix.S_IFMT == unix.S_IFBLK, nil
}

func (linux) SameDevice(a, b string) (bool, error) {
	numberA, blockA, err := blockNumber(a)
	if err != nil {
		return false, err
	}
	numberB, blockB, err := blockNumber(b)
	if err != nil {
		return false, err
	}
	return blockA && blockB && numberA == numberB, nil
}

func (linux) DeviceNumber(device string) (major, minor uint32, err error) {
	number, block, err := blockNumber(device)
	if err == nil && !block {
		err = fmt.Errorf("%s is no block device", device)
	}
	return unix.Major(number), unix.Minor(number), err
}

func (linux) LiesOn(upper, lower string) (bool, error) {
	number, block, err := blockNumber(upper)
	if err != nil {
		return false, err
	}
	if !block {
		return false, fmt.Errorf("%s is no block device", upper)
	}
	want, block, err := blockNumber(lower)
	if err != nil || !block {
		return false, err
	}
	slaves, err := filepath.Glob(sysBlock(number) + "/slaves/*/dev")
	if err != nil {
		return false, err
	}
	for _, slave := range slaves {
		text, err := os.ReadFile(slave)
		if err != nil {
			return false, err
		}
		if strings.TrimSpace(string(text)) == fmt.Sprintf("%d:%d", unix.Major(want), unix.Minor(want)) {
			return true, nil
		}
	}
	return false, nil
}

func sysBlock(number uint64) string {
	return fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(number), unix.Minor(number))
}

func (linux) CheckReadable(device string) error {
	const span = 2 << 20
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := blockSize(f)
	if err != nil {
		return err
	}
	buf := make([]byte, min(span, size))
	for _, offset := range []int64{0, size - int64(len(buf))} {
		if _, err := io.ReadFull(io.NewSectionReader(f, offset, int64(len(buf))), buf); err != nil {
			return fmt.Errorf("read %s at %d: %w", device, offset, err)
		}
	}
	return nil
}

func (linux) Superblock(device string, fsType FSType) (Superblock, error) {
	f, err := os.OpenFile(device, os.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Superblock{}, err
	}
	defer f.Close()
	head := make([]byte, superblockSpan)
	if _, err := io.ReadFull(f, head); err != nil {
		return Superblock{}, fmt.Errorf("read %s: %w", device, err)
	}
	super, err := parseSuperblock(fsType, head)
	if err != nil {
		return Superblock{}, fmt.Errorf("%s: %w", device, err)
	}
	return super, nil
}

func (linux) Stats(path string) (Stats, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Stats{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		size, err := linux{}.DeviceSize(path)
		return Stats{Block: true, Total: size}, err
	}
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return Stats{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return Stats{
		Total:      int64(s.Blocks) * s.Frsize,
		Used:       int64(s.Blocks-s.Bfree) * s.Frsize,
		Available:  int64(s.Bavail) * s.Frsize,
		Inodes:     int64(s.Files),
		InodesUsed: int64(s.Files - s.Ffree),
		InodesFree: int64(s.Ffree),
	}, nil
}

func (linux) FilesystemErrors(device string) (uint64, error) {
	number, block, err := blockNumber(device)
	if err != nil {
		return 0, err
	}
	if !block {
		return 0, fmt.Errorf("%s is no block device", device)
	}
	// The kernel's name of the device: a node in /dev/mapper is not always a symlink.
	link, err := os.Readlink(sysBlock(number))
	if err != nil {
		return 0, err
	}
	// Documentation/ABI/testing/sysfs-fs-ext4.
	text, err := os.ReadFile(filepath.Join("/sys/fs/ext4", filepath.Base(link), "errors_count"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}
