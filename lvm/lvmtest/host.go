package lvmtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lamina-csi/lamina/lvm"
)

// Host is a machine with disks and LVM. Its methods may be called concurrently.
type Host struct {
	mu       sync.Mutex
	wake     *sync.Cond // a device was resumed or went away
	disks    map[string]*disk
	vgs      map[string]*vg
	devices  map[string]*device // by device-mapper name
	locks    map[string]*sync.Mutex
	commands []lvm.Command
	ids      uint64
	now      time.Time

	events    uint64 // device-mapper events so far
	seen      uint64 // of those, seen by WaitEvent
	eventMade chan struct{}

	expedited atomic.Int64 // calls of Expedite that have not been restored

	stepLock sync.Mutex
	steps    int
	crashAt  int
	crashed  bool
	onStep   func(Step) error
}

var (
	_ lvm.Runner = (*Host)(nil)
	_ lvm.Kernel = (*Host)(nil)
)

// New makes a host without disks.
func New() *Host {
	h := &Host{
		disks:     map[string]*disk{},
		vgs:       map[string]*vg{},
		devices:   map[string]*device{},
		locks:     map[string]*sync.Mutex{},
		now:       time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		eventMade: make(chan struct{}),
	}
	h.wake = sync.NewCond(&h.mu)
	return h
}

// Commands lists the commands that ran, oldest first.
func (h *Host) Commands() []lvm.Command {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.commands)
}

// Run implements lvm.Runner.
func (h *Host) Run(ctx context.Context, cmd lvm.Command) (lvm.Result, error) {
	if err := ctx.Err(); err != nil {
		return lvm.Result{}, err
	}
	c := &call{h: h, cmd: cmd}
	err := c.run()
	var failed *failure
	switch {
	case err == nil:
		return lvm.Result{Stdout: c.stdout}, nil
	case errors.As(err, &failed):
		text := "  " + strings.Join(failed.lines, "\n  ") + "\n"
		return lvm.Result{Stdout: c.stdout, Stderr: []byte(text), Exit: failed.exit}, nil
	}
	return lvm.Result{}, err
}

// call is one command while it runs.
type call struct {
	h      *Host
	cmd    lvm.Command
	args   args
	stdout []byte
}

// failure is what a command prints when it fails, and its exit status.
type failure struct {
	exit  int
	lines []string
}

func (f *failure) Error() string { return strings.Join(f.lines, "; ") }

// Exit statuses of tools/errors.h.
const (
	exitInvalid = 3
	exitFailed  = 5
)

func failed(format string, args ...any) *failure {
	return &failure{exitFailed, []string{fmt.Sprintf(format, args...)}}
}

func (f *failure) and(format string, args ...any) *failure {
	f.lines = append(f.lines, fmt.Sprintf(format, args...))
	return f
}

var handlers = map[string]func(*call) error{
	"vgcreate":   (*call).vgcreate,
	"vgextend":   (*call).vgextend,
	"vgchange":   (*call).vgchange,
	"lvcreate":   (*call).lvcreate,
	"lvremove":   (*call).lvremove,
	"lvextend":   (*call).lvextend,
	"lvchange":   (*call).lvchange,
	"lvconvert":  (*call).lvconvert,
	"fullreport": (*call).fullreport,
	"version":    (*call).version,
}

func (c *call) run() error {
	c.h.mu.Lock()
	c.h.commands = append(c.h.commands, lvm.Command{Name: c.cmd.Name, Args: slices.Clone(c.cmd.Args)})
	c.h.mu.Unlock()
	handler := handlers[c.cmd.Name]
	if handler == nil {
		return &failure{exitInvalid, []string{"No such command '" + c.cmd.Name + "'.  Try 'help'."}}
	}
	var err error
	if c.args, err = parseArgs(c.cmd); err != nil {
		return err
	}
	// Like lvm's flock on /run/lock/lvm/V_<vg>.
	defer c.h.lockVG(c.args.vg())()
	if err := c.h.step(Step{Command: c.cmd, Call: c.cmd.Name, Point: Before}); err != nil {
		return err
	}
	c.h.mu.Lock()
	err = handler(c)
	c.h.mu.Unlock()
	if serr := c.h.step(Step{Command: c.cmd, Call: c.cmd.Name, Point: After}); serr != nil {
		return serr
	}
	return err
}

// at is a step in the middle of a command; the host is unlocked meanwhile.
func (c *call) at(p Point) error {
	c.h.mu.Unlock()
	defer c.h.mu.Lock()
	return c.h.step(Step{Command: c.cmd, Call: c.cmd.Name, Point: p})
}

func (c *call) print(format string, args ...any) {
	c.stdout = fmt.Appendf(c.stdout, format, args...)
}

func (h *Host) lockVG(name string) (unlock func()) {
	if name == "" {
		return func() {}
	}
	h.mu.Lock()
	l := h.locks[name]
	if l == nil {
		l = &sync.Mutex{}
		h.locks[name] = l
	}
	h.mu.Unlock()
	l.Lock()
	return l.Unlock
}

// uuid makes an identifier of LVM's form: 32 characters in groups 6-4-4-4-4-4-6.
func (h *Host) uuid() string {
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	h.ids++
	var b strings.Builder
	x := h.ids
	for i := range 32 {
		if i == 6 || i == 10 || i == 14 || i == 18 || i == 22 || i == 26 {
			b.WriteByte('-')
		}
		// splitmix64: well mixed, and the same in every run.
		x += 0x9e3779b97f4a7c15
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		b.WriteByte(digits[(z^z>>31)%uint64(len(digits))])
	}
	return b.String()
}
