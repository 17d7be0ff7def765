package lvm

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
)

func FuzzParseLVName(f *testing.F) {
	for _, s := range append(hostileNames, reservedNames...) {
		f.Add(s)
	}
	f.Add("pvc-1")
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseLVName(s)
		if err != nil {
			if !n.IsZero() {
				t.Errorf("%q: an error and the name %q", s, n)
			}
			return
		}
		if n.String() != s || len(s) > 127 || strings.HasPrefix(s, "-") || s == "." || s == ".." ||
			strings.ContainsAny(s, "@/ ,;'\"\\$*[]{}\n\x00") || strings.Contains(s, "_tdata") {
			t.Errorf("%q was accepted", s)
		}
		if _, err := ParseVGName(s); err != nil {
			t.Errorf("%q: good for an LV and not for a VG: %v", s, err)
		}
	})
}

func FuzzParseTag(f *testing.F) {
	for _, s := range []string{"lamina.name=a", "@a", "-a", "a,b", "ü"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tag, err := ParseTag(s)
		if err == nil && (tag.String() != s || s == "" || s[0] == '-' || strings.ContainsAny(s, "@, \"\\[]\n\x00")) {
			t.Errorf("%q was accepted", s)
		}
	})
}

func FuzzParseDevicePath(f *testing.F) {
	for _, s := range []string{"/dev/nvme0n1", "/dev/../a", "/dev/a,b", "/dev//"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseDevicePath(s)
		if err == nil && (p.String() != s || !strings.HasPrefix(s, "/dev/") || strings.Contains(s, "/../") || strings.ContainsAny(s, ", \n\x00\"@") && !strings.Contains(s, "@")) {
			t.Errorf("%q was accepted", s)
		}
	})
}

func FuzzParseText(f *testing.F) {
	f.Add(`vg { id = "x" tags = ["a", 1] sub { } }`)
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseText(text)
		if (s == nil) != (err != nil) {
			t.Errorf("%v, %v", s, err)
		}
	})
}

func FuzzParseMetadata(f *testing.F) {
	for _, text := range metadataSeeds(f) {
		f.Add(text)
	}
	var known volumeTexts
	f.Fuzz(func(t *testing.T, text []byte) {
		raw := RawMetadata{Text: text, AreaSize: 1 << 20}
		vg, err := parseMetadata(raw)
		// What is known of another text, or of this one, makes no difference.
		for range 2 {
			again, aerr := known.parse(raw)
			if (err == nil) != (aerr == nil) || !reflect.DeepEqual(vg, again) {
				t.Errorf("%+v (%v), and with what was known %+v (%v)", vg, err, again, aerr)
			}
		}
		if err != nil {
			return
		}
		if vg.Name.IsZero() || vg.ExtentSize <= 0 || vg.MetadataFree < 0 || vg.Free() < 0 {
			t.Errorf("%+v", vg)
		}
		var sum int64
		for _, p := range vg.PVs {
			sum += p.Size
			if p.Size < 0 || p.Free < 0 || p.Free > p.Size || sum < 0 {
				t.Errorf("%+v", p)
			}
		}
		sum = 0
		for _, l := range vg.LVs {
			sum += l.Size
			if l.Size < 0 || sum < 0 || checkName(l.Name.String()) != nil || l.Thin != nil && l.Thin.Pool.IsZero() {
				t.Errorf("%+v", l)
			}
		}
	})
}

func FuzzReadMetadata(f *testing.F) {
	f.Add(sound.build())
	wrapped := sound
	wrapped.textOffset = 8190
	f.Add(wrapped.build())
	f.Fuzz(func(t *testing.T, disk []byte) {
		raw, err := readMetadata(bytes.NewReader(disk), Generation{})
		if err == nil && (len(raw.Text) > len(disk) || uint64(len(raw.Text)) != raw.Generation.Size) {
			t.Errorf("%d bytes of text from a disk of %d", len(raw.Text), len(disk))
		}
	})
}

func FuzzParseFullReport(f *testing.F) {
	for _, text := range reportSeeds(f) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseFullReport(text)
		if err != nil {
			return
		}
		for _, vg := range r.VGs {
			if vg.Name.IsZero() {
				t.Errorf("%+v", vg)
			}
			for _, tag := range vg.Tags {
				if _, err := ParseTag(tag.String()); err != nil {
					t.Error(err)
				}
			}
		}
	})
}

func FuzzParseThinStatus(f *testing.F) {
	f.Add("128 127")
	f.Add("Fail")
	f.Fuzz(func(t *testing.T, params string) {
		if s, err := parseThinStatus(params); err == nil && s.MappedSectors < 0 {
			t.Errorf("%q: %+v", params, s)
		}
	})
}

func FuzzParsePoolStatus(f *testing.F) {
	f.Add("0 12/1024 34/4096 - rw discard_passdown queue_if_no_space - 1024")
	f.Add("Fail")
	f.Fuzz(func(t *testing.T, params string) {
		s, err := parsePoolStatus(params)
		if err == nil && (s.Mode == "" || s.UsedData < 0 || s.AllData < 0 || s.UsedMetadata < 0 || s.AllMetadata < 0) {
			t.Errorf("%q: %+v", params, s)
		}
	})
}

func FuzzDecodeTargets(f *testing.F) {
	f.Add(kernelTargets([]Target{{0, 1, "linear", "259:0 0"}, {1, 1, "thin", "254:0 1"}}), 2)
	f.Fuzz(func(t *testing.T, data []byte, count int) {
		// The kernel's count is an uint32; each target of the answer takes room.
		got, err := decodeTargets(data, count%1000)
		if err == nil && len(got) != max(0, count%1000) {
			t.Errorf("%d targets of %d", len(got), count)
		}
	})
}

func FuzzParseVersion(f *testing.F) {
	f.Add("  LVM version:     2.03.31(2) (2025-02-27)\n")
	f.Fuzz(func(t *testing.T, text string) {
		if v, err := parseVersion(text); err == nil && !strings.Contains(text, "LVM version:") {
			t.Errorf("%q: %v", text, v)
		}
	})
}

// Whatever lvm prints, its end is no panic, and a text that nothing is known of has
// no reason.
func FuzzClassify(f *testing.F) {
	f.Add("  Volume group \"x\" not found\n", []byte(`{"log":[{"log_type":"error","log_message":"a"}]}`))
	f.Add(" in use.", []byte(`{"log":[{}]}`))
	f.Fuzz(func(t *testing.T, stderr string, stdout []byte) {
		messages := append(lines([]byte(stderr)), reportErrors(stdout)...)
		kind := classify(messages)
		for _, m := range messages {
			if m == "" {
				t.Error("an empty message")
			}
		}
		if kind != nil && len(messages) == 0 {
			t.Errorf("nothing was said, and it means %v", kind)
		}
	})
}
