package lvm

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseVersion(t *testing.T) {
	if got, err := parseVersion(string(capturedOne(t, "version.txt"))); err != nil || got != [3]int{2, 3, 31} {
		t.Errorf("captured: %v, %v", got, err)
	}
	for text, want := range map[string][3]int{
		"  LVM version:     2.03.31(2) (2025-02-27)\n  Library version: 1.02.205 (2025-02-27)\n": {2, 3, 31},
		"  LVM version:     2.03.16(2) (2022-05-18)\n":                                           {2, 3, 16},
	} {
		if got, err := parseVersion(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "LVM version: x", "Library version: 1.02.205"} {
		if _, err := parseVersion(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestParseFullReportErrors(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":       `  Volume group "x" not found`,
		"empty":         ``,
		"not strings":   `{"report":[{"vg":[{"vg_name":1}]}]}`,
		"not an object": `[]`,
	} {
		if r, err := parseFullReport([]byte(text)); err == nil {
			t.Errorf("%s: read as %+v", name, r)
		}
	}
}

// A group that cannot be understood is left out, is told of, and hides no other.
func TestParseFullReportHostileGroup(t *testing.T) {
	const good = `{"vg":[{"vg_name":"good","vg_uuid":"u","vg_size":"1","vg_free":"0","vg_missing_pv_count":"0","vg_tags":"lamina.pool=fast"}]}`
	for name, bad := range map[string]string{
		"size":          `{"vg":[{"vg_name":"a","vg_size":"1.00g","vg_free":"0","vg_missing_pv_count":"0"}]}`,
		"name":          `{"vg":[{"vg_name":"-y","vg_size":"1","vg_free":"0","vg_missing_pv_count":"0"}]}`,
		"selection":     `{"vg":[{"vg_name":"@lamina.pool=fast","vg_size":"1","vg_free":"0","vg_missing_pv_count":"0"}]}`,
		"LV size":       `{"vg":[{"vg_name":"a","vg_size":"1","vg_free":"0","vg_missing_pv_count":"0"}],"lv":[{"lv_size":""}]}`,
		"empty tag":     `{"vg":[{"vg_name":"a","vg_size":"1","vg_free":"0","vg_missing_pv_count":"0","vg_tags":"a,,b"}]}`,
		"tag":           `{"vg":[{"vg_name":"a","vg_size":"1","vg_free":"0","vg_missing_pv_count":"0","vg_tags":"lamina.pool=fast x"}]}`,
		"tag of an LV":  `{"vg":[{"vg_name":"a","vg_size":"1","vg_free":"0","vg_missing_pv_count":"0"}],"lv":[{"lv_size":"1","lv_tags":"\u001b[2J"}]}`,
		"PV size":       `{"vg":[{"vg_name":"a","vg_size":"1","vg_free":"0","vg_missing_pv_count":"0"}],"pv":[{"pv_name":"/dev/a"}]}`,
		"PV, no group":  `{"pv":[{"pv_name":"/dev/a"}]}`,
		"huge size":     `{"vg":[{"vg_name":"a","vg_size":"99999999999999999999","vg_free":"0","vg_missing_pv_count":"0"}]}`,
		"missing count": `{"vg":[{"vg_name":"a","vg_size":"1","vg_free":"0"}]}`,
	} {
		for _, order := range []string{bad + "," + good, good + "," + bad} {
			r, err := parseFullReport([]byte(`{"report":[` + order + `]}`))
			if err != nil || !errors.Is(r.Incomplete, ErrInvalid) {
				t.Errorf("%s: %v, incomplete for %v", name, err, r.Incomplete)
			}
			if len(r.VGs) != 1 || r.VGs[0].Name.s != "good" || len(r.VGs[0].Tags) != 1 || len(r.Loose) != 0 {
				t.Errorf("%s: read as %+v", name, r)
			}
		}
	}
}

// What a hostile disk makes lvm print is bounded, and lvm is not kept from
// printing it.
func TestBoundedOutput(t *testing.T) {
	var b bounded
	part := make([]byte, maxOutput/2+1)
	for range 3 {
		if n, err := b.Write(part); n != len(part) || err != nil {
			t.Fatalf("%d bytes of %d written, %v", n, len(part), err)
		}
	}
	if b.Len() != maxOutput {
		t.Errorf("%d bytes are kept", b.Len())
	}
}

// A runner that answers with one result.
type fixed Result

func (f fixed) Run(context.Context, Command) (Result, error) { return Result(f), nil }

// A report with exit 5 says what could be read, and the error beside it.
func TestFullReportPartial(t *testing.T) {
	const text = `{"report":[{"vg":[],"pv":[{"pv_name":"/dev/nvme0n1","pv_uuid":"u","pv_size":"512","pv_missing":""}]}],
		"log":[{"log_type":"error","log_message":"Volume group \"x\" not found"},{"log_type":"status","log_message":"fine"}]}`
	c := New(fixed{Stdout: []byte(text), Exit: 5}, nil, Options{})
	report, err := c.FullReport(context.Background())
	var failed *Error
	if !errors.As(err, &failed) || !errors.Is(err, ErrNotFound) || failed.Exit != 5 {
		t.Errorf("error %v", err)
	}
	if !errors.Is(report.Incomplete, ErrNotFound) {
		t.Errorf("the report is incomplete for %v", report.Incomplete)
	}
	want := []PVReport{{Device: "/dev/nvme0n1", UUID: "u", Size: 512}}
	if diff := cmp.Diff(want, report.Loose); diff != "" {
		t.Error(diff)
	}
	c = New(fixed{Stderr: []byte("  Something broke.\n"), Exit: 5}, nil, Options{})
	if _, err := c.FullReport(context.Background()); !errors.As(err, &failed) {
		t.Errorf("error %v", err)
	}
}

// What lvm 2.03.31 says of a disk that is a copy of another.
func TestFullReportCopies(t *testing.T) {
	const report = `{"report": [{"vg": [{"vg_name":"lamina-fast", "vg_uuid":"v", "vg_size":"1", "vg_free":"0", "vg_missing_pv_count":"0", "vg_tags":""}],
		"pv": [{"pv_name":"/dev/nvme0n1", "pv_uuid":"Eqo8Wc-ifjK", "pv_size":"1", "pv_missing":""}], "lv": [], "pvseg": [], "seg": []}],
		"log": [{"log_type":"warn", "log_message":"WARNING: Not using device /dev/nvme1n1 for PV Eqo8Wc-ifjK."},
			{"log_type":"warn", "log_message":"WARNING: PV Eqo8Wc-ifjK prefers device /dev/nvme0n1 because device name matches previous."}]}`
	c := New(fixed{Stdout: []byte(report)}, nil, Options{})
	got, err := c.FullReport(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []PVReport{{Device: "/dev/nvme0n1", UUID: "Eqo8Wc-ifjK", Size: 1, Copies: []string{"/dev/nvme1n1"}}}
	if diff := cmp.Diff(want, got.VGs[0].PVs); diff != "" {
		t.Error(diff)
	}
}

// A group with a copied disk is not changed, and may be taken off the host.
func TestCopiedGroup(t *testing.T) {
	r := &recorder{}
	c := New(r, &flushes{}, Options{})
	g := groupOf("vg")
	g.Copies = []DevicePath{{"/dev/nvme9n1"}}
	if err := c.LVActivate(t.Context(), g, LVName{"lv"}); !errors.Is(err, ErrCopied) || !strings.Contains(err.Error(), "/dev/nvme9n1") {
		t.Errorf("activate: %v", err)
	}
	if err := c.VGExtend(t.Context(), g, []DevicePath{{"/dev/nvme2n1"}}, 1); !errors.Is(err, ErrCopied) {
		t.Errorf("extend: %v", err)
	}
	if len(r.commands) > 0 {
		t.Errorf("it ran %v", r.commands)
	}
	if err := c.LVDeactivate(t.Context(), g, LVName{"lv"}); err != nil || len(r.commands) != 1 {
		t.Errorf("deactivate: %v, it ran %v", err, r.commands)
	}
}
