// Package mount brings a volume's block device to a mounted filesystem and back: probe, format,
// stage, publish, grow, stats, LUKS2.
//
// One rule stands above the others. A device is formatted only if blkid finds nothing on it and the
// volume's own record ([State]) says that it was never formatted. The record changes after mkfs and
// before the first mount, so a crash in mkfs is simply done again: mkfs always sets the UUID that
// belongs to the volume, and a device that is recorded as new and holds exactly that filesystem with
// exactly that UUID is our own unfinished or unrecorded mkfs, which was never mounted. Everything
// else is a [ForeignError] for a person, and nothing is changed.
//
// What a mkfs that was cut in the middle leaves:
//
//   - ext4: mke2fs wipes the old primary superblock first and writes the new one when it closes the
//     filesystem (misc/mke2fs.c zap_sector, lib/ext2fs/closefs.c), so blkid finds nothing or ours.
//   - xfs: the superblock is on disk, with our UUID and sb_inprogress set, before the allocation
//     groups are complete (mkfs/xfs_mkfs.c), so blkid finds nothing or ours.
//   - btrfs: the superblock carries a temporary magic number until the last commit (mkfs/common.c,
//     BTRFS_MAGIC_TEMPORARY), so blkid finds nothing; older progs leave ours.
//   - LUKS2: the header with our UUID is written before its first key slot, so blkid finds nothing or
//     a header that is ours and that perhaps no key opens.
//
// Methods of [Mounter] are safe for different volumes at the same time. The caller serialises calls
// for one volume. A command that changes something runs to its end even if the caller's context is
// cancelled, so a call may outlive its context.
package mount
