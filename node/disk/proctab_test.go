package disk

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMountinfo(t *testing.T) {
	long := strings.Repeat("l", 200<<10)
	in := `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
37 35 0:44 /@ /my\040data rw - btrfs /dev/disk/by-id/a\134b rw,subvol=/@
38 35 0:45 / /fuse rw,nosuid shared:3 propagate_from:2 - fuse.x  rw
39 35 0:46 / /overlay rw - overlay overlay rw,lowerdir=` + long + "\n"
	want := []mount{
		{"98:0", "/mnt2", "/dev/root"},
		{"0:44", `/my\040data`, `/dev/disk/by-id/a\b`},
		{"0:45", "/fuse", ""},
		{"0:46", "/overlay", "overlay"},
	}
	got, err := parseMountinfo(strings.NewReader(in))
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mount{})); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for _, bad := range []string{
		"x\n", "\n", "36 35 98:0 / /m rw ext3 /dev/root rw\n", "36 35 98 / /m rw - ext3 /dev/root rw\n",
		"36 35 98:x / /m rw - ext3 /dev/root rw\n", "36 35 98:0 / /m rw - ext3\n", "36 35 98:0 / /m - ext3 /dev/root rw\n",
		`36 35 98:0 / /m rw - ext3 /dev/\04 rw`, `36 35 98:0 / /m rw - ext3 /dev/\777 rw`,
		"36 35 98:0 / /m rw - ext3 a " + strings.Repeat("l", maxLine),
	} {
		if got, err := parseMountinfo(strings.NewReader(bad)); err == nil {
			t.Errorf("%.60q: got %v, want an error", bad, got)
		}
	}
}

func TestParseSwaps(t *testing.T) {
	got, err := parseSwaps(strings.NewReader(swaps("/dev/dm-1", `/swap\040file`)))
	if diff := cmp.Diff([]string{"/dev/dm-1", "/swap file"}, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
	for _, bad := range []string{"\n", "/dev/dm-1 partition 1 0 -2\n", swaps() + "/dev/dm-1\n", swaps(`/dev/\9`)} {
		if got, err := parseSwaps(strings.NewReader(bad)); err == nil {
			t.Errorf("%q: got %v, want an error", bad, got)
		}
	}
}

// mangle escapes as the kernel's mangle_path does.
func mangle(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(" \t\n\\#", s[i]) >= 0 {
			fmt.Fprintf(&b, `\%03o`, s[i])
		} else {
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

// What the kernel writes about any device and mount point is read back, whatever bytes they are made of.
func FuzzMountinfoRoundTrip(f *testing.F) {
	f.Add("/dev/mapper/vg-lv", "/my data", uint32(253), uint32(1))
	f.Add("a - b\\", "/ - ", uint32(0), uint32(44))
	f.Add("0", "-", uint32(0), uint32(44))
	f.Fuzz(func(t *testing.T, source, point string, major, minor uint32) {
		line := fmt.Sprintf("36 35 %d:%d / %s rw shared:1 - ext4 %s rw\n", major, minor, mangle(point), mangle(source))
		got, err := parseMountinfo(strings.NewReader(line))
		want := []mount{{devNumber(major, minor), mangle(point), source}}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(mount{})); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	})
}

func FuzzMountinfo(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n")
	f.Add("\\ - \\04")
	f.Fuzz(func(t *testing.T, text string) {
		mounts, err := parseMountinfo(strings.NewReader(text))
		if err != nil {
			return
		}
		// No line may get lost: each could be the one that matters.
		if lines := strings.Count(strings.TrimSuffix(text, "\n")+"\n", "\n"); text != "" && len(mounts) != lines {
			t.Fatalf("%q: %d lines, %d mounts", text, lines, len(mounts))
		}
	})
}

func FuzzSwaps(f *testing.F) {
	f.Add("/dev/dm-1")
	f.Add("/swap file\n")
	f.Fuzz(func(t *testing.T, path string) {
		if _, err := parseSwaps(strings.NewReader(path)); err == nil && path != "" && !strings.Contains(path, "Filename") {
			t.Fatalf("%q: read without a heading", path)
		}
		if path == "" { // the kernel writes no such line
			return
		}
		got, err := parseSwaps(strings.NewReader(swaps(mangle(path))))
		if diff := cmp.Diff([]string{path}, got); err != nil || diff != "" {
			t.Fatal(err, diff)
		}
	})
}
