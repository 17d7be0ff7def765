package vm

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
)

func TestCPIO(t *testing.T) {
	tree := bundle.NewTree()
	tree.AddFile("a/b", 0o755, []byte("hello"))
	tree.AddLink("c", "a/b")
	var out bytes.Buffer
	if err := writeCPIO(&out, tree); err != nil {
		t.Fatal(err)
	}
	var got []string
	for rest := out.Bytes(); len(rest) > 0; {
		var ino, mode, uid, gid, nlink, mtime, size, maj, min, rmaj, rmin, nameLen, check int
		_, err := fmt.Sscanf(string(rest[:110]), "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			&ino, &mode, &uid, &gid, &nlink, &mtime, &size, &maj, &min, &rmaj, &rmin, &nameLen, &check)
		if err != nil {
			t.Fatal(err)
		}
		align := func(n int) int { return (n + 3) &^ 3 }
		data := align(110 + nameLen)
		got = append(got, fmt.Sprintf("%o %d %s %q", mode, uid, rest[110:110+nameLen-1], rest[data:data+size]))
		rest = rest[data+align(size):]
	}
	want := []string{`40755 0 a ""`, `100755 0 a/b "hello"`, `120777 0 c "a/b"`, `0 0 TRAILER!!! ""`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestConsoleExplains(t *testing.T) {
	c := &console{}
	fmt.Fprint(c, "early\r\n[ 1.0] Oops: 0002\r\n[ 1.0] Call Trace:\r\n[ 1.1] Kernel panic - not syncing: Fatal\r\n")
	text, panicked := c.explain()
	want := "[ 1.0] Oops: 0002\n[ 1.0] Call Trace:\n[ 1.1] Kernel panic - not syncing: Fatal\n"
	if diff := cmp.Diff(want, text); diff != "" || !panicked {
		t.Error(panicked, diff)
	}
	c = &console{}
	for i := range 100_000 {
		fmt.Fprintf(c, "line %d\n", i)
	}
	text, panicked = c.explain()
	lines := strings.Split(text, "\n")
	if panicked || len(lines) != tailLines || lines[tailLines-1] != "line 99999" {
		t.Errorf("explain() = %d lines, the last %q, %v", len(lines), lines[len(lines)-1], panicked)
	}
	if len(c.text) > 2*consoleKept {
		t.Errorf("the console keeps %d bytes", len(c.text))
	}
}

func TestBadDisks(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		disks []Disk
		want  string
	}{
		"no serial": {[]Disk{{Size: 1}}, `serial ""`},
		"comma":     {[]Disk{{Serial: "a,b", Size: 1}}, `serial "a,b"`},
		"twice":     {[]Disk{{Serial: "A", Size: 1}, {Serial: "A", Size: 1}}, "is taken"},
		"no size":   {[]Disk{{Serial: "A", Path: filepath.Join(dir, "none")}}, "no size"},
	} {
		m := newMachine(Config{Disks: tc.disks}, dir)
		if _, err := m.qemuArgs("kernel", "initrd"); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: qemuArgs() = %v, want %q", name, err, tc.want)
		}
	}
}

func TestMissingQEMUIsAnErrorWithTheWayOut(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Run(t.Context(), Config{Program: "lvm"})
	if err == nil || !strings.Contains(err.Error(), "apt-get install --yes --no-install-recommends qemu-system-x86") {
		t.Errorf("Run() = %v, want the command that installs QEMU", err)
	}
}
