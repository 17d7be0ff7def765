package lvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"syscall"
)

// Command is one invocation of lvm(8).
type Command struct {
	Name string   // the lvm command: lvcreate, fullreport …
	Args []string // its arguments, one argv element each
}

// Result is how a command that ran ended.
type Result struct {
	Stdout, Stderr []byte
	Exit           int // exit status; 128 + signal when a signal ended it
}

// A Runner runs one lvm command to its end. An error means that the command
// could not be run or its end not be seen; a command that failed is a Result
// with an Exit other than 0. When ctx ends, the command is killed: callers that
// change something pass a context that does not end.
type Runner interface {
	Run(ctx context.Context, cmd Command) (Result, error)
}

// Exec runs the lvm program of this machine.
type Exec struct {
	// Program is the absolute path of lvm(8).
	Program string
	// SystemDir holds lvm.conf (LVM_SYSTEM_DIR); see [WriteConfig].
	SystemDir string
	// Udev is told of each command; nil where LVM does not wait for udev.
	Udev *Udev
}

// maxOutput bounds what is kept of each stream: four times the report of a group
// whose metadata area is full. A disk that somebody else has written may hold more.
const maxOutput = 32 << 20

// bounded keeps the beginning of what is written to it. It takes the rest too: a
// child that cannot write would hang, or end in the middle of a change.
type bounded struct{ bytes.Buffer }

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), maxOutput-b.Len())])
	return len(p), nil
}

// Run implements [Runner]. The child is the leader of a process group of its
// own, so that a signal to the agent's group (a terminal's ^C, a container
// runtime's stop) does not end LVM in the middle of a change.
func (e Exec) Run(ctx context.Context, cmd Command) (Result, error) {
	var stdout, stderr bounded
	c := exec.CommandContext(ctx, e.Program, append([]string{cmd.Name}, cmd.Args...)...)
	c.Env = []string{
		"LC_ALL=C",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		"LVM_SYSTEM_DIR=" + e.SystemDir,
		"LVM_SUPPRESS_FD_WARNINGS=1",
	}
	// Buffers make os/exec drain both streams at the same time: a child that
	// fills one pipe while we read the other would hang.
	c.Stdout, c.Stderr = &stdout, &stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err := c.Start()
	if err == nil {
		stop := e.Udev.Watch(cmd.Name, c.Process.Pid)
		err = c.Wait()
		stop()
	}
	res := Result{Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	var exit *exec.ExitError
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return res, fmt.Errorf("run %s: %w", cmd.Name, ctx.Err())
	case errors.As(err, &exit):
		res.Exit = exit.ExitCode()
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			res.Exit = 128 + int(status.Signal())
		}
	default:
		return res, fmt.Errorf("run %s: %w", cmd.Name, err)
	}
	return res, nil
}
