package lvm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// captured reads what real LVM wrote or said, from testdata/<version>/<pattern>.
func captured(t testing.TB, pattern string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", "2*", pattern))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no testdata for %s: %v", pattern, err)
	}
	out := map[string][]byte{}
	for _, p := range paths {
		if out[p], err = os.ReadFile(p); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func capturedOne(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "2.03.31", name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func metadataSeeds(t testing.TB) map[string][]byte { return captured(t, "*.metadata") }

func reportSeeds(t testing.TB) map[string][]byte { return captured(t, "*.json") }

var byValue = cmp.AllowUnexported(VGName{}, LVName{}, Tag{}, DevicePath{})

func readCaptured(t *testing.T, name string) *VG {
	t.Helper()
	text := capturedOne(t, name)
	vg, err := parseMetadata(RawMetadata{Text: text, AreaSize: 5 << 20, Generation: Generation{Size: uint64(len(text))}})
	if err != nil {
		t.Fatal(err)
	}
	return vg
}

func TestParseMetadata(t *testing.T) {
	vg := readCaptured(t, "full.metadata")
	if vg.Name.s != "lamina-capture" || vg.ExtentSize != 4<<20 || vg.Seqno == 0 || len(vg.PVs) != 3 {
		t.Errorf("%+v", vg)
	}
	if diff := cmp.Diff([]Tag{{"lamina.pool=fast"}, {"lamina.schema=1"}}, vg.Tags, byValue); diff != "" {
		t.Error(diff)
	}
	for _, pv := range vg.PVs {
		if !strings.HasPrefix(pv.Device, "/dev/nvme") || pv.Size != 510*4<<20 || pv.Missing || !pv.Allocatable || pv.Free <= 0 {
			t.Errorf("%+v", pv)
		}
	}
	want := map[string]LV{
		"pool0": {Type: "thin-pool", Size: 64 << 20, Visible: true, Pool: &ThinPool{
			Data: LVName{"pool0_tdata"}, Metadata: LVName{"pool0_tmeta"}, ChunkSize: 64 << 10, TransactionID: 3, Zero: true,
		}},
		"pvc-1": {
			Type: "thin", Size: 100 << 20, Visible: true, Tags: []Tag{{"lamina.kind=volume"}, {"lamina.name=a/b:c"}},
			Thin: &Thin{Pool: LVName{"pool0"}, DeviceID: 1},
		},
		"snap-1": {
			Type: "thin", Size: 100 << 20, Visible: true, ReadOnly: true, Tags: []Tag{{"lamina.kind=snapshot"}},
			Thin: &Thin{Pool: LVName{"pool0"}, Origin: LVName{"pvc-1"}, DeviceID: 2, TransactionID: 1},
		},
		"clone-1": {
			Type: "thin", Size: 100 << 20, Visible: true,
			Thin: &Thin{Pool: LVName{"pool0"}, Origin: LVName{"snap-1"}, DeviceID: 3, TransactionID: 2},
		},
		"linear":        {Type: "striped", Size: 64 << 20, Visible: true},
		"striped":       {Type: "striped", Size: 16 << 20, Visible: true},
		"raid1":         {Type: "raid1", Size: 16 << 20, Visible: true},
		"raid1_rmeta_0": {Type: "striped", Size: 4 << 20},
		"lvol0_pmspare": {Type: "striped", Size: 4 << 20},
		"rpool": {Type: "thin-pool", Size: 16 << 20, Visible: true, Pool: &ThinPool{
			Data: LVName{"rpool_tdata"}, Metadata: LVName{"rpool_tmeta"}, ChunkSize: 128 << 10, Zero: true,
		}},
		"rpool_tdata": {Type: "raid1", Size: 16 << 20},
	}
	for name, w := range want {
		w.Name = LVName{name}
		got, ok := vg.LV(w.Name)
		if !ok {
			t.Errorf("%s is missing", name)
			continue
		}
		if diff := cmp.Diff(w, *got, byValue, cmpopts.IgnoreFields(LV{}, "UUID", "Created")); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if len(got.UUID) != 38 || got.Created.Year() < 2020 {
			t.Errorf("%s: UUID %s, created %v", name, got.UUID, got.Created)
		}
	}
	if _, ok := vg.LV(LVName{"none"}); ok {
		t.Error("an LV that is not there was found")
	}
}

// What the metadata says is what lvm reports of the same moment.
func TestMetadataAgreesWithReport(t *testing.T) {
	for _, name := range []string{"empty", "full"} {
		vg := readCaptured(t, name+".metadata")
		report, err := parseFullReport(capturedOne(t, name+".json"))
		if err != nil || len(report.VGs) != 1 || len(report.Loose) != 0 {
			t.Fatalf("%s: %v %+v", name, err, report)
		}
		r := report.VGs[0]
		if vg.Name != r.Name || vg.UUID != r.UUID || vg.Free() != r.Free || r.Missing != 0 {
			t.Errorf("%s: %+v, reported %+v", name, vg, r)
		}
		if diff := cmp.Diff(vg.Tags, r.Tags, byValue); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		var read []LVReport
		for _, l := range vg.LVs {
			m := LVReport{Name: l.Name.s, UUID: l.UUID, Size: l.Size, Type: l.Type, Tags: l.Tags}
			if l.Thin != nil {
				m.Pool, m.Origin = l.Thin.Pool.s, l.Thin.Origin.s
			}
			read = append(read, m)
		}
		for i := range r.LVs {
			l := &r.LVs[i]
			l.Name = strings.Trim(l.Name, "[]")
			if l.Type == "linear" {
				l.Type = "striped"
			}
		}
		slices.SortFunc(r.LVs, func(a, b LVReport) int { return strings.Compare(a.Name, b.Name) })
		if diff := cmp.Diff(read, r.LVs, byValue, cmpopts.IgnoreFields(LVReport{}, "Active"), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestReportActive(t *testing.T) {
	report, err := parseFullReport(capturedOne(t, "full.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range report.VGs[0].LVs {
		want := l.Name != "snap-1" && l.Name != "[lvol0_pmspare]"
		if l.Active != want {
			t.Errorf("%s: active %v", l.Name, l.Active)
		}
	}
}

func TestParseMetadataErrors(t *testing.T) {
	const vg = `vg { id = "x" seqno = 1 extent_size = 8192 `
	for name, text := range map[string]string{
		"empty":           ``,
		"no group":        `contents = "Text Format Volume Group"`,
		"group name":      `-y { id = "x" extent_size = 8192 }`,
		"no extent size":  `vg { id = "x" }`,
		"LV name":         vg + `logical_volumes { @tag { id = "y" } } }`,
		"tag":             vg + `tags = ["a,b"] }`,
		"LV tag":          vg + `logical_volumes { a { tags = ["@b"] } } }`,
		"PV tag":          vg + `physical_volumes { pv0 { tags = ["@b"] } } }`,
		"segment missing": vg + `logical_volumes { a { segment_count = 9000000000000000000 } } }`,
		"no pool":         vg + `logical_volumes { a { segment_count = 1 segment1 { type = "thin" } } } }`,
		"pool's name":     vg + `logical_volumes { a { segment_count = 1 segment1 { type = "thin" thin_pool = "-y" } } } }`,
		"origin's name":   vg + `logical_volumes { a { segment_count = 1 segment1 { type = "thin" thin_pool = "p" origin = "-y" } } } }`,
		"two groups":      `a { id = "x" extent_size = 8192 } b { id = "y" extent_size = 8192 }`,
		"group is a list": `vg = ["id", "x"]`,
		"extent negative": `vg { id = "x" extent_size = -8192 }`,
		"extent huge":     `vg { id = "x" extent_size = 36028797018963968 }`,
		"PV negative":     vg + `physical_volumes { pv0 { pe_count = -1 } } }`,
		"PV huge":         vg + `physical_volumes { pv0 { pe_count = 9223372036854775807 } } }`,
		"PVs huge":        bigGroup("physical_volumes", "pe_count = 67108864", 200),
		"LVs huge":        bigGroup("logical_volumes", "segment_count = 1 segment1 { extent_count = 67108864 }", 1000),
		"LV negative":     vg + `logical_volumes { a { segment_count = 1 segment1 { extent_count = -1 } } } }`,
		"LV huge":         vg + `logical_volumes { a { segment_count = 1 segment1 { extent_count = 9223372036854775807 } } } }`,
		"segments huge":   bigLV(200),
		"pool's data":     vg + `logical_volumes { a { segment_count = 1 segment1 { type = "thin-pool" metadata = "m" } } } }`,
	} {
		got, err := parseMetadata(RawMetadata{Text: []byte(text), AreaSize: 1 << 20})
		if err == nil {
			t.Errorf("%s: read as %+v", name, got)
		}
		if name != "segment missing" && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

// Only a number that LVM has written names a device that is to be deleted.
func TestPoolMessages(t *testing.T) {
	text := string(capturedOne(t, "full.metadata"))
	at := strings.Index(text, "zero_new_blocks = ")
	if at < 0 {
		t.Fatal("the captured group has no thin pool")
	}
	end := at + strings.Index(text[at:], "\n")
	text = text[:end] + "\nmessage1 { create = \"lv\" }\nmessage2 { delete = 7 }\nmessage3 { delete = \"lv\" }" + text[end:]
	vg, err := parseMetadata(RawMetadata{Text: []byte(text)})
	if err != nil {
		t.Fatal(err)
	}
	for _, lv := range vg.LVs {
		if p := lv.Pool; p != nil && p.Messages > 0 {
			if p.Messages != 3 || !slices.Equal(p.Deletes, []int64{7}) {
				t.Errorf("%d messages, to delete %v", p.Messages, p.Deletes)
			}
			return
		}
	}
	t.Error("no pool has the messages")
}

// bigGroup is a group of that many objects of 2^56 bytes.
func bigGroup(list, object string, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "vg { id = \"x\" extent_size = 2097152 %s {", list)
	for i := range n {
		fmt.Fprintf(&b, " o%d { %s }", i, object)
	}
	return b.String() + " } }"
}

// bigLV is a group with one volume of that many segments of 2^53 bytes.
func bigLV(segments int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "vg { id = \"x\" extent_size = 4194304 logical_volumes { a { segment_count = %d", segments)
	for i := range segments {
		fmt.Fprintf(&b, " segment%d { extent_count = 4194304 }", i+1)
	}
	return b.String() + " } } }"
}
