package lvm

import (
	"context"
	"errors"
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
		"size":          `{"report":[{"vg":[{"vg_name":"a","vg_size":"1.00g","vg_free":"0","vg_missing_pv_count":"0"}]}]}`,
		"name":          `{"report":[{"vg":[{"vg_name":"-y","vg_size":"1","vg_free":"0","vg_missing_pv_count":"0"}]}]}`,
		"LV size":       `{"report":[{"vg":[{"vg_name":"a","vg_size":"1","vg_free":"0","vg_missing_pv_count":"0"}],"lv":[{"lv_size":""}]}]}`,
		"tag":           `{"report":[{"vg":[{"vg_name":"a","vg_size":"1","vg_free":"0","vg_missing_pv_count":"0","vg_tags":"a,,b"}]}]}`,
		"PV size":       `{"report":[{"pv":[{"pv_name":"/dev/a"}]}]}`,
		"not strings":   `{"report":[{"vg":[{"vg_name":1}]}]}`,
		"not an object": `[]`,
	} {
		if r, err := parseFullReport([]byte(text)); err == nil {
			t.Errorf("%s: read as %+v", name, r)
		}
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
