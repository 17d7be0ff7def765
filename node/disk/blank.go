package disk

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
)

const (
	mib = 1 << 20
	// edge is how much of each end must be zero. Every format that LVM, md, ZFS, GPT, swap and LUKS use
	// leaves its first header, its backup, or both there.
	edge = mib
)

// readsZero refuses a disk whose first or last MiB holds anything. Plain reads serve: the page cache of a
// block device is coherent with who writes through it, and the disk is ours alone while this runs.
func readsZero(ctx context.Context, f *os.File, d Disk) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("measure it: %w", err)
	}
	if size != d.Size {
		return fmt.Errorf("its size is %d bytes, sysfs says %d", size, d.Size)
	}
	for _, part := range []struct {
		name string
		off  int64
	}{{"first", 0}, {"last", max(0, size-edge)}} {
		if err := ctx.Err(); err != nil {
			return err
		}
		buf := make([]byte, min(edge, size))
		if _, err := io.ReadFull(io.NewSectionReader(f, part.off, int64(len(buf))), buf); err != nil {
			return fmt.Errorf("read the %s MiB: %w", part.name, err)
		}
		i := bytes.IndexFunc(buf, func(r rune) bool { return r != 0 })
		if i < 0 {
			continue
		}
		hint := ""
		if what := looksLike(buf, part.off, size); what != "" {
			hint = ", which looks like " + what
		}
		return found("is not blank: the %s MiB is not zero at byte %d%s; wipe it yourself (wipefs, blkdiscard) if you are sure",
			part.name, part.off+int64(i), hint)
	}
	return nil
}

// signatures only name what the bytes may be: blkid knew nothing, so they are damaged, half wiped, or in
// places where it does not look. A negative offset counts from the disk's end.
var signatures = []struct {
	what   string
	offset int64
	magic  string
}{
	{"an LVM physical volume", 0, "LABELONE"},
	{"an LVM physical volume", 512, "LABELONE"},
	{"an LVM physical volume", 1024, "LABELONE"},
	{"an LVM physical volume", 1536, "LABELONE"},
	{"a LUKS header", 0, "LUKS\xba\xbe"},
	{"a second LUKS header", 0x4000, "SKUL\xba\xbe"},
	{"a GPT", 512, "EFI PART"},
	{"a GPT", 4096, "EFI PART"},
	{"a GPT backup", -512, "EFI PART"},
	{"a GPT backup", -4096, "EFI PART"},
	{"a boot sector or MBR", 510, "\x55\xaa"},
	{"an md member", 0, "\xfc\x4e\x2b\xa9"},
	{"an md member", 4096, "\xfc\x4e\x2b\xa9"},
	{"swap", 4086, "SWAPSPACE2"},
	{"btrfs", 0x10040, "_BHRfS_M"},
	{"ext2, ext3 or ext4", 0x438, "\x53\xef"},
	{"xfs", 0, "XFSB"},
	{"iso9660", 0x8001, "CD001"},
	{"a Ceph OSD", 0, "bluestore block device"},
}

// looksLike guesses what the non-zero bytes at off belong to; empty when it cannot tell.
func looksLike(buf []byte, off, size int64) string {
	at := func(pos int64, magic string) bool {
		pos -= off
		return pos >= 0 && pos < int64(len(buf)) && bytes.HasPrefix(buf[pos:], []byte(magic))
	}
	for _, sig := range signatures {
		pos := sig.offset
		if pos < 0 {
			pos += size
		}
		if at(pos, sig.magic) {
			return sig.what
		}
	}
	// md 1.0 lies 8 to 12 KiB before the end, md 0.90 64 to 128 KiB before it (Documentation/admin-guide/md.rst).
	for _, pos := range []int64{(size/512 - 16) &^ 7 * 512, size&^(64<<10-1) - 64<<10} {
		if at(pos, "\xfc\x4e\x2b\xa9") || at(pos, "\xa9\x2b\x4e\xfc") {
			return "an md member"
		}
	}
	return zfsLabel(at, size)
}

// zfsLabel looks for uberblocks: four labels of 256 KiB, two at each end, whose second halves are rings of
// them at steps of 1 KiB or more (OpenZFS include/sys/vdev_impl.h).
func zfsLabel(at func(int64, string) bool, size int64) string {
	const label = 256 << 10
	end := size &^ (label - 1)
	for _, start := range []int64{0, label, end - 2*label, end - label} {
		for pos := start + label/2; pos < start+label; pos += 1 << 10 {
			if at(pos, "\x0c\xb1\xba\x00\x00\x00\x00\x00") || at(pos, "\x00\x00\x00\x00\x00\xba\xb1\x0c") {
				return "a ZFS label"
			}
		}
	}
	return ""
}
