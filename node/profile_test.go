package node

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/node/pool"
)

func TestParsePools(t *testing.T) {
	const text = `
profiles:
  big:
    disks: {minSize: 1Ti, count: 2}
    layout: raid1
    mode: thick
    overprovision: 1
    reserve: 10%
    fullAt: 80%
  from-os: {adopt: data, thinChunk: 128Ki}
pools: {slow: big, os: from-os, fast: nvme}
`
	wanted, err := ParsePools([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	data, err := lvm.ParseVGName("data")
	if err != nil {
		t.Fatal(err)
	}
	want := []pool.Spec{
		{Name: "fast", Mode: pool.Thin, Layout: lvm.Linear, Overprovision: 3, Reserve: 5, FullAt: 90},
		{Name: "os", Adopt: data, Mode: pool.Thin, Layout: lvm.Linear, Overprovision: 3, Reserve: 5, FullAt: 90, ThinChunk: 128 << 10},
		{Name: "slow", Mode: pool.Thick, Layout: lvm.Raid1, Overprovision: 1, Reserve: 10, FullAt: 80},
	}
	var got []pool.Spec
	for _, w := range wanted {
		got = append(got, w.Profile.Spec(w.Pool))
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(lvm.VGName{})); diff != "" {
		t.Errorf("specs (-want +got):\n%s", diff)
	}
	if s := wanted[2].Profile.Disks; s.Count != 2 || s.MinSize != 1<<40 {
		t.Errorf("disks of pool slow: %+v", s)
	}
}

func TestParsePoolsRefuses(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown top key":   {"profile: {}", "profile"},
		"unknown key":       {"profiles: {a: {mod: thin}}", "mod"},
		"unknown disk key":  {"profiles: {a: {disks: {minSise: 1}}}", "minSise"},
		"adopt and disks":   {"profiles: {a: {adopt: x, disks: {}}}", "exclude"},
		"adopt a bad name":  {"profiles: {a: {adopt: -y}}", "adopt"},
		"mode":              {"profiles: {a: {mode: fat}}", "fat"},
		"layout":            {"profiles: {a: {layout: raid5}}", "raid5"},
		"reserve":           {"profiles: {a: {reserve: 60%}}", "reserve"},
		"reserve, no %":     {"profiles: {a: {reserve: '5'}}", "percentage"},
		"fullAt":            {"profiles: {a: {fullAt: 99%}}", "fullAt"},
		"overprovision":     {"profiles: {a: {overprovision: 0.5}}", "overprovision"},
		"thinChunk":         {"profiles: {a: {thinChunk: 3Ki}}", "thinChunk"},
		"no such profile":   {"pools: {fast: none}", "none"},
		"bad pool name":     {"pools: {Fast: nvme}", "Fast"},
		"hyphen at the end": {"pools: {fast-: nvme}", "fast-"},
		"twice":             {"pools: {fast: nvme, fast: nvme}", "fast"},
		"no mapping":        {"[]", "array"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParsePools([]byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %+v, %v; want an error with %q", got, err, c.want)
			}
		})
	}
}

func FuzzParsePools(f *testing.F) {
	f.Add([]byte("profiles: {a: {mode: thin, disks: {count: 1}}}\npools: {fast: a, slow: nvme}"))
	f.Add([]byte("pools: {fast: nvme}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		wanted, err := ParsePools(data)
		if err != nil {
			return
		}
		for i, w := range wanted {
			if err := w.Profile.Spec(w.Pool).Validate(); err != nil {
				t.Errorf("accepted %+v: %v", w, err)
			}
			if i > 0 && wanted[i-1].Pool >= w.Pool {
				t.Errorf("%q comes after %q", w.Pool, wanted[i-1].Pool)
			}
		}
	})
}
