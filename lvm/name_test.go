package lvm

import (
	"errors"
	"strings"
	"testing"
)

func TestParseLVName(t *testing.T) {
	for _, s := range []string{
		"pvc-0c0a5a3e-6c1f-4a7e-9d1f-7b0b8a7b1c2d", "a", "A.b_c+d", "_", ".a", "...", "+", "snap-1", "lvol0",
		"mysnapshot", "vpvmove", "tdata", strings.Repeat("x", 127),
	} {
		n, err := ParseLVName(s)
		if err != nil || n.String() != s {
			t.Errorf("ParseLVName(%q) = %v, %v", s, n, err)
		}
	}
	for _, s := range hostileNames {
		if n, err := ParseLVName(s); !errors.Is(err, ErrInvalid) || !n.IsZero() {
			t.Errorf("ParseLVName(%.20q) = %v, %v, want ErrInvalid", s, n, err)
		}
	}
	for _, s := range reservedNames {
		if n, err := ParseLVName(s); !errors.Is(err, ErrInvalid) || !n.IsZero() {
			t.Errorf("ParseLVName(%q) = %v, %v, want ErrInvalid", s, n, err)
		}
	}
}

func TestParseVGName(t *testing.T) {
	// What is reserved for LVs is not for groups.
	for _, s := range append([]string{"lamina-fast", "data", "a.b", strings.Repeat("x", 127)}, reservedNames...) {
		n, err := ParseVGName(s)
		if err != nil || n.String() != s || n.IsZero() {
			t.Errorf("ParseVGName(%q) = %v, %v", s, n, err)
		}
	}
	for _, s := range hostileNames {
		if n, err := ParseVGName(s); !errors.Is(err, ErrInvalid) || !n.IsZero() {
			t.Errorf("ParseVGName(%.20q) = %v, %v, want ErrInvalid", s, n, err)
		}
	}
}

var hostileNames = []string{
	"", ".", "..", "-y", "--yes", "-", "@tag", "a@b", "../../x", "a/b", "/", "vg/lv", "a b", " a", "a\n", "a\x00b",
	"ünïcode", "日本", "a,b", "a;b", "a=b", "a:b", "a#b", "a'b", `a"b`, "$(x)", "*", "[a]", "a\\b", "\xff",
	strings.Repeat("x", 128), strings.Repeat("x", 300),
}

var reservedNames = []string{
	"snapshot", "snapshot-1", "pvmove0", "a_tdata", "a_tmeta", "x_rimage_0", "x_rmeta_0", "a_cdata", "a_cmeta",
	"a_corig", "a_mlog", "a_mimage_1", "lvol0_pmspare", "a_vdata", "a_vorigin", "a_tdatab", "a_imeta", "a_iorig",
}

func TestParseTag(t *testing.T) {
	for _, s := range []string{
		"a", "lamina.name=pvc-1", "lamina.pvc=ns/name", "a!b:c&d#e+f", "_.-/=!:&#+", strings.Repeat("x", 1024),
	} {
		tag, err := ParseTag(s)
		if err != nil || tag.String() != s {
			t.Errorf("ParseTag(%.20q) = %v, %v", s, tag, err)
		}
	}
	for _, s := range []string{
		"", "-y", "@tag", "a@b", "a,b", "a b", `a"b`, "a\nb", "ü", "a\x00", "[x]", "a%b", "a*", strings.Repeat("x", 1025),
	} {
		if tag, err := ParseTag(s); !errors.Is(err, ErrInvalid) || tag != (Tag{}) {
			t.Errorf("ParseTag(%.20q) = %v, %v, want ErrInvalid", s, tag, err)
		}
	}
}

func TestParseDevicePath(t *testing.T) {
	for _, s := range []string{
		"/dev/nvme0n1", "/dev/dm-3", "/dev/mapper/a-b--c", "/dev/disk/by-id/nvme-eui.0025385b", "/dev/disk/by-path/pci-0000:01:00.0",
	} {
		p, err := ParseDevicePath(s)
		if err != nil || p.String() != s {
			t.Errorf("ParseDevicePath(%q) = %v, %v", s, p, err)
		}
	}
	for _, s := range []string{
		"", "/dev", "/dev/", "/dev//a", "/dev/../etc/passwd", "/dev/a/..", "/dev/./a", "/dev/a/", "dev/a", "/etc/passwd",
		"/dev/a,/dev/b", "/dev/a b", "-y", "@tag", "/dev/a\n", "/dev/ä", "/device/a", "/dev/" + strings.Repeat("x", 5000),
	} {
		if p, err := ParseDevicePath(s); !errors.Is(err, ErrInvalid) || p != (DevicePath{}) {
			t.Errorf("ParseDevicePath(%.20q) = %v, %v, want ErrInvalid", s, p, err)
		}
	}
}

func TestErrorKeepsHostileNamesShort(t *testing.T) {
	_, err := ParseLVName("\x1b[31m" + strings.Repeat("x", 100_000))
	if text := err.Error(); len(text) > 300 || strings.ContainsRune(text, '\x1b') {
		t.Errorf("error of %d bytes: %.100q", len(text), text)
	}
}

func TestDMName(t *testing.T) {
	tests := []struct{ vg, lv, layer, want string }{
		{"vg", "lv", "", "vg-lv"},
		{"lamina-fast", "pvc-1-2", "", "lamina--fast-pvc--1--2"},
		{"lamina-fast", "pool0", "tpool", "lamina--fast-pool0-tpool"},
		{"a--b", "c_d", "", "a----b-c_d"},
	}
	for _, tt := range tests {
		if got := DMName(VGName{tt.vg}, LVName{tt.lv}, tt.layer); got != tt.want {
			t.Errorf("DMName(%s, %s, %s) = %s, want %s", tt.vg, tt.lv, tt.layer, got, tt.want)
		}
	}
}
