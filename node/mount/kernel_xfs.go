package mount

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fs/xfs/libxfs/xfs_fs.h. xfs_growfs(8) is a shell script in some distributions, and the node's
// userland has no shell.
type xfsGeometryV1 struct {
	blockSize, rtExtSize, agBlocks, agCount      uint32
	logBlocks, sectSize, inodeSize, imaxPct      uint32
	dataBlocks, rtBlocks, rtExtents, logStart    uint64
	uuid                                         [16]byte
	sunit, swidth, version, flags                uint32
	logSectSize, rtSectSize, dirBlockSize, unset uint32
}

type xfsGrowData struct {
	newBlocks uint64
	imaxPct   uint32
	_         uint32
}

const (
	xfsIocGeometryV1 = 0x80705864 // _IOR('X', 100, struct xfs_fsop_geom_v1)
	xfsIocGrowData   = 0x4010586e // _IOW('X', 110, struct xfs_growfs_data)
)

// The ioctl numbers carry these sizes.
var (
	_ [112]byte = [unsafe.Sizeof(xfsGeometryV1{})]byte{}
	_ [16]byte  = [unsafe.Sizeof(xfsGrowData{})]byte{}
)

func (linux) GrowXFS(mountpoint string, size int64) error {
	f, err := os.OpenFile(mountpoint, os.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var geometry xfsGeometryV1
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), xfsIocGeometryV1, uintptr(unsafe.Pointer(&geometry))); errno != 0 {
		return &os.PathError{Op: "XFS_IOC_FSGEOMETRY", Path: mountpoint, Err: errno}
	}
	blocks := uint64(size) / uint64(geometry.blockSize)
	if blocks <= geometry.dataBlocks {
		return nil
	}
	grow := xfsGrowData{newBlocks: blocks, imaxPct: geometry.imaxPct}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), xfsIocGrowData, uintptr(unsafe.Pointer(&grow))); errno != 0 {
		return &os.PathError{Op: "XFS_IOC_FSGROWFSDATA", Path: mountpoint, Err: errno}
	}
	return nil
}
