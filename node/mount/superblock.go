package mount

import (
	"encoding/binary"
	"fmt"
)

// Superblock is what a filesystem's primary superblock says.
type Superblock struct {
	// Size is the filesystem's size in bytes, from the first byte of the device.
	Size int64
	// Log says that a btrfs log tree waits for replay.
	Log bool
	// Errors says that ext4 has recorded an error, so that it wants a check.
	Errors bool
}

// superblockSpan is how much of a device's head parseSuperblock needs: btrfs keeps its primary
// superblock at 64 KiB.
const superblockSpan = 64<<10 + 4<<10

// parseSuperblock reads the head of a device. Layouts: ext4 Documentation/filesystems/ext4/super.rst,
// xfs fs/xfs/libxfs/xfs_format.h (struct xfs_dsb), btrfs include/uapi/linux/btrfs_tree.h (struct
// btrfs_super_block; dev_item.total_bytes is this device's share, and a volume has one device).
func parseSuperblock(fsType FSType, head []byte) (Superblock, error) {
	if len(head) < superblockSpan {
		return Superblock{}, fmt.Errorf("%s superblock: %d bytes are too few", fsType, len(head))
	}
	var super Superblock
	var blocks, unit uint64
	switch fsType {
	case Ext4:
		sb := head[1024:]
		if binary.LittleEndian.Uint16(sb[0x38:]) != 0xEF53 {
			return Superblock{}, fmt.Errorf("no ext4 superblock")
		}
		blocks = uint64(binary.LittleEndian.Uint32(sb[0x4:]))
		if binary.LittleEndian.Uint32(sb[0x60:])&0x80 != 0 { // INCOMPAT_64BIT
			blocks |= uint64(binary.LittleEndian.Uint32(sb[0x150:])) << 32
		}
		unit = 1024 << (binary.LittleEndian.Uint32(sb[0x18:]) & 0xF)
		super.Errors = binary.LittleEndian.Uint16(sb[0x3A:])&2 != 0
	case XFS:
		if string(head[:4]) != "XFSB" {
			return Superblock{}, fmt.Errorf("no xfs superblock")
		}
		unit, blocks = uint64(binary.BigEndian.Uint32(head[4:])), binary.BigEndian.Uint64(head[8:])
	case Btrfs:
		sb := head[64<<10:]
		if string(sb[0x40:0x48]) != "_BHRfS_M" {
			return Superblock{}, fmt.Errorf("no btrfs superblock")
		}
		const devItem = 0xC9
		unit, blocks = 1, binary.LittleEndian.Uint64(sb[devItem+8:])
		super.Log = binary.LittleEndian.Uint64(sb[0x60:]) != 0
	default:
		return Superblock{}, invalidf("filesystem type %q", fsType)
	}
	if unit == 0 || blocks == 0 || blocks > 1<<62/unit {
		return Superblock{}, fmt.Errorf("%s superblock claims %d blocks of %d bytes", fsType, blocks, unit)
	}
	super.Size = int64(blocks * unit)
	return super, nil
}
