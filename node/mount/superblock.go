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

// elsewhere is an error about a filesystem that has the kernel, or a checker, open
// another device: that of another volume, or a disk of the host. mkfs as we run it
// makes none, so somebody has crafted it.
func elsewhere(t FSType, what string) error {
	return fmt.Errorf("%w: %s of the %s filesystem lies on another device: left untouched", ErrForeign, what, t)
}

// parseSuperblock reads the head of a device. A filesystem that lies on other devices too
// is ErrForeign. Layouts: ext4 Documentation/filesystems/ext4/super.rst,
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
		hasJournal, inode := binary.LittleEndian.Uint32(sb[0x5C:])&4 != 0, binary.LittleEndian.Uint32(sb[0xE0:])
		isJournal, device := binary.LittleEndian.Uint32(sb[0x60:])&8 != 0, binary.LittleEndian.Uint32(sb[0xE4:])
		if isJournal || device != 0 || hasJournal && inode == 0 {
			return Superblock{}, elsewhere(Ext4, "its journal")
		}
		super.Errors = binary.LittleEndian.Uint16(sb[0x3A:])&2 != 0
	case XFS:
		if string(head[:4]) != "XFSB" {
			return Superblock{}, fmt.Errorf("no xfs superblock")
		}
		unit, blocks = uint64(binary.BigEndian.Uint32(head[4:])), binary.BigEndian.Uint64(head[8:])
		if logStart := binary.BigEndian.Uint64(head[48:]); logStart == 0 {
			return Superblock{}, elsewhere(XFS, "its log")
		}
		if realtime := binary.BigEndian.Uint64(head[16:]); realtime != 0 {
			return Superblock{}, elsewhere(XFS, "a realtime section")
		}
	case Btrfs:
		sb := head[64<<10:]
		if string(sb[0x40:0x48]) != "_BHRfS_M" {
			return Superblock{}, fmt.Errorf("no btrfs superblock")
		}
		const devItem = 0xC9
		unit, blocks = 1, binary.LittleEndian.Uint64(sb[devItem+8:])
		if devices := binary.LittleEndian.Uint64(sb[0x88:]); devices != 1 {
			return Superblock{}, elsewhere(Btrfs, "a part of it")
		}
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
