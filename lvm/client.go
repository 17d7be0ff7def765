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

	mu    sync.Mutex
	mend  func(Group) error // see OnFailure
	locks map[VGName]*vgLock
	cache map[DevicePath]*cached
	pools map[VGName]PoolStatus // as last seen
}

// cached is the metadata that a PV held at one generation. mu is held while it is read
// and parsed: of the many that ask after a change, one parses for all.
type cached struct {
	mu         sync.Mutex
	generation Generation
	vg         *VG
}

// vgLock is held while a command changes the group. A channel, so that waiting
// for it can obey a context.
type vgLock struct {
	token chan struct{}
	mu    sync.Mutex
	held  string    // the command that holds it
	since time.Time // since when
}

// Options of [New]; the zero value is ready for use.
type Options struct {
	// Deadline bounds a command that changes something. It is not killed then:
	// its caller gets ErrPending and the volume group stays locked until it ends.
	// Default: 10 minutes.
	Deadline time.Duration
	// Observe is told of each command after it ended.
	Observe func(cmd Command, took time.Duration, res Result)
}

// New makes a Client.
func New(r Runner, k Kernel, o Options) *Client {
	if o.Deadline == 0 {
		o.Deadline = 10 * time.Minute
	}
	if o.Observe == nil {
		o.Observe = func(Command, time.Duration, Result) {}
	}
	return &Client{
		runner: r, kernel: k, deadline: o.Deadline, observe: o.Observe,
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

// ReadVG reads the metadata of a volume group from its physical volumes, without
// a process and without LVM's lock: a commit replaces the text at once. A device
// that cannot be read is passed over while another can; the newest copy counts.
func (c *Client) ReadVG(g Group) (*VG, error) {
	var newest *VG
	var errs []error
	for _, dev := range g.Devices {
		vg, err := c.readPV(dev)
		switch {
		case err != nil:
			errs = append(errs, err)
		case vg.Name != g.Name:
			errs = append(errs, fmt.Errorf("%s: %w: it belongs to volume group %s", dev, ErrNotFound, vg.Name))
		case newest == nil || vg.Seqno > newest.Seqno:
			newest = vg
		}
	}
	if newest == nil {
		return nil, fmt.Errorf("read volume group %s: %w", g.Name, errors.Join(errs...))
	}
	return newest, nil
}

func (c *Client) readPV(dev DevicePath) (*VG, error) {
	c.mu.Lock()
	have := c.cache[dev]
	if have == nil {
		have = &cached{}
		c.cache[dev] = have
	}
	c.mu.Unlock()
	have.mu.Lock()
	defer have.mu.Unlock()
	raw, err := c.kernel.ReadMetadata(dev, have.generation)
	if err != nil {
		return nil, err
	}
	if raw.Text == nil {
		return have.vg, nil
	}
	vg, err := parseMetadata(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dev, err)
	}
	have.generation, have.vg = raw.Generation, vg
	return vg, nil
}

// ThinStatus asks the kernel about an active thin volume.
func (c *Client) ThinStatus(vg VGName, lv LVName) (ThinStatus, error) {
	t, err := c.oneTarget(DMName(vg, lv, ""), "thin")
	if err != nil {
		return ThinStatus{}, err
	}
	return parseThinStatus(t.Params)
}

// PoolStatus asks the kernel about an active thin pool. While a command of this
// client is at work on the group, a pool that cannot be seen is as it was last: LVM
// takes its device away and makes another when the first volume is made.
func (c *Client) PoolStatus(vg VGName, pool LVName) (PoolStatus, error) {
	st, err := c.poolStatus(vg, pool)
	if isNotFound(err) {
		if c.busy(vg) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if last, ok := c.pools[vg]; ok {
				return last, nil
			}
			return st, err
		}
		// The command may have ended since.
		st, err = c.poolStatus(vg, pool)
	}
	if err == nil {
		c.mu.Lock()
		c.pools[vg] = st
		c.mu.Unlock()
	}
	return st, err
}

func (c *Client) poolStatus(vg VGName, pool LVName) (PoolStatus, error) {
	t, err := c.oneTarget(DMName(vg, pool, "tpool"), "thin-pool")
	if isNotFound(err) {
		// LVM activates a pool without the layer until its first volume is made
		// (lv_is_new_thin_pool(), lib/metadata/thin_manip.c).
		t, err = c.oneTarget(DMName(vg, pool, ""), "thin-pool")
	}
	if err != nil {
		return PoolStatus{}, err
	}
	return parsePoolStatus(t.Params)
}

// busy reports whether a command holds the group.
func (c *Client) busy(vg VGName) bool {
	return slices.ContainsFunc(c.Running(), func(r Running) bool { return r.VG == vg })
}

func (c *Client) oneTarget(name, kind string) (Target, error) {
	targets, err := c.kernel.Status(name)
	if err != nil {
		return Target{}, err
	}
	if len(targets) == 0 {
		return Target{}, fmt.Errorf("status of %s: %w: it has no table", name, ErrNotFound)
	}
	if len(targets) != 1 || targets[0].Type != kind {
		return Target{}, fmt.Errorf("status of %s: %w: it is no %s device", name, ErrInvalid, kind)
	}
	return targets[0], nil
}

// read runs a command that changes nothing, under the caller's context.
func (c *Client) read(ctx context.Context, cmd Command) (Result, error) {
	return c.run(ctx, cmd)
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

func (c *Client) lock(ctx context.Context, vg VGName, command string) (*vgLock, error) {
	c.mu.Lock()
	l := c.locks[vg]
	if l == nil {
		l = &vgLock{token: make(chan struct{}, 1)}
		c.locks[vg] = l
	}
	c.mu.Unlock()
	select {
	case l.token <- struct{}{}:
		l.mu.Lock()
		l.held, l.since = command, time.Now()
		l.mu.Unlock()
		return l, nil
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		return nil, fmt.Errorf("%s on %s: %w: %s has run for %v (%w)",
			command, vg, ErrPending, l.held, time.Since(l.since).Round(time.Second), ctx.Err())
	}
}

func (l *vgLock) release() {
	l.mu.Lock()
	l.held = ""
	l.mu.Unlock()
	<-l.token
}

// Running is a command that changes a volume group and has not ended.
type Running struct {
	VG      VGName
	Command string
	Since   time.Time
}

// Running lists the commands that hold a volume group, for health and metrics.
func (c *Client) Running() []Running {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Running
	for vg, l := range c.locks {
		l.mu.Lock()
		if l.held != "" {
			out = append(out, Running{vg, l.held, l.since})
		}
		l.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b Running) int { return strings.Compare(a.VG.s, b.VG.s) })
	return out
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
