package pool

import (
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lamina-csi/lamina/lvm"
)

func TestSetLimits(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	id := n.create(t, CreateVolume{Name: "a", Required: gib, Context: map[string]string{"fsType": "ext4"}, Limits: Limits{ReadBandwidth: 1 << 20}}).ID
	want, err := n.GetVolume(id)
	if err != nil {
		t.Fatal(err)
	}
	if want.Limits != "rbps:1048576" {
		t.Errorf("limits %q", want.Limits)
	}
	for _, c := range []struct {
		set      Limits
		tag      string
		commands []string
	}{
		{Limits{ReadBandwidth: 1 << 20}, "rbps:1048576", nil},
		{Limits{1, MaxIOPS, 3, math.MaxInt64}, "rbps:3/wbps:9223372036854775807/riops:1/wiops:4294967294", []string{"lvchange"}},
		{Limits{WriteIOPS: 7}, "wiops:7", []string{"lvchange"}},
		{Limits{WriteIOPS: 7}, "wiops:7", nil},
		{Limits{}, "", []string{"lvchange"}},
		{Limits{}, "", nil},
	} {
		ran := n.commands(t, func() {
			if err := n.SetLimits(t.Context(), id, c.set); err != nil {
				t.Fatal(err)
			}
		})
		if diff := cmp.Diff(c.commands, ran); diff != "" {
			t.Errorf("%v: commands (-want +got):\n%s", c.set, diff)
		}
		n.start(t)
		got, err := n.GetVolume(id)
		if err != nil {
			t.Fatal(err)
		}
		want.Limits = c.tag
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(lvm.LVName{})); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.set, diff)
		}
		if l, err := ParseLimits(got.Limits); err != nil || l != c.set {
			t.Errorf("read as %v, set to %v (%v)", l, c.set, err)
		}
	}
	for _, l := range []Limits{{ReadIOPS: -1}, {WriteIOPS: MaxIOPS + 1}, {ReadBandwidth: math.MinInt64}} {
		if err := n.SetLimits(t.Context(), id, l); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v", l, err)
		}
		if _, err := n.CreateVolume(t.Context(), CreateVolume{Name: "b", Pool: "fast", FS: FSNew, Limits: l}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v", l, err)
		}
	}
	if err := n.SetLimits(t.Context(), ID{id.VG, mustLV("none")}, Limits{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("no such volume: %v", err)
	}
}

// A tag that another hand wrote is no limit and not none.
func TestParseLimitsRefuses(t *testing.T) {
	for _, s := range []string{
		"x", "riops", "riops:", "riops:0", "riops:-1", "riops:01", "riops:+1", "riops:1/", "/riops:1", "riops:1/riops:1", "riops:1/riops:2",
		"wiops:1/riops:1", "riops:1/x:1", "rbps:9223372036854775808", "riops:4294967295", "riops:1 ", "rbps:max",
	} {
		if l, err := ParseLimits(s); !errors.Is(err, ErrForeign) || l != (Limits{}) {
			t.Errorf("ParseLimits(%q) = %v, %v", s, l, err)
		}
	}
}

func FuzzParseLimits(f *testing.F) {
	f.Add("rbps:1048576/wbps:1/riops:2/wiops:3")
	f.Add("")
	f.Add("riops:x")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLimits(s)
		if err != nil {
			if !errors.Is(err, ErrForeign) || l != (Limits{}) {
				t.Errorf("ParseLimits(%q) = %v, %v", s, l, err)
			}
			return
		}
		if l.String() != s || l.check() != nil {
			t.Errorf("ParseLimits(%q) = %v, which is written %q", s, l, l)
		}
		if s == "" {
			return
		}
		tag, err := tag(keyLimits, s)
		if err != nil {
			t.Fatal(err)
		}
		if got := readTags([]lvm.Tag{tag})[keyLimits]; got != s {
			t.Errorf("tag %s reads %q", tag, got)
		}
	})
}
