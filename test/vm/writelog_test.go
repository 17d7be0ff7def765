package vm

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// logOf writes a log: each entry is sector, sectors, flags.
func logOf(t *testing.T, counted uint64, entries ...[3]uint64) string {
	t.Helper()
	var b bytes.Buffer
	sector := func(values ...uint64) {
		s := make([]byte, logSector)
		for i, v := range values {
			binary.LittleEndian.PutUint64(s[8*i:], v)
		}
		b.Write(s)
	}
	sector(logMagic, logVersion, counted, logSector)
	for i, e := range entries {
		if sector(e[0], e[1], e[2]); e[2] != logDiscard {
			b.Write(bytes.Repeat([]byte{byte(i + 1)}, int(e[1])*logSector))
		}
	}
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadWriteLog(t *testing.T) {
	for _, tt := range []struct {
		name    string
		counted uint64
		entries [][3]uint64
		want    int
		wrong   string
	}{
		{"all kinds", 3, [][3]uint64{{8, 2, 0}, {0, 0, logFlush}, {8, 1, logDiscard}}, 3, ""},
		{"more than were counted", 0, [][3]uint64{{8, 2, 0}}, 1, ""},
		{"one was not written any more", 1, [][3]uint64{{8, 2, 0}, {}, {8, 2, 0}}, 1, ""},
		{"a gap", 3, [][3]uint64{{8, 2, 0}, {}, {8, 2, 0}}, 0, "3 entries, and 1 can be read"},
		{"force unit access", 1, [][3]uint64{{8, 2, 2}}, 0, "entry 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log, err := ReadWriteLog(logOf(t, tt.counted, tt.entries...))
			if tt.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wrong) {
					t.Fatalf("error %v, want %q", err, tt.wrong)
				}
				return
			}
			if err != nil || len(log.Entries) != tt.want {
				t.Fatalf("%+v, %v", log, err)
			}
			log.Close()
		})
	}
}

func TestPowerCutOfALog(t *testing.T) {
	log, err := ReadWriteLog(logOf(t, 0, [3]uint64{0, 1, 0}, [3]uint64{0, 0, logFlush}, [3]uint64{1, 1, 0}, [3]uint64{9, 1, 0}, [3]uint64{2, 1, 0}))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if got := log.Volatile(5); !slices.Equal(got, []int{2, 3, 4}) {
		t.Errorf("after a flush, %v are volatile", got)
	}
	if got := log.Volatile(2); got != nil {
		t.Errorf("right after the flush, %v are volatile", got)
	}
	const inOrder = 8 * logSector // 2 and 4, not 3
	seen, rng := map[string]int{}, rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		name := ""
		for _, n := range log.Survivors(rng, log.Volatile(5), inOrder) {
			name += string(rune('0' + n))
		}
		seen[name]++
	}
	for _, name := range []string{"", "2", "3", "23", "24", "234"} {
		if seen[name] == 0 {
			t.Errorf("never: %q", name)
		}
		delete(seen, name)
	}
	if len(seen) > 0 {
		t.Errorf("out of order: %v", seen)
	}
}
