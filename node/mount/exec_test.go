//go:build !vm

package mount

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// silent is a udevd that does not answer.
type silent struct{}

func (silent) Answers() bool            { return false }
func (silent) Watch(string, int) func() { return func() {} }

// TestExec wants coreutils, which the node's userland in the virtual machine does not have.
func TestExec(t *testing.T) {
	run := Exec{Udev: silent{}}
	out, err := run.Run(t.Context(), Command{Name: "env"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "LC_ALL=C\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\nBLKID_FILE=/dev/null\nDM_DISABLE_UDEV=1\n"; string(out.Stdout) != want {
		t.Errorf("environment %q, want %q", out.Stdout, want)
	}
	other := t.TempDir()
	for _, name := range []string{"usr/sbin/mke2fs", "usr/bin/env"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(other, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/usr/bin/env", filepath.Join(other, name)); err != nil {
			t.Fatal(err)
		}
	}
	// Another userland: its programs alone, and its mke2fs.conf.
	out, err = Exec{Root: other}.Run(t.Context(), Command{Name: "env"})
	want := "LC_ALL=C\nPATH=" + other + "/usr/sbin:" + other + "/usr/bin\nBLKID_FILE=/dev/null\nMKE2FS_CONFIG=" + other + "/etc/mke2fs.conf\n"
	if err != nil || string(out.Stdout) != want {
		t.Errorf("environment %q, %v, want %q", out.Stdout, err, want)
	}
	if _, err := (Exec{Root: other}).Run(t.Context(), Command{Name: "cat"}); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("a program of the system ran: %v", err)
	}
	// More than a pipe holds, on stdin and stdout.
	big := bytes.Repeat([]byte("x"), 1<<20)
	out, err = run.Run(t.Context(), Command{Name: "cat", Stdin: big})
	if err != nil || !bytes.Equal(out.Stdout, big) {
		t.Errorf("cat gave %d bytes, error %v", len(out.Stdout), err)
	}
	_, err = run.Run(t.Context(), Command{Name: "cat", Args: []string{"--", "/nonexistent"}})
	failed, ok := errors.AsType[*CommandError](err)
	if !ok || failed.Exit != 1 || !strings.Contains(failed.Stderr, "No such file") {
		t.Errorf("error = %#v", err)
	}
	_, err = run.Run(t.Context(), Command{Name: "no-such-program"})
	if exitCode(err) != -1 {
		t.Errorf("error = %v, want exit -1", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err = run.Run(ctx, Command{Name: "sleep", Args: []string{"60"}}); !errors.Is(err, context.DeadlineExceeded) || exitCode(err) != -1 {
		t.Errorf("error = %v, want a deadline", err)
	}
}
