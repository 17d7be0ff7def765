package lvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Client runs lvm commands and reads volume groups. Its methods may be called
// concurrently: commands that change one volume group follow each other, those
// on different groups run side by side, and reads go on beside them.
type Client struct {
	runner   Runner
	kernel   Kernel
	deadline time.Duration
	observe  func(Command, time.Duration, Result)
	stuck    func(Running)

	mu    sync.Mutex
	mend  func(Group) error // see OnFailure
	locks map[VGName]*vgLock
	cache map[DevicePath]*cached
	pools map[VGName]PoolStatus // as last seen
}

// Options of [New]; the zero value is ready for use.
type Options struct {
	// Deadline bounds a command that changes something. It is not killed then:
	// its caller gets ErrPending and the volume group stays locked until it ends.
	// Default: 10 minutes.
	Deadline time.Duration
	// Observe is told of each command after it ended.
	Observe func(cmd Command, took time.Duration, res Result)
	// Stuck is told of each command that has run for [StuckAfter] and goes on.
	Stuck func(Running)
}

const (
	// StuckAfter is when a command is worth a word: lvm takes tenths of a second where
	// nothing holds it, and longer only for thin_check of a large pool.
	StuckAfter = time.Minute
	// readTime bounds a command that changes nothing; it is killed then.
	readTime = 2 * time.Minute
	// diskTime is what a disk gets for the few blocks that hold a group's metadata. A
	// kernel gives up on an NVMe disk after 30 seconds (nvme_core.io_timeout).
	diskTime = 5 * time.Second
	// killTime is what a killed command gets: one that waits for a disk ends when the
	// disk answers.
	killTime = 5 * time.Second
)

// New makes a Client.
func New(r Runner, k Kernel, o Options) *Client {
	if o.Deadline == 0 {
		o.Deadline = 10 * time.Minute
	}
	if o.Observe == nil {
		o.Observe = func(Command, time.Duration, Result) {}
	}
	if o.Stuck == nil {
		o.Stuck = func(Running) {}
	}
	return &Client{
		runner: r, kernel: k, deadline: o.Deadline, observe: o.Observe, stuck: o.Stuck,
		locks: map[VGName]*vgLock{}, cache: map[DevicePath]*cached{}, pools: map[VGName]PoolStatus{},
	}
}

// Kernel is the device-mapper that the client was made with.
func (c *Client) Kernel() Kernel { return c.kernel }

// OnFailure sets what repairs a volume group after a command that was to change it
// has failed, or was killed: it may have left devices suspended, or the group half
// changed. It is called at once, with the group's lock held, so it must run no
// command that changes the group.
func (c *Client) OnFailure(mend func(Group) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mend = mend
}

// Group says which volume group a command is about and on which physical volumes
// it lies. Commands use those devices and no others (--devices), so that nothing
// on another disk, or inside a volume, is taken for a part of the group.
type Group struct {
	Name    VGName
	Devices []DevicePath
	// Copies are disks that carry the same physical volumes as Devices. Which of two
	// is the real one, only a person knows: nothing is changed in such a group. LVM
	// refuses that too, but does not see the other one when it is given Devices.
	Copies []DevicePath
}

// Copied says which disks are copies of each other, nil if none is.
func (g Group) Copied() error {
	if len(g.Copies) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s carries the same physical volume as one of %s: one of them is a copy and must be taken away", ErrCopied, list(g.Copies), list(g.Devices))
}

func list(devices []DevicePath) string {
	var out []string
	for _, d := range devices {
		out = append(out, d.String())
	}
	return strings.Join(out, ", ")
}

// all stands in for a volume group where a command reads them all.
var all VGName

// read runs a command that changes nothing, one at a time. It is killed when ctx ends.
func (c *Client) read(ctx context.Context, cmd Command) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, readTime)
	defer cancel()
	lock, err := c.lock(ctx, all, cmd.Name)
	if err != nil {
		return Result{}, err
	}
	var res Result
	done := make(chan error, 1)
	go func() {
		defer lock.release()
		var err error
		res, err = c.run(ctx, cmd)
		done <- err
	}()
	select {
	case err := <-done:
		return res, err
	case <-ctx.Done():
	}
	const why = "does a disk hang, or does another lvm command keep a lock?"
	select {
	case err := <-done:
		if err == nil {
			return res, nil
		}
		return Result{}, fmt.Errorf("%s was killed: %s (%w)", cmd.Name, why, ctx.Err())
	case <-time.After(killTime):
		return Result{}, fmt.Errorf("%s: %w although it was killed: %s (%w)", cmd.Name, ErrPending, why, ctx.Err())
	}
}

// change runs a command that changes the group. It waits for the group's lock
// under ctx. Once started the command runs to its end; if ctx ends first, the
// caller gets ErrPending while the command goes on and keeps the lock.
func (c *Client) change(ctx context.Context, g Group, cmd Command) error {
	return c.changeBy(ctx, g, cmd.Name, func(ctx context.Context) error {
		_, err := c.run(ctx, cmd)
		return err
	})
}

// changeBy is change with more than the command to be done under the lock.
func (c *Client) changeBy(ctx context.Context, g Group, name string, work func(context.Context) error) error {
	if len(g.Copies) > 0 {
		return fmt.Errorf("%s on %s: %w", name, g.Name, g.Copied())
	}
	lock, err := c.lock(ctx, g.Name, name)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer lock.release()
		err := work(context.WithoutCancel(ctx))
		if err == nil {
			err = c.flush(g)
		} else if merr := c.repair(g); merr != nil {
			err = fmt.Errorf("%w; after that: %w", err, merr)
		}
		done <- err
	}()
	timer := time.NewTimer(c.deadline)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s on %s: %w (%w)", name, g.Name, ErrPending, ctx.Err())
	case <-timer.C:
		return fmt.Errorf("%s on %s: %w after %v", name, g.Name, ErrPending, c.deadline)
	}
}

func (c *Client) repair(g Group) error {
	c.mu.Lock()
	mend := c.mend
	c.mu.Unlock()
	if mend == nil {
		return nil
	}
	return mend(g)
}

func (c *Client) flush(g Group) error {
	for _, dev := range g.Devices {
		if err := c.kernel.Flush(dev); err != nil && !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("after a change of %s: %w", g.Name, err)
		}
	}
	return nil
}

func (c *Client) run(ctx context.Context, cmd Command) (Result, error) {
	start := time.Now()
	res, err := c.runner.Run(ctx, cmd)
	c.observe(cmd, time.Since(start), res)
	if err != nil {
		return res, err
	}
	if res.Exit != 0 {
		messages := slices.Concat(lines(res.Stderr), reportErrors(res.Stdout))
		return res, &Error{Command: cmd.Name, Args: cmd.Args, Exit: res.Exit, Messages: messages, kind: classify(messages)}
	}
	return res, nil
}

// devices is the argument that keeps a command to the group's own PVs.
func (g Group) devices() []string {
	paths := make([]string, len(g.Devices))
	for i, d := range g.Devices {
		paths[i] = d.s
	}
	return []string{"--devices", strings.Join(paths, ",")}
}

// path is a positional vg/lv argument.
func (g Group) path(lv LVName) string { return g.Name.s + "/" + lv.s }
