package lvm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// gate is a Runner whose commands wait until the test lets them go.
type gate struct {
	started chan string // the command's last argument
	release chan Result
}

func newGate() *gate { return &gate{started: make(chan string), release: make(chan Result)} }

func (g *gate) Run(ctx context.Context, cmd Command) (Result, error) {
	g.started <- cmd.Args[len(cmd.Args)-1]
	select {
	case res := <-g.release:
		return res, nil
	case <-ctx.Done():
		return Result{}, ctx.Err()
	}
}

// flushes is a Kernel that only counts flushes. Its disks hold nothing.
type flushes struct {
	Kernel
	mu   sync.Mutex
	devs []DevicePath
	err  error
}

func (f *flushes) Flush(dev DevicePath) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.devs = append(f.devs, dev)
	return f.err
}

func (*flushes) ReadMetadata(DevicePath, Generation) (RawMetadata, error) {
	return RawMetadata{}, ErrNotFound
}

func groupOf(name string) Group {
	return Group{Name: VGName{name}, Devices: []DevicePath{{"/dev/nvme0n1"}, {"/dev/nvme1n1"}}}
}

// A command that outlives its caller goes on, keeps the lock of its group and
// lets other groups go on.
func TestPending(t *testing.T) {
	g, k := newGate(), &flushes{}
	c := New(g, k, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- c.LVRemove(ctx, groupOf("a"), LVName{"x"}) }()
	if got := <-g.started; got != "a/x" {
		t.Fatal(got)
	}
	cancel()
	if err := <-first; !errors.Is(err, ErrPending) || !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want ErrPending", err)
	}

	running := c.Running()
	if len(running) != 1 || running[0].VG.String() != "a" || running[0].Command != "lvremove" || running[0].Since.IsZero() {
		t.Errorf("running: %+v", running)
	}
	// The group is locked: with a context that has ended, the second command is
	// told so and never starts.
	if err := c.LVRemove(ctx, groupOf("a"), LVName{"y"}); !errors.Is(err, ErrPending) {
		t.Errorf("error %v, want ErrPending", err)
	}
	// Another group is not.
	other := make(chan error, 1)
	go func() { other <- c.LVRemove(t.Context(), groupOf("b"), LVName{"z"}) }()
	if got := <-g.started; got != "b/z" {
		t.Fatal(got)
	}
	g.release <- Result{}
	g.release <- Result{}
	if err := <-other; err != nil {
		t.Error(err)
	}
	// The lock is free again once the first command has ended.
	third := make(chan error, 1)
	go func() { third <- c.LVRemove(t.Context(), groupOf("a"), LVName{"y"}) }()
	if got := <-g.started; got != "a/y" {
		t.Fatal(got)
	}
	g.release <- Result{}
	if err := <-third; err != nil {
		t.Error(err)
	}
	if running := c.Running(); len(running) != 0 {
		t.Errorf("running: %+v", running)
	}
}

func TestDeadline(t *testing.T) {
	g := newGate()
	c := New(g, &flushes{}, Options{Deadline: time.Millisecond})
	done := make(chan error, 1)
	go func() { done <- c.LVRemove(t.Context(), groupOf("a"), LVName{"x"}) }()
	<-g.started
	if err := <-done; !errors.Is(err, ErrPending) {
		t.Errorf("error %v, want ErrPending", err)
	}
	g.release <- Result{}
}

// overlap is a Runner that finds commands of one group that run together.
type overlap struct {
	mu      sync.Mutex
	running map[string]bool
	bad     bool
}

func (o *overlap) Run(_ context.Context, cmd Command) (Result, error) {
	vg := cmd.Args[len(cmd.Args)-1][:1]
	o.mu.Lock()
	o.bad = o.bad || o.running[vg]
	o.running[vg] = true
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		o.running[vg] = false
		o.mu.Unlock()
	}()
	return Result{}, nil
}

func TestSerialised(t *testing.T) {
	o := &overlap{running: map[string]bool{}}
	var mu sync.Mutex
	observed := map[string]int{}
	c := New(o, &flushes{}, Options{Observe: func(cmd Command, took time.Duration, res Result) {
		mu.Lock()
		defer mu.Unlock()
		observed[cmd.Name]++
	}})
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			vg := groupOf(string(rune('a' + i%2)))
			if err := c.LVRemove(t.Context(), vg, LVName{"x"}); err != nil {
				t.Error(err)
			}
			if err := c.LVExtend(t.Context(), vg, LVName{"x"}, 1<<20); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if o.bad {
		t.Error("two commands ran on one group at a time")
	}
	if diff := cmp.Diff(map[string]int{"lvremove": 100, "lvextend": 100}, observed); diff != "" {
		t.Error(diff)
	}
}

func TestFlush(t *testing.T) {
	k := &flushes{}
	c := New(fixed{}, k, Options{})
	if err := c.LVRemove(t.Context(), groupOf("a"), LVName{"x"}); err != nil {
		t.Fatal(err)
	}
	if len(k.devs) != 2 {
		t.Errorf("flushed %v", k.devs)
	}
	// A disk that is gone does not make a change fail that is on the others.
	k.err = ErrNotFound
	if err := c.LVRemove(t.Context(), groupOf("a"), LVName{"x"}); err != nil {
		t.Error(err)
	}
	k.err = errors.New("I/O error")
	if err := c.LVRemove(t.Context(), groupOf("a"), LVName{"x"}); !errors.Is(err, k.err) {
		t.Errorf("error %v", err)
	}
	// Nothing was changed, so nothing is flushed.
	k = &flushes{}
	c = New(fixed{Exit: 5, Stderr: []byte("  Logical volume a/x in use.\n")}, k, Options{})
	if err := c.LVRemove(t.Context(), groupOf("a"), LVName{"x"}); !errors.Is(err, ErrInUse) || len(k.devs) != 0 {
		t.Errorf("error %v, flushed %v", err, k.devs)
	}
}

// recorder is a Runner that keeps the command lines.
type recorder struct{ commands []Command }

func (r *recorder) Run(_ context.Context, cmd Command) (Result, error) {
	r.commands = append(r.commands, cmd)
	return Result{}, nil
}

// Nothing that comes from outside stands before "--", save as the value of an
// option; every volume is named vg/lv.
func TestArguments(t *testing.T) {
	r := &recorder{}
	c := New(r, &flushes{}, Options{})
	ctx, g := t.Context(), groupOf("vg")
	n := NewLV{Group: g, Name: LVName{"lv"}, Tags: []Tag{{"t"}}}
	for _, err := range []error{
		c.VGCreate(ctx, VGCreate{Group: g, Tags: n.Tags, MetadataSize: 1}),
		c.VGExtend(ctx, g, []DevicePath{{"/dev/nvme2n1"}}, 1),
		c.VGAddTag(ctx, g, Tag{"t"}),
		c.LVCreateThinPool(ctx, ThinPoolCreate{NewLV: n, Size: 1, MetadataSize: 1, ChunkSize: 1, Stripes: 2}),
		c.LVConvertThinPool(ctx, g, LVName{"lv"}, LVName{"meta"}, 1),
		c.LVCreateThin(ctx, n, LVName{"pool"}, 1),
		c.LVCreateSnapshot(ctx, LVSnapshot{NewLV: n, Origin: LVName{"o"}}),
		c.LVCreateThick(ctx, n, 1, Layout{Type: Raid10, Stripes: 2}),
		c.LVRemove(ctx, g, n.Name),
		c.LVExtend(ctx, g, n.Name, 1),
		c.LVExtendPoolMetadata(ctx, g, n.Name, 1),
		c.LVChangeTags(ctx, g, n.Name, n.Tags, n.Tags),
		c.LVActivate(ctx, g, n.Name, LVName{"b"}),
		c.LVDeactivate(ctx, g, n.Name),
		c.LVRefresh(ctx, g, n.Name),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, cmd := range r.commands {
		at := -1
		for i, a := range cmd.Args {
			if a == "--" {
				at = i
			}
			if a == "--force" || a == "-f" || a == "-y" || a == "--yes" && cmd.Name != "lvremove" && cmd.Name != "lvconvert" {
				t.Errorf("%v: %s", cmd, a)
			}
		}
		if at < 0 || at == len(cmd.Args)-1 || cmd.Args[0] != "--devices" {
			t.Errorf("%v", cmd)
		}
	}
}

// tables is a Kernel with one thin pool, which can be away.
type tables struct {
	flushes
	mu     sync.Mutex
	status string
}

func (k *tables) Status(name string) ([]Target, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.status == "" {
		return nil, fmt.Errorf("%s: %w", name, ErrNotFound)
	}
	return []Target{{Type: "thin-pool", Params: k.status}}, nil
}

func (k *tables) set(status string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.status = status
}

// A pool that a command takes away for a moment is as it was; one that is gone
// without a command is gone.
func TestPoolStatusDuringACommand(t *testing.T) {
	g, k := newGate(), &tables{}
	c := New(g, k, Options{})
	look := func() (int64, error) {
		st, err := c.PoolStatus(VGName{"a"}, LVName{"pool"})
		return st.UsedData, err
	}
	k.set("1 10/100 20/200 - rw discard_passdown queue_if_no_space - 1024")
	if used, err := look(); used != 20 || err != nil {
		t.Fatalf("used %d, %v", used, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.LVRemove(t.Context(), groupOf("a"), LVName{"x"}) }()
	<-g.started
	k.set("")
	if used, err := look(); used != 20 || err != nil {
		t.Errorf("during a command: used %d, %v", used, err)
	}
	if _, err := c.PoolStatus(VGName{"b"}, LVName{"pool"}); !errors.Is(err, ErrNotFound) {
		t.Errorf("another group: %v, want ErrNotFound", err)
	}
	g.release <- Result{}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if _, err := look(); !errors.Is(err, ErrNotFound) {
		t.Errorf("after it: %v, want ErrNotFound", err)
	}
}
