//go:build vm

package disk

import (
	"encoding/binary"
	"hash/crc32"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The signatures below are written by hand, since the userland that the tests run on has no program that
// makes them.

var le = binary.LittleEndian

// mbr is a boot sector with one partition, in sectors.
func mbr(kind byte, start, length uint32) []byte {
	b := make([]byte, 512)
	b[446+4] = kind
	le.PutUint32(b[446+8:], start)
	le.PutUint32(b[446+12:], length)
	b[510], b[511] = 0x55, 0xaa
	return b
}

// writeGPT writes a protective MBR, a GPT with one Linux partition of 128 MiB, and the backup (UEFI 2.10, §5.3).
func writeGPT(t *testing.T, d Disk) {
	last := uint64(d.Size)/512 - 1
	entries := make([]byte, 128*128)
	// The Linux filesystem type 0FC63DAF-8483-4772-8E79-3D69D8477DE4 in its mixed byte order.
	copy(entries, "\xaf\x3d\xc6\x0f\x83\x84\x72\x47\x8e\x79\x3d\x69\xd8\x47\x7d\xe4")
	copy(entries[16:], "unique partition")
	le.PutUint64(entries[32:], 2048)
	le.PutUint64(entries[40:], 2048+128<<11-1)
	header := func(self, other, table uint64) []byte {
		b := make([]byte, 512)
		copy(b, "EFI PART")
		le.PutUint32(b[8:], 0x10000)
		le.PutUint32(b[12:], 92)
		le.PutUint64(b[24:], self)
		le.PutUint64(b[32:], other)
		le.PutUint64(b[40:], 34)
		le.PutUint64(b[48:], last-33)
		copy(b[56:], "unique disk guid")
		le.PutUint64(b[72:], table)
		le.PutUint32(b[80:], 128)
		le.PutUint32(b[84:], 128)
		le.PutUint32(b[88:], crc32.ChecksumIEEE(entries))
		le.PutUint32(b[16:], crc32.ChecksumIEEE(b[:92]))
		return b
	}
	writeAt(t, d, 0, mbr(0xee, 1, uint32(last)))
	writeAt(t, d, 512, header(1, last, 2))
	writeAt(t, d, 1024, entries)
	writeAt(t, d, int64(last-32)*512, entries)
	writeAt(t, d, int64(last)*512, header(last, 1, last-32))
}

// swapHeader is that of a version 1 area of 4 KiB pages (union swap_header in include/linux/swap.h).
func swapHeader(d Disk) []byte {
	b := make([]byte, 4096)
	le.PutUint32(b[1024:], 1)
	le.PutUint32(b[1028:], uint32(d.Size/4096-1))
	copy(b[1036:], "swap uuid 16 byt")
	copy(b[4086:], "SWAPSPACE2")
	return b
}

// swap swaps to device until the test ends.
func swap(t *testing.T, device string) {
	path, err := unix.BytePtrFromString(device)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(path)), 0, 0); errno != 0 {
		t.Fatalf("swapon %s: %v", device, errno)
	}
	t.Cleanup(func() {
		if _, _, errno := unix.Syscall(unix.SYS_SWAPOFF, uintptr(unsafe.Pointer(path)), 0, 0); errno != 0 {
			t.Errorf("swapoff %s: %v", device, errno)
		}
	})
}

// mdSuperblock is a version 1.2 superblock of a RAID 1 (struct mdp_superblock_1 in
// include/uapi/linux/raid/md_p.h), to be written at byte 4096.
func mdSuperblock(d Disk) []byte {
	b := make([]byte, 258)
	le.PutUint32(b[0:], 0xa92b4efc)
	le.PutUint32(b[4:], 1) // major version
	copy(b[16:], "set uuid 16 byte")
	copy(b[32:], "host:array")
	le.PutUint32(b[72:], 1) // level
	le.PutUint64(b[80:], uint64(d.Size)/512-2048)
	le.PutUint32(b[92:], 2)     // disks
	le.PutUint64(b[128:], 2048) // data offset
	le.PutUint64(b[136:], uint64(d.Size)/512-2048)
	le.PutUint64(b[144:], 8) // this superblock's own offset, in sectors
	copy(b[168:], "dev uuid 16 byte")
	le.PutUint32(b[220:], 1) // roles that follow
	var sum uint64
	for i := 0; i < 256; i += 4 {
		sum += uint64(le.Uint32(b[i:]))
	}
	sum += uint64(le.Uint16(b[256:]))
	le.PutUint32(b[216:], uint32(sum)+uint32(sum>>32))
	return b
}

// writeZFS fills the uberblock rings of all four labels.
func writeZFS(t *testing.T, d Disk) {
	const label = 256 << 10
	ring := make([]byte, label/2)
	for i := 0; i < len(ring); i += 1 << 10 {
		le.PutUint64(ring[i:], 0x00bab10c)
		le.PutUint64(ring[i+8:], 5000)             // version
		le.PutUint64(ring[i+16:], uint64(i)>>10+1) // transaction group
		le.PutUint64(ring[i+24:], 42)              // sum of GUIDs
		le.PutUint64(ring[i+32:], 1700000000)
	}
	end := d.Size &^ (label - 1)
	for _, start := range []int64{0, label, end - 2*label, end - label} {
		writeAt(t, d, start+label/2, ring)
	}
}
