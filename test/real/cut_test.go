//go:build vm

package real

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lamina-csi/lamina/test/vm"
)

var (
	cuts     = flag.Int("cuts", 6, "how often TestPowerCuts cuts the power")
	seedFlag = flag.Uint64("seed", 0, "the seed of TestPowerCuts and TestWriteReplay; 0: another one each time, and 1 for TestFullPool")
)

func seed(t *testing.T) uint64 {
	s := *seedFlag
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-seed=%d", s)
	return s
}

// TestPowerCuts cuts the power in the middle of operations, again and again on the same
// disk. The disk loses what a disk may lose: all that came after a write chosen at
// random, and of what came before any part that no flush followed. After each cut the
// next boot finds what was acknowledged, and the same call, made again, or another one
// that may follow comes to its end.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	r := newCutRig(t)
	acked := false
	for boot := range *cuts {
		acked = r.cut(boot, acked)
	}
	m, _, out := r.boot("cuts", "-boot", fmt.Sprint(*cuts), "-last", "-acked="+fmt.Sprint(acked))
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(t.Output(), out)
		copied <- err
	}()
	pass(t, m)
	if err := <-copied; err != nil {
		t.Error(err)
	}
	for _, name := range slices.Sorted(maps.Keys(r.by)) {
		t.Logf("%4d %s", r.by[name], name)
	}
	t.Logf("%d cuts; %d after the answer; %d of %d writes that no flush had followed were lost", *cuts, r.acked, r.lost, r.volatile)
}

// lvmArea is where LVM's label and text lie on a disk of ours. LVM writes a text and
// then the header that names it, and sends no flush between: a disk that wrote the
// header first, and lost the text, has lost the group (docs/limits.md).
const lvmArea = 16 << 20

// cutRig is a machine whose power is cut.
type cutRig struct {
	t           *testing.T
	dir         string
	guest, node string
	seed        uint64
	rng         *rand.Rand

	by                    map[string]int // cuts by operation
	acked, lost, volatile int
}

const diskSize = 4 * gib

func newCutRig(t *testing.T) *cutRig {
	t.Helper()
	s := seed(t)
	return &cutRig{
		t: t, dir: t.TempDir(), guest: build(t, "test/real/guest"), node: build(t, "cmd/lamina-node"),
		seed: s, rng: rand.New(rand.NewPCG(s, 1<<63)), by: map[string]int{},
	}
}

// copy copies a disk, whose holes stay holes.
func (r *cutRig) copy(from, to string) {
	r.t.Helper()
	if text, err := exec.Command("cp", "--sparse=always", from, to).CombinedOutput(); err != nil {
		r.t.Fatalf("%v: %s", err, text)
	}
}

func (r *cutRig) path(name string) string { return filepath.Join(r.dir, name) }

// boot boots a copy of the disk: what becomes of the disk itself is decided later.
func (r *cutRig) boot(args ...string) (m *vm.Machine, in io.Writer, out *io.PipeReader) {
	r.t.Helper()
	if _, err := os.Stat(r.path("disk")); errors.Is(err, os.ErrNotExist) {
		if err := errors.Join(os.WriteFile(r.path("disk"), nil, 0o600), os.Truncate(r.path("disk"), diskSize)); err != nil {
			r.t.Fatal(err)
		}
	}
	r.copy(r.path("disk"), r.path("copy"))
	stdin, in := io.Pipe()
	out, stdout := io.Pipe()
	m, err := vm.Start(r.t.Context(), vm.Config{
		Program: r.guest, Args: append(args, "-seed", fmt.Sprint(r.seed)),
		Files: map[string]string{"/usr/local/bin/lamina-node": r.node},
		Disks: []vm.Disk{{Serial: "A", Path: r.path("copy"), WriteLog: r.path("log")}},
		Stdin: stdin, Stdout: stdout, Stderr: r.t.Output(), Timeout: 20 * time.Minute,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	go func() {
		_, _ = m.Wait() // the caller looks
		stdout.Close()
		stdin.Close()
	}()
	return m, in, out
}

// cut lets the guest do one operation, cuts the power, and makes of the disk what it
// would be if that had been at one of the operation's writes, or right after its answer.
func (r *cutRig) cut(boot int, before bool) (acked bool) {
	r.t.Helper()
	m, in, out := r.boot("cuts", "-boot", fmt.Sprint(boot), "-acked="+fmt.Sprint(before))
	var began, answered int64
	name := ""
	lines := bufio.NewScanner(out)
	for answered == 0 && lines.Scan() {
		line := lines.Text()
		what, begins := strings.CutPrefix(line, "BEGIN ")
		switch {
		case begins:
			name, began = what, r.logSize()
			fmt.Fprintln(in)
		case line == "ANSWERED":
			answered = r.logSize()
		default:
			fmt.Println(line)
		}
	}
	if answered == 0 {
		code, err := m.Wait()
		r.t.Fatalf("boot %d: exit %d, %v", boot, code, err)
	}
	if err := m.CutPower(); err != nil {
		r.t.Fatal(err)
	}
	log, err := vm.ReadWriteLog(r.path("log"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	first, last := log.Index(began), log.Index(answered)
	at := first + r.rng.IntN(last-first+1)
	if r.rng.IntN(4) == 0 {
		at = last
	}
	r.by[name]++
	if acked = at == last; acked {
		r.acked++
	}
	kept, volatile := r.lose(log, at)
	fmt.Printf("cut %d: %s: after write %d of %d, %d of %d in the disk's cache survive\n", boot, name, at-first, last-first, kept, volatile)
	return acked
}

// lose makes of the disk what a power cut after n entries of the log leaves.
func (r *cutRig) lose(log *vm.WriteLog, n int) (kept, volatile int) {
	r.t.Helper()
	disk, err := os.OpenFile(r.path("disk"), os.O_RDWR, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer disk.Close()
	cache := log.Volatile(n)
	survivors := log.Survivors(r.rng, cache, lvmArea)
	for i := range n - len(cache) {
		if err := log.Apply(i, disk); err != nil {
			r.t.Fatal(err)
		}
	}
	for _, i := range survivors {
		if err := log.Apply(i, disk); err != nil {
			r.t.Fatal(err)
		}
	}
	r.lost += len(cache) - len(survivors)
	r.volatile += len(cache)
	return len(survivors), len(cache)
}

func (r *cutRig) logSize() int64 {
	r.t.Helper()
	info, err := os.Stat(r.path("log"))
	if err != nil {
		r.t.Fatal(err)
	}
	return info.Size()
}
