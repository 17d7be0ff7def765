package lvm

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseThinStatus(t *testing.T) {
	tests := map[string]ThinStatus{
		"0 -":          {},
		"128 127":      {MappedSectors: 128},
		"204800 20000": {MappedSectors: 204800},
		"Fail":         {Failed: true},
		"Error":        {Failed: true},
	}
	for params, want := range tests {
		got, err := parseThinStatus(params)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v %s", params, err, diff)
		}
	}
	for _, params := range []string{"", "x -", "-1 -", "- -", "99999999999999999999 -"} {
		if _, err := parseThinStatus(params); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, want ErrInvalid", params, err)
		}
	}
}

func TestParsePoolStatus(t *testing.T) {
	tests := map[string]PoolStatus{
		"0 12/1024 34/4096 - rw discard_passdown queue_if_no_space - 1024": {
			UsedMetadata: 12, AllMetadata: 1024, UsedData: 34, AllData: 4096, Mode: PoolReadWrite,
		},
		"7 12/1024 4096/4096 - out_of_data_space discard_passdown error_if_no_space - 1024": {
			TransactionID: 7, UsedMetadata: 12, AllMetadata: 1024, UsedData: 4096, AllData: 4096,
			Mode: PoolOutOfSpace, ErrorIfNoSpace: true,
		},
		"7 12/1024 1/2 99 ro no_discard_passdown queue_if_no_space needs_check 1024": {
			TransactionID: 7, UsedMetadata: 12, AllMetadata: 1024, UsedData: 1, AllData: 2,
			MetadataSnapshot: true, Mode: PoolReadOnly, NeedsCheck: true,
		},
		"1 2/3 4/5 - rw": {
			TransactionID: 1, UsedMetadata: 2, AllMetadata: 3, UsedData: 4, AllData: 5, Mode: PoolReadWrite,
		},
		"Fail": {Mode: PoolFailed},
	}
	for params, want := range tests {
		got, err := parsePoolStatus(params)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v %s", params, err, diff)
		}
	}
	for _, params := range []string{"", "1", "1 2/3 4/5 -", "x 2/3 4/5 - rw", "1 2 4/5 - rw", "1 2/x 4/5 - rw", "1 2/3 x/5 - rw"} {
		if _, err := parsePoolStatus(params); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, want ErrInvalid", params, err)
		}
	}
}

// kernelTargets lays targets out as DM_TABLE_STATUS does: Next counts from the
// start of the data.
func kernelTargets(targets []Target) []byte {
	b := encodeTargets(targets)
	var sum uint32
	for off := 0; off < len(b); off = int(sum) {
		sum += binary.NativeEndian.Uint32(b[off+20:])
		binary.NativeEndian.PutUint32(b[off+20:], sum)
	}
	return b
}

func TestTargets(t *testing.T) {
	want := []Target{
		{0, 8192, "linear", "259:0 2048"},
		{8192, 16384, "striped", "2 128 259:0 10240 259:1 2048"},
		{24576, 1, "thin", ""},
	}
	data := kernelTargets(want)
	got, err := decodeTargets(data, len(want))
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v %s", err, diff)
	}
	if got, err := decodeTargets(nil, 0); err != nil || got != nil {
		t.Errorf("no targets: %v, %v", got, err)
	}
	if _, err := decodeTargets(data, len(want)+1); !errors.Is(err, ErrInvalid) {
		t.Errorf("one target too many: %v", err)
	}
	if _, err := decodeTargets(data[:60], 2); !errors.Is(err, ErrInvalid) {
		t.Errorf("cut short: %v", err)
	}
}

func TestEncodeTargetsAligns(t *testing.T) {
	for n := range 20 {
		b := encodeTargets([]Target{{0, 1, "linear", strings.Repeat("x", n)}})
		if len(b)%8 != 0 || b[len(b)-1] != 0 {
			t.Errorf("%d bytes of parameters: %d bytes, not aligned or not ended", n, len(b))
		}
	}
}
