package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The agent leaves no core dump, and no child of it does.
func TestNoCoreDumps(t *testing.T) {
	if os.Getenv("LAMINA_TEST_CHILD") == "" {
		// What the function changes holds for a whole process: not for that of the tests.
		cmd := exec.Command(os.Args[0], "-test.run=^TestNoCoreDumps$", "-test.v")
		cmd.Env = append(os.Environ(), "LAMINA_TEST_CHILD=1")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestNoCoreDumps") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := noCoreDumps(); err != nil {
		t.Fatal(err)
	}
	if n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); n != 0 || err != nil {
		t.Errorf("the process is dumpable: %d, %v", n, err)
	}
	limits, err := exec.Command("/bin/cat", "/proc/self/limits").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(limits)) {
		if f := strings.Fields(line); strings.HasPrefix(line, "Max core file size") && (f[4] != "0" || f[5] != "0") {
			t.Errorf("of a child: %s", line)
		}
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "fine": "fine", "bad\xffbyte": "bad?byte", strings.Repeat("x", 2001): strings.Repeat("x", 2000) + "…",
		strings.Repeat("ü", 1000) + "ü": strings.Repeat("ü", 1000) + "…", "x" + strings.Repeat("ü", 1000): "x" + strings.Repeat("ü", 999) + "?…",
	} {
		if got := text(in); got != want {
			t.Errorf("%.40q became %.40q", in, got)
		}
	}
}
