package mount

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// SearchPath is where the programs of the userland below root live; "" is the system's own. The
// agent's own PATH is not trusted.
func SearchPath(root string) string {
	if root == "" {
		return "/usr/sbin:/usr/bin:/sbin:/bin"
	}
	return root + "/usr/sbin:" + root + "/usr/bin"
}

// noBlkidCache keeps libblkid inside mkfs.btrfs and btrfstune from believing its cache in
// /run/blkid/blkid.tab: with a stale entry they find our own UUID "not unique" on a device that lost it.
const noBlkidCache = "BLKID_FILE=/dev/null"

// Limits on a program's life. A mutation that outlives its limit is killed and reported; mkfs of a
// large device without prezeroed storage is the slowest.
const (
	readTimeout   = 2 * time.Minute
	mutateTimeout = 30 * time.Minute
)

// Command is one program run. Stdin may carry a LUKS key, so no method prints it.
type Command struct {
	Name  string
	Args  []string
	Stdin []byte
}

// String returns the program and its arguments, never Stdin.
func (c Command) String() string { return strings.Join(append([]string{c.Name}, c.Args...), " ") }

// GoString keeps Stdin out of %#v.
func (c Command) GoString() string { return fmt.Sprintf("mount.Command(%q)", c.String()) }

// Result is what a program that exited with 0 wrote.
type Result struct {
	Stdout, Stderr []byte
}

// Runner runs programs. A program that exits with another code than 0 gives a [*CommandError].
type Runner interface {
	Run(ctx context.Context, cmd Command) (Result, error)
}

// CommandError is a program that failed. Stderr is trimmed.
type CommandError struct {
	Name   string
	Args   []string
	Exit   int // -1: it did not start or was killed
	Stderr string
	Err    error // why, when Exit is -1
}

func (e *CommandError) Error() string {
	text := fmt.Sprintf("%s: exit %d", Command{Name: e.Name, Args: e.Args}, e.Exit)
	if e.Exit < 0 && e.Err != nil {
		text = fmt.Sprintf("%s: %v", Command{Name: e.Name, Args: e.Args}, e.Err)
	}
	if e.Stderr != "" {
		text += ": " + e.Stderr
	}
	return text
}

func (e *CommandError) Unwrap() error { return e.Err }

// exitCode returns the exit code that err carries, or -1.
func exitCode(err error) int {
	if failed, ok := errors.AsType[*CommandError](err); ok {
		return failed.Exit
	}
	return -1
}

// Exec runs programs of the node's userland with os/exec, in a fixed environment. Root is where the
// userland lies, "" for the system's own.
type Exec struct {
	Root string
	Udev Udev // nil: programs find out by themselves
}

// Udev says whether cryptsetup, by way of libdm, may wait for the host's udevd, and ends a wait that is
// not answered. See lvm.Udev.
type Udev interface {
	Answers() bool
	Watch(program string, pid int) (stop func())
}

// environ keeps mke2fs of another userland from the system's /etc/mke2fs.conf (mke2fs(8)).
func (e Exec) environ() []string {
	env := []string{"LC_ALL=C", "PATH=" + SearchPath(e.Root), noBlkidCache}
	if e.Root != "" {
		env = append(env, "MKE2FS_CONFIG="+e.Root+"/etc/mke2fs.conf")
	}
	if e.Udev != nil && !e.Udev.Answers() {
		env = append(env, "DM_DISABLE_UDEV=1")
	}
	return env
}

// Run implements [Runner]. Both outputs are buffers, so os/exec drains them at the same time.
func (e Exec) Run(ctx context.Context, cmd Command) (Result, error) {
	path, err := lookPath(SearchPath(e.Root), cmd.Name)
	if err != nil {
		return Result{}, &CommandError{Name: cmd.Name, Args: cmd.Args, Exit: -1, Err: err}
	}
	var stdout, stderr bytes.Buffer
	run := exec.CommandContext(ctx, path, cmd.Args...)
	run.Env = e.environ()
	run.Stdin, run.Stdout, run.Stderr = bytes.NewReader(cmd.Stdin), &stdout, &stderr
	run.WaitDelay = 10 * time.Second
	err = run.Start()
	if err == nil {
		if e.Udev != nil {
			defer e.Udev.Watch(cmd.Name, run.Process.Pid)()
		}
		err = run.Wait()
	}
	result := Result{Stdout: stdout.Bytes(), Stderr: stderr.Bytes()}
	if err == nil {
		return result, nil
	}
	failed := &CommandError{Name: cmd.Name, Args: cmd.Args, Exit: -1, Stderr: trimStderr(stderr.String()), Err: err}
	if exited, ok := errors.AsType[*exec.ExitError](err); ok && exited.Exited() {
		failed.Exit = exited.ExitCode()
	}
	if ctx.Err() != nil {
		failed.Exit, failed.Err = -1, fmt.Errorf("%w (%w)", context.Cause(ctx), err)
	}
	return result, failed
}

func lookPath(searchPath, name string) (string, error) {
	for dir := range strings.SplitSeq(searchPath, ":") {
		if path, err := exec.LookPath(dir + "/" + name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w in %s", exec.ErrNotFound, searchPath)
}

// trimStderr makes one line of a program's complaint, short enough for an event.
func trimStderr(text string) string {
	const most = 1000
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = text[:most] + "…"
	}
	return text
}

// read runs a command that changes nothing. It obeys ctx.
func (m *Mounter) read(ctx context.Context, name string, args ...string) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return m.runner.Run(ctx, Command{Name: name, Args: args})
}

// mutate runs a command that changes the device. It is not interrupted when the caller goes away: a
// half-done mkfs or key slot helps nobody, and a retry beside a command that still runs is worse.
func (m *Mounter) mutate(ctx context.Context, cmd Command) (Result, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), mutateTimeout)
	defer cancel()
	return m.runner.Run(ctx, cmd)
}
