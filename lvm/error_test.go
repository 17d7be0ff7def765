package lvm

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
)

// TestCapturedErrors runs what real LVM said through the client.
func TestCapturedErrors(t *testing.T) {
	sentinels := map[string]error{}
	for _, err := range []error{ErrInvalid, ErrNotFound, ErrExists, ErrNoSpace, ErrInUse} {
		sentinels[err.Error()] = err
	}
	for path, text := range captured(t, "errors.txt") {
		var cases []struct {
			What, Want, Name string
			Args             []string
			Exit             int
			Stdout, Stderr   string
		}
		if err := json.Unmarshal(text, &cases); err != nil || len(cases) < 20 {
			t.Fatalf("%s: %d cases, %v", path, len(cases), err)
		}
		for _, tt := range cases {
			r := fixed{Stdout: []byte(tt.Stdout), Stderr: []byte(tt.Stderr), Exit: tt.Exit}
			_, err := New(r, nil, Options{}).run(context.Background(), Command{tt.Name, tt.Args})
			var failed *Error
			if !errors.As(err, &failed) || failed.Exit != tt.Exit || len(failed.Messages) == 0 {
				t.Errorf("%s: %s: %v", path, tt.What, err)
				continue
			}
			if got, want := errors.Unwrap(err), sentinels[tt.Want]; !errors.Is(got, want) {
				t.Errorf("%s: %s: %v is %v, want %v", path, tt.What, err, got, want)
			}
		}
	}
}

// LVM says that a pool is full when it could not ask how full it is.
func TestClassifyTransaction(t *testing.T) {
	got := classify([]string{
		"WARNING: Thin pool vg/pool0 has unexpected transaction id 2, expecting 3.",
		"Cannot create new thin volume, free space in thin pool vg/pool0 reached threshold.",
	})
	if got != nil {
		t.Errorf("%v, want no reason", got)
	}
}

func TestErrorText(t *testing.T) {
	err := error(&Error{Command: "lvremove", Exit: 5, Messages: []string{"a", "b"}, kind: ErrInUse})
	if got, want := err.Error(), "lvremove: exit 5: a; b"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if !errors.Is(err, ErrInUse) || errors.Is(err, ErrNotFound) {
		t.Error("the sentinel is not that of the error")
	}
	err = &Error{Command: "lvremove", Exit: 5}
	if got, want := err.Error(), "lvremove: exit 5: it said nothing"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestClassify(t *testing.T) {
	tests := []struct {
		text string
		want error
	}{
		{`Logical Volume "a" already exists in volume group "vg"`, ErrExists},
		{`A volume group called vg already exists.`, ErrExists},
		{`Failed to find logical volume "vg/a"`, ErrNotFound},
		{`Volume group "vg" not found`, ErrNotFound},
		{`Volume group "vg" has insufficient free space (10 extents): 20 required.`, ErrNoSpace},
		{`Insufficient suitable allocatable extents for logical volume a: 4 more required`, ErrNoSpace},
		{`Cannot create new thin volume, free space in thin pool vg/pool0 reached threshold.`, ErrNoSpace},
		{`Logical volume vg/a in use.`, ErrInUse},
		{`Logical volume vg/a contains a filesystem in use.`, ErrInUse},
		{`Logical volume vg/a is used by another device.`, ErrInUse},
		{`Can't open /dev/nvme0n1 exclusively.  Mounted filesystem?`, ErrInUse},
		{`Check of pool lamina-fast/thinpool failed (status:1). Manual repair required!`, ErrDamaged},
		{`Refusing activation of partial LV vg/a.  Use '--activationmode partial' to override.`, ErrDamaged},
		// A message about another thing must not become a reason.
		{`Cannot change VG vg while PVs are missing.`, ErrDamaged},
		{`New size (2 extents) matches existing size (2 extents).`, nil},
		{`Thin pool vg/pool0 transaction_id is 1, while expected 2.`, nil},
		{`WARNING: Thin pool vg/pool0 has unexpected transaction id 2, expecting 3.`, nil},
		{`/dev/vg: already exists in filesystem`, ErrExists},
		{`Snapshot origin LV none not found in Volume group vg.`, ErrNotFound},
		{`Insufficient free space: 10 extents needed, but only 5 available`, ErrNoSpace},
		{``, nil},
	}
	for _, tt := range tests {
		if got := classify([]string{"WARNING: something else", tt.text}); !errors.Is(got, tt.want) {
			t.Errorf("%q: %v, want %v", tt.text, got, tt.want)
		}
	}
}
