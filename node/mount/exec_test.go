//go:build !vm

package mount

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestExec wants coreutils, which the node's userland in the virtual machine does not have.
func TestExec(t *testing.T) {
	run := Exec{Env: []string{"EXTRA=1"}}
	out, err := run.Run(t.Context(), Command{Name: "env"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "LC_ALL=C\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\nBLKID_FILE=/dev/null\nEXTRA=1\n"; string(out.Stdout) != want {
		t.Errorf("environment %q, want %q", out.Stdout, want)
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
