package pool

import (
	"errors"
	"strings"
	"testing"

	"github.com/lamina-csi/lamina/lvm"
)

const testUUID = "abcdef-0123-4567-89AB-cdef-GHIJ-klmnop"

func TestParseIDRefuses(t *testing.T) {
	for _, s := range []string{
		"", "/", "pvc-1", testUUID, testUUID + "/", testUUID + "/-y", testUUID + "/@tag", testUUID + "/..",
		testUUID + "/a/b", testUUID + "/snapshot-1", testUUID + "/a_tdata", testUUID + "/" + strings.Repeat("a", 128),
		"../../x", " " + testUUID + "/a", testUUID + "/a\n", testUUID[1:] + "/a", testUUID + "/ü",
	} {
		if id, err := ParseID(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseID(%q) = %v, %v", s, id, err)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(testUUID + "/pvc-1")
	f.Add("a/b")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || id != (ID{}) {
				t.Errorf("ParseID(%q) = %v, %v", s, id, err)
			}
			return
		}
		if id.String() != s {
			t.Errorf("ParseID(%q) is written %q", s, id)
		}
	})
}

func FuzzTagEscape(f *testing.F) {
	f.Add("claim/ü #41,\x00")
	f.Add("=!&#")
	f.Fuzz(func(t *testing.T, s string) {
		if got := unescape(escape(s)); got != s {
			t.Errorf("%q became %q", s, got)
		}
		tag, err := tag(keyName, s)
		if err != nil {
			return // too long
		}
		if got := readTags([]lvm.Tag{tag})[keyName]; got != s {
			t.Errorf("tag %s reads %q, not %q", tag, got, s)
		}
	})
}

func FuzzNames(f *testing.F) {
	f.Add("pvc-01234567-89ab-cdef-0123-456789abcdef")
	f.Add("snapshot-01234567-89ab-cdef-0123-456789abcdef")
	f.Add("-y")
	f.Fuzz(func(t *testing.T, s string) {
		v, snap, group := volumeLV(s), snapshotLV(s), groupLV(s) // they panic on a name that LVM refuses
		if v == snap || snap == group || v == group {
			t.Errorf("%q: %s, %s and %s are not different", s, v, snap, group)
		}
	})
}

// Tags that somebody else has written, on a disk that came from elsewhere, are read
// as they are.
func FuzzReadTags(f *testing.F) {
	f.Add("lamina.kind=volume", "lamina.size=12", "lamina.context.fsType=ext4")
	f.Add("lamina.size=-1", "lamina.=x", "lamina.source=-y")
	f.Add("lamina.name=a#2", "lamina.name=#zz#41", "other")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		var tags []lvm.Tag
		for _, s := range []string{a, b, c} {
			if tag, err := lvm.ParseTag(s); err == nil {
				tags = append(tags, tag)
			}
		}
		set := readTags(tags)
		if len(set) > len(tags) {
			t.Errorf("%d values in %v", len(set), tags)
		}
		lv := &lvm.LV{Tags: tags, Size: 1}
		found := found{pool: &Pool{}, vg: &lvm.VG{UUID: testUUID}, lv: lv, tags: set}
		v := found.volume()
		if v.Source != (ID{}) {
			if _, err := ParseID(v.Source.String()); err != nil {
				t.Errorf("source %q: %v", v.Source, err)
			}
		}
		if s := found.snapshot(); s.Group != (ID{}) {
			if _, err := ParseID(s.Group.String()); err != nil {
				t.Errorf("group %q: %v", s.Group, err)
			}
		}
		if from, err := found.zeroed(); err == nil && from < 0 {
			t.Errorf("it is zeroed from byte %d", from)
		}
		_ = listTags(tags)
		raidDegraded(a)
	})
}
