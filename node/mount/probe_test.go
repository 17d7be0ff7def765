package mount

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseSignature(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       Signature
		wantErr    bool
	}{
		{"xfs 2.38", "DEVNAME=/dev/dm-3\nUUID=11111111-1111-4111-8111-111111111111\nBLOCK_SIZE=512\nTYPE=xfs\nUSAGE=filesystem\n",
			Signature{Type: "xfs", UUID: "11111111-1111-4111-8111-111111111111", Usage: "filesystem"}, false},
		{"label with an equals sign", "LABEL=a=b\nTYPE=ext4\n", Signature{Type: "ext4", Label: "a=b"}, false},
		{"partition table", "DEVNAME=/dev/vda\nPTUUID=1234\nPTTYPE=gpt\n", Signature{PTType: "gpt"}, false},
		{"lvm", "VERSION=LVM2 001\nTYPE=LVM2_member\nUSAGE=raid\n", Signature{Type: "LVM2_member", Usage: "raid"}, false},
		{"empty success", "", Signature{}, true},
		{"success that names nothing", "DEVNAME=/dev/dm-3\nUUID=1\n", Signature{}, true},
		{"noise", "TYPE\n=\n\x00\xff", Signature{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseSignature([]byte(tt.text))
			if strings.Contains(tt.name, ", ") && !errors.Is(err, ErrForeign) {
				t.Errorf("error = %v, want %v", err, ErrForeign)
			}
			if (err != nil) != tt.wantErr {
				t.Fatalf("error = %v, want error %v", err, tt.wantErr)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("signature (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseSignature(f *testing.F) {
	f.Add([]byte("DEVNAME=/dev/dm-3\nTYPE=xfs\n"))
	f.Add([]byte("PTTYPE=dos"))
	f.Fuzz(func(t *testing.T, text []byte) {
		// Success of blkid must never be read as an empty device.
		if s, err := parseSignature(text); err == nil && !s.Found() {
			t.Errorf("%q gives an empty signature", text)
		}
	})
}

func TestParseSuperblock(t *testing.T) {
	head := func(fill func([]byte)) []byte {
		h := make([]byte, superblockSpan)
		fill(h)
		return h
	}
	ext4 := func(h []byte) {
		h[1024+0x38], h[1024+0x39] = 0x53, 0xEF
		h[1024+0x18] = 2    // 4 KiB blocks
		h[1024+0x4+1] = 1   // 256 blocks
		h[1024+0x60] = 0x80 // 64bit
		h[1024+0x150] = 1   // 1<<32 blocks more
		h[1024+0x3A] = 2    // errors
	}
	xfs := func(h []byte) {
		copy(h, "XFSB\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x01\x00")
		h[55] = 8 // the log begins in block 8
	}
	btrfs := func(h []byte) {
		sb := h[64<<10:]
		copy(sb[0x40:], "_BHRfS_M")
		sb[0x60] = 1
		sb[0xC9+8+3] = 1
		sb[0x88] = 1 // one device
	}
	crafted := func(fs func([]byte), at int, value byte) []byte {
		return head(func(h []byte) { fs(h); h[at] = value })
	}
	for _, tt := range []struct {
		name    string
		fsType  FSType
		head    []byte
		want    Superblock
		wantErr bool
	}{
		{"ext4", Ext4, head(ext4), Superblock{Size: (1<<32 + 256) * 4096, Errors: true}, false},
		{"xfs", XFS, head(xfs), Superblock{Size: 1 << 20}, false},
		{"btrfs", Btrfs, head(btrfs), Superblock{Size: 1 << 24, Log: true}, false},
		{"ext4, journal on another device", Ext4, crafted(ext4, 1024+0xE5, 8), Superblock{}, true},
		{"ext4, journal nowhere", Ext4, crafted(ext4, 1024+0x5C, 4), Superblock{}, true},
		{"ext4, is a journal", Ext4, crafted(ext4, 1024+0x60, 0x88), Superblock{}, true},
		{"xfs, log on another device", XFS, crafted(xfs, 55, 0), Superblock{}, true},
		{"xfs, realtime device", XFS, crafted(xfs, 23, 1), Superblock{}, true},
		{"btrfs, two devices", Btrfs, crafted(btrfs, 64<<10+0x88, 2), Superblock{}, true},
		{"btrfs, no device", Btrfs, crafted(btrfs, 64<<10+0x88, 0), Superblock{}, true},
		{"wrong type", XFS, head(ext4), Superblock{}, true},
		{"short", Ext4, make([]byte, 4096), Superblock{}, true},
		{"zeros", Btrfs, make([]byte, superblockSpan), Superblock{}, true},
		{"overflow", XFS, head(func(h []byte) { copy(h, "XFSB\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff") }), Superblock{}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseSuperblock(tt.fsType, tt.head)
			if strings.Contains(tt.name, ", ") && !errors.Is(err, ErrForeign) {
				t.Errorf("error = %v, want %v", err, ErrForeign)
			}
			if (err != nil) != tt.wantErr {
				t.Fatalf("error = %v, want error %v", err, tt.wantErr)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("superblock (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseSuperblock(f *testing.F) {
	f.Add("ext4", []byte("x"), uint16(1024))
	f.Add("ext4", []byte("\x53\xef\x01\x00\x02\x00"), uint16(1024+0x38))
	f.Add("xfs", []byte("XFSB\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x01\x00"), uint16(0))
	f.Fuzz(func(t *testing.T, fsType string, data []byte, at uint16) {
		head := make([]byte, superblockSpan)
		copy(head[at:], data)
		s, err := parseSuperblock(FSType(fsType), head)
		if err == nil && s.Size <= 0 {
			t.Errorf("size %d without an error", s.Size)
		}
		if err == nil && fsType == "ext4" && binary.LittleEndian.Uint32(head[1024+0xE4:]) != 0 {
			t.Error("a journal on another device")
		}
	})
}
