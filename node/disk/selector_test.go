package disk

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1": 1, "10Gi": 10 << 30, "512Mi": 512 << 20, "1Ki": 1024, "2Ti": 2 << 40, "1Pi": 1 << 50,
		"1K": 1000, "3M": 3e6, "960G": 960e9, "4T": 4e12, "1P": 1e15, "007": 7,
		"9223372036854775807": math.MaxInt64, "8191Pi": 8191 << 50,
	} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "Gi", "-1", "+1", "1.5Gi", "1 Gi", " 1", "1gi", "1GiB", "1B", "1e3", "0x10", "1_000", "10KiKi", "１",
		"9223372036854775808", "8192Pi", "9007199254740993Ki", "99999999999999999999Pi",
	} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
}

func TestFormatSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 bytes", 1023: "1023 bytes", 8 << 30: "8 GiB", 1536 << 20: "1.5 GiB (1610612736 bytes)",
		960197124096: "894.3 GiB (960197124096 bytes)", 1 << 60: "1024 PiB",
	} {
		if got := formatSize(n); got != want {
			t.Errorf("%d: got %q, want %q", n, got, want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"10Gi", "0", "8192Pi", "1e3", "-1K"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseSize(text)
		if err != nil {
			return
		}
		if n < 0 {
			t.Fatalf("%q: negative size %d", text, n)
		}
		if again, err := ParseSize(strconv.FormatInt(n, 10)); err != nil || again != n {
			t.Fatalf("%q: %d reads back as %d, %v", text, n, again, err)
		}
	})
}

// profile is what a caller with a strict decoder has around the selector.
type profile struct {
	Disks Selector `json:"disks"`
}

func TestSelectorYAML(t *testing.T) {
	tests := []struct {
		name, yaml string
		want       Selector
	}{
		{"the built-in profile", `disks: {transport: [nvme], model: "*", serial: "*", minSize: 10Gi, maxSize: "", byID: [], count: 0}`,
			Selector{Transport: []string{"nvme"}, Model: "*", Serial: "*", MinSize: 10 << 30}},
		{"empty", `disks: {}`, Selector{}},
		{"null", `disks:`, Selector{}},
		{"bare bytes", `disks: {minSize: 1000, maxSize: 2K, count: 2}`, Selector{MinSize: 1000, MaxSize: 2000, Count: 2}},
		{"path of an id", `disks: {byID: [/dev/disk/by-id/nvme-eui.1, S1]}`, Selector{ByID: []string{"nvme-eui.1", "S1"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := profile{}
			if err := yaml.UnmarshalStrict([]byte(tt.yaml), &got); err != nil {
				t.Fatal(err)
			}
			if len(got.Disks.Transport) == 0 {
				got.Disks.Transport = nil
			}
			if diff := cmp.Diff(tt.want, got.Disks); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSelectorRefused(t *testing.T) {
	tests := []struct{ yaml, names string }{
		{`disks: {minsice: 10Gi}`, `"minsice"`},
		{`disks: {transport: [nvme], extra: {a: 1}}`, `"extra"`},
		{`disks: {transport: [floppy]}`, `"floppy"`},
		{`disks: {transport: nvme}`, "transport"},
		{`disks: {model: "[a"}`, `model "[a"`},
		{`disks: {serial: "a\\"}`, "serial"},
		{`disks: {minSize: -1}`, `"-1"`},
		{`disks: {minSize: 1.5Gi}`, `"1.5Gi"`},
		{`disks: {minSize: [1]}`, `"[1]"`},
		{`disks: {maxSize: 99999999Pi}`, "too large"},
		{`disks: {minSize: 2Gi, maxSize: 1Gi}`, "above maxSize"},
		{`disks: {count: -1}`, "negative"},
		{`disks: {count: 1.5}`, "count"},
		{`disks: {byID: [../sda]}`, `"../sda"`},
		{`disks: {byID: [""]}`, "byID"},
		{`disks: {count: 1, count: 2}`, "count"},
		{`disks: [nvme]`, "disks"},
		{`disks: all`, "disks"},
	}
	for _, tt := range tests {
		err := yaml.UnmarshalStrict([]byte(tt.yaml), &profile{})
		if err == nil || !strings.Contains(err.Error(), tt.names) {
			t.Errorf("%s: got %v, want an error that names %s", tt.yaml, err, tt.names)
		}
	}
	// The caller's decoder may be lax; ours is not.
	if err := json.Unmarshal([]byte(`{"minsice": 1}`), new(Selector)); err == nil {
		t.Error("a lax decoder let an unknown key through")
	}
}

func TestMatch(t *testing.T) {
	d := Disk{
		Name: "nvme0n1", Model: "INTEL SSD/P4510", Serial: "PHLJ1", WWN: "eui.0025", Transport: "nvme", Size: 8 << 30,
		Links: []string{"nvme-INTEL_SSD_PHLJ1", "nvme-eui.0025"},
	}
	sata := d
	sata.Transport = "sata"
	tests := []struct {
		name string
		sel  Selector
		disk Disk
		why  string
	}{
		{"zero selector", Selector{}, d, ""},
		{"zero selector is for NVMe", Selector{}, sata, `transport "sata" is not nvme`},
		{"byID is for any transport", Selector{ByID: []string{"PHLJ1"}}, sata, ""},
		{"transport", Selector{Transport: []string{"nvme", "usb"}}, sata, `transport "sata" is not nvme, usb`},
		{"model", Selector{Model: "INTEL*"}, d, ""},
		{"other model", Selector{Model: "SAMSUNG*"}, d, `model "INTEL SSD/P4510" does not match "SAMSUNG*"`},
		{"serial", Selector{Serial: "PHLJ?"}, d, ""},
		{"other serial", Selector{Serial: "X*"}, d, `serial "PHLJ1" does not match "X*"`},
		{"broken pattern", Selector{Serial: "["}, d, `serial "PHLJ1" does not match "["`},
		{"exact bounds", Selector{MinSize: 8 << 30, MaxSize: 8 << 30}, d, ""},
		{"too small", Selector{MinSize: 10 << 30}, d, "size 8 GiB is below minSize 10 GiB"},
		{"too large", Selector{MaxSize: 4 << 30}, d, "size 8 GiB is above maxSize 4 GiB"},
		{"link", Selector{ByID: []string{"x", "nvme-INTEL_SSD_PHLJ1"}}, d, ""},
		{"wwn", Selector{ByID: []string{"eui.0025"}}, d, ""},
		{"not byID", Selector{ByID: []string{"nvme-INTEL"}}, d,
			"none of its ids (nvme-INTEL_SSD_PHLJ1, nvme-eui.0025, PHLJ1, eui.0025) is in byID"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ok, why := tt.sel.Match(tt.disk)
			if ok != (tt.why == "") || why != tt.why {
				t.Errorf("got %v, %q, want %q", ok, why, tt.why)
			}
		})
	}
}

func FuzzSelector(f *testing.F) {
	f.Add([]byte(`{"transport":["nvme"],"model":"*","minSize":"10Gi","maxSize":"","byID":[],"count":0}`))
	f.Add([]byte(`{"minSize":-1}`))
	f.Add([]byte(`{"model":"["}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var s Selector
		if err := json.Unmarshal(data, &s); err != nil {
			return
		}
		if err := s.check(); err != nil || s.MinSize < 0 || s.MaxSize < 0 {
			t.Fatalf("%s: accepted as %+v: %v", data, s, err)
		}
		// What was accepted reads back the same.
		again, err := json.Marshal(map[string]any{
			"transport": s.Transport, "model": s.Model, "serial": s.Serial, "minSize": s.MinSize,
			"maxSize": strconv.FormatInt(s.MaxSize, 10), "byID": s.ByID, "count": s.Count,
		})
		if err != nil {
			t.Fatal(err)
		}
		var back Selector
		if err := json.Unmarshal(again, &back); err != nil {
			t.Fatalf("%s reads back as %s: %v", data, again, err)
		}
		if diff := cmp.Diff(s, back); diff != "" {
			t.Fatal(diff)
		}
		s.Match(Disk{Name: "nvme0n1", Transport: "nvme"})
	})
}
