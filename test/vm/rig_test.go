//go:build vm

package vm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// buildProbe compiles the program that runs in the machine.
func buildProbe(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "probe")
	cmd := exec.Command("go", "build", "-o", out, "./probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v\n%s", err, msg)
	}
	return out
}

func probeConfig(t *testing.T, args ...string) Config {
	t.Helper()
	return Config{Program: buildProbe(t), Args: args, Stderr: t.Output(), Timeout: 2 * time.Minute}
}

// talk is a machine with both ends of its program's standard streams.
type talk struct {
	*Machine
	t     *testing.T
	lines *bufio.Scanner
	in    io.WriteCloser
}

func start(t *testing.T, cfg Config) *talk {
	t.Helper()
	outR, outW := io.Pipe()
	inR, inW := io.Pipe()
	cfg.Stdout, cfg.Stdin = outW, inR
	m, err := Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = m.Wait()
		outW.Close()
		inR.Close()
	}()
	return &talk{Machine: m, t: t, lines: bufio.NewScanner(outR), in: inW}
}

func (k *talk) expect(want string) {
	k.t.Helper()
	if !k.lines.Scan() {
		_, err := k.Wait()
		k.t.Fatalf("the program ended before it said %q: %v", want, err)
	}
	if got := k.lines.Text(); got != want {
		k.t.Fatalf("the program says %q, want %q", got, want)
	}
}

func (k *talk) send(line string) {
	k.t.Helper()
	if _, err := io.WriteString(k.in, line+"\n"); err != nil {
		k.t.Fatal(err)
	}
}

func (k *talk) mustExit(want int) {
	k.t.Helper()
	if code, err := k.Wait(); code != want || err != nil {
		k.t.Fatalf("Wait() = %d, %v; want %d", code, err, want)
	}
}

// output runs a probe to its end and returns what it printed.
func output(t *testing.T, cfg Config) string {
	t.Helper()
	var out bytes.Buffer
	cfg.Stdout = &out
	code, err := Run(t.Context(), cfg)
	if code != 0 || err != nil {
		t.Fatalf("Run(%v) = %d, %v; output:\n%s", cfg.Args, code, err, out.String())
	}
	return out.String()
}

func TestExitCodeAndStreams(t *testing.T) {
	var stdout, stderr bytes.Buffer
	cfg := probeConfig(t, "exit", "42")
	cfg.Stdout, cfg.Stderr = &stdout, &stderr
	m, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	code, err := m.Wait()
	if code != 42 || err != nil {
		t.Fatalf("Wait() = %d, %v; want 42", code, err)
	}
	got := []string{stdout.String(), stderr.String()}
	if diff := cmp.Diff([]string{"to stdout\n", "to stderr\n"}, got); diff != "" {
		t.Error(diff)
	}
	t.Logf("boot took %v", m.BootTime())
}

func TestProgramOfTheBundle(t *testing.T) {
	got := output(t, Config{Program: "lvm", Args: []string{"version"}})
	if !strings.Contains(got, "LVM version:     2.03.31") {
		t.Errorf("lvm version says %q", got)
	}
}

func TestMissingProgramIsAnError(t *testing.T) {
	code, err := Run(t.Context(), Config{Program: "no-such-program"})
	if err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Errorf("Run() = %d, %v; want an error that names the program", code, err)
	}
}

// The program answers only after the host has read its first line, so output
// and input flow while it runs.
func TestOutputIsLive(t *testing.T) {
	k := start(t, probeConfig(t, "echo"))
	k.expect("ready")
	k.send("hello")
	k.expect("got hello")
	k.mustExit(0)
}

func TestEnvironmentAndFiles(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, []byte("a line\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg := probeConfig(t, "env", "LAMINA_TEST")
	cfg.Env = []string{"LAMINA_TEST=a value"}
	cfg.Files = map[string]string{"/data/in": in}
	cfg.Outputs = map[string]string{"/data/out": out}
	if got := output(t, cfg); got != "a value\n" {
		t.Errorf("the variable is %q", got)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Repeat("a line\n", 100_000); string(got) != want {
		t.Errorf("the output file has %d bytes, want %d", len(got), len(want))
	}
}

func TestDisksAppearWithTheirSerials(t *testing.T) {
	image := filepath.Join(t.TempDir(), "ro.raw")
	if err := os.WriteFile(image, make([]byte, 1<<20), 0o444); err != nil {
		t.Fatal(err)
	}
	cfg := probeConfig(t, "disks", "A", "B-4k", "ro_1")
	cfg.Disks = []Disk{
		{Serial: "A", Size: 1 << 30},
		{Serial: "B-4k", Size: 2 << 30, BlockSize: 4096},
		{Serial: "ro_1", Path: image, ReadOnly: true},
	}
	want := "A 2097152 0 512\nB-4k 4194304 0 4096\nro_1 2048 1 512\n"
	if diff := cmp.Diff(want, output(t, cfg)); diff != "" {
		t.Error(diff)
	}
}

func TestLVMMakesThinVolumes(t *testing.T) {
	cfg := probeConfig(t, "thin", "A", "B")
	cfg.Disks = []Disk{{Serial: "A", Size: 1 << 30, Unsafe: true}, {Serial: "B", Size: 1 << 30, Unsafe: true}}
	got := output(t, cfg)
	want := []string{"vol 1.00g thin", "snap 1.00g thin vol", "thin-pool"}
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("lvs does not show %q:\n%s", w, got)
		}
	}
}

func TestPowerCutKeepsWhatWasSynced(t *testing.T) {
	disks := []Disk{{Serial: "A", Size: 1 << 30, Path: filepath.Join(t.TempDir(), "a.raw")}}
	cfg := probeConfig(t, "write", "A")
	cfg.Disks = disks
	k := start(t, cfg)
	k.expect("durable")
	if err := k.CutPower(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Wait(); !errors.Is(err, ErrPowerCut) {
		t.Fatalf("Wait() = %v, want ErrPowerCut", err)
	}
	cfg.Args = []string{"read", "A"}
	// What was not synced is gone: the cut was one, and no orderly end.
	if diff := cmp.Diff("1048576 262144\nvolatile lost: true\n", output(t, cfg)); diff != "" {
		t.Error(diff)
	}
}

func TestPulledDiskVanishes(t *testing.T) {
	cfg := probeConfig(t, "gone", "B")
	cfg.Disks = []Disk{{Serial: "A", Size: 1 << 30}, {Serial: "B", Size: 1 << 30}}
	k := start(t, cfg)
	k.expect("here")
	if err := k.PullDisk("B"); err != nil {
		t.Fatal(err)
	}
	k.expect("gone")
	k.in.Close()
	k.mustExit(0)
}

func TestFailedIOIsSeenAndHeals(t *testing.T) {
	cfg := probeConfig(t, "io", "A")
	cfg.Disks = []Disk{{Serial: "A", Size: 1 << 30}}
	k := start(t, cfg)
	const good = "write <nil>, read <nil>, fsync <nil>"
	k.expect(good)
	for _, step := range []struct {
		kinds []IO
		want  string
	}{
		{[]IO{Writes}, "write no data available, read <nil>, fsync input/output error"},
		{[]IO{Reads}, "write <nil>, read no data available, fsync <nil>"},
		{nil, "write no data available, read no data available, fsync input/output error"},
	} {
		if err := k.FailIO("A", step.kinds...); err != nil {
			t.Fatal(err)
		}
		k.send("again")
		k.expect(step.want)
	}
	if err := k.HealIO("A"); err != nil {
		t.Fatal(err)
	}
	k.send("again")
	k.expect(good)
	k.in.Close()
	k.mustExit(0)
}

func TestSmallDiskFills(t *testing.T) {
	cfg := probeConfig(t, "fill", "A")
	cfg.Disks = []Disk{{Serial: "A", Size: 32 << 20}}
	if got := output(t, cfg); got != "full: true\n" {
		t.Errorf("the probe says %q", got)
	}
}

func TestHangIsKilledAndExplained(t *testing.T) {
	var stderr bytes.Buffer
	cfg := probeConfig(t, "hang")
	cfg.Stderr = &stderr
	cfg.Timeout = 20 * time.Second
	_, err := Run(t.Context(), cfg)
	if !errors.Is(err, ErrTimeout) {
		t.Fatalf("Run() = %v, want ErrTimeout", err)
	}
	if !strings.Contains(err.Error(), "sysrq: Show Blocked State") {
		t.Errorf("the error lacks the kernel's word on blocked tasks: %v", err)
	}
	if !strings.Contains(stderr.String(), "main.hang") {
		t.Errorf("standard error lacks the program's goroutines: %s", &stderr)
	}
}

func TestPanicIsExplained(t *testing.T) {
	_, err := Run(t.Context(), probeConfig(t, "crash"))
	if !errors.Is(err, ErrPanic) {
		t.Fatalf("Run() = %v, want ErrPanic", err)
	}
	if !strings.Contains(err.Error(), "sysrq triggered crash") || !strings.Contains(err.Error(), "Call Trace:") {
		t.Errorf("the error lacks the kernel's account: %v", err)
	}
}

func TestCancelKillsTheMachine(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cfg := probeConfig(t, "hang")
	r, w := io.Pipe()
	cfg.Stdout = w
	m, err := Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(r).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := m.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait() = %v, want context.Canceled", err)
	}
}

func TestGoTestBinaryRuns(t *testing.T) {
	var out bytes.Buffer
	cfg := Config{Stdout: &out, Stderr: t.Output()}
	code, err := RunGoTest(t.Context(), "./test/vm/wire", "", cfg, "-test.v", "-test.run=TestReadBack")
	if code != 0 || err != nil {
		t.Fatalf("RunGoTest() = %d, %v\n%s", code, err, &out)
	}
	if !strings.Contains(out.String(), "--- PASS: TestReadBack") {
		t.Errorf("the test's output is %q", &out)
	}
}

// All that a log holds, done to an empty disk, makes the disk; and there were flushes
// and discards among it.
func TestWriteLogReplays(t *testing.T) {
	dir := t.TempDir()
	disk := Disk{Serial: "A", Size: 32 << 20, Path: filepath.Join(dir, "a.raw"), WriteLog: filepath.Join(dir, "a.log")}
	cfg := probeConfig(t, "fill", "A")
	cfg.Disks = []Disk{disk}
	output(t, cfg)
	log, err := ReadWriteLog(disk.WriteLog)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	image, err := os.Create(filepath.Join(dir, "replayed.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if err := image.Truncate(disk.Size); err != nil {
		t.Fatal(err)
	}
	flushes, discards := 0, 0
	for n, e := range log.Entries {
		if err := log.Apply(n, image); err != nil {
			t.Fatal(err)
		}
		if e.Flush {
			flushes++
		}
		if e.Discard {
			discards++
		}
	}
	t.Logf("%d entries, %d flushes, %d discards", len(log.Entries), flushes, discards)
	if flushes < 2 || discards < 1 || len(log.Volatile(len(log.Entries))) > len(log.Entries)/2 {
		t.Errorf("%d entries, %d flushes, %d discards", len(log.Entries), flushes, discards)
	}
	want, err := os.ReadFile(disk.Path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(image.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("the replayed disk is another one")
	}
}
