// Package node is the agent: it turns what pools are wanted into pools on this
// node's disks, keeps them so while disks come and pools fill, and tells what it
// found.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/node/disk"
	"github.com/lamina-csi/lamina/node/pool"
)

// Disks finds and vets the disks of this node; [disk.System] does.
type Disks interface {
	List(ctx context.Context) ([]disk.Disk, error)
	Vet(ctx context.Context, d disk.Disk) error
}

// Agent reconciles the pools of this node.
type Agent struct {
	pools *pool.Manager
	disks Disks
	dm    lvm.Kernel
	log   *slog.Logger

	mu      sync.Mutex
	wanted  []Wanted
	reports map[string]report // by pool
	ready   bool
	wants   int           // how often Want was called
	reached int           // wants of the last reconciliation
	changed chan struct{} // capacity 1: a reconciliation is due
	news    chan struct{} // closed when the statuses may have changed
}

// report is what the last reconciliation said of a pool.
type report struct {
	refused []Refused
	err     error
}

// Refused is a disk that a pool does not take, with the reason.
type Refused struct {
	Disk   string // /dev/nvme0n1
	Reason string
}

// Status is a wanted or existing pool as it is now.
type Status struct {
	pool.Status
	Refused []Refused
	Err     string // why the last reconciliation did not reach what is wanted
}

// NewAgent makes an agent that does not know yet which pools are wanted: until
// [Agent.Want] says it, the pools that exist serve what they have.
func NewAgent(pools *pool.Manager, disks Disks, dm lvm.Kernel, log *slog.Logger) *Agent {
	return &Agent{
		pools: pools, disks: disks, dm: dm, log: log,
		reports: map[string]report{}, changed: make(chan struct{}, 1), news: make(chan struct{}),
	}
}

// Want sets the pools that are wanted from now on.
func (a *Agent) Want(wanted []Wanted) {
	a.mu.Lock()
	a.wanted = slices.Clone(wanted)
	a.wants++
	a.mu.Unlock()
	a.poke()
	a.Touch()
}

// poke makes a reconciliation due; several become one.
func (a *Agent) poke() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// resync is how often the disks are looked at although nothing was heard, and
// pollPools how often the fill of the pools is read (by ioctl) beside the events.
const (
	resync    = 10 * time.Minute
	pollPools = 30 * time.Second
	// pausePools is the least time between two looks: an lvm command sends several
	// events, and the group's metadata would be parsed anew after each.
	pausePools = 500 * time.Millisecond
	// closeAfter how long a volume that nobody uses stays active.
	closeAfter = time.Minute
	// tendTime is how long a pool is waited for that comes up or grows.
	tendTime = lvm.StuckAfter + pollPools
)

// Run reconciles until ctx ends: at start, when other pools are wanted, when the
// kernel reports a disk, when a pool fills.
func (a *Agent) Run(ctx context.Context) error {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	// Listening starts before the first look, so that no disk falls in between.
	events, err := openUevents()
	if err != nil {
		a.log.Warn("no events of new disks; they are looked for every "+resync.String(), "error", err)
	} else {
		tasks.Go(func() { a.watchDisks(ctx, events) })
	}
	tasks.Go(func() { a.watchPools(ctx) })
	timer := time.NewTicker(resync)
	defer timer.Stop()
	a.poke()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.changed:
		case <-timer.C:
		}
		a.Reconcile(ctx)
	}
}

// watchPools grows pools when device-mapper reports an event, such as a thin
// pool that crosses its low-water mark.
func (a *Agent) watchPools(ctx context.Context) {
	var outdated map[string]string
	for ctx.Err() == nil {
		wait, cancel := context.WithTimeout(ctx, pollPools)
		err := a.dm.WaitEvent(wait)
		if err != nil && !errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			// Without events the fill is still read every pollPools.
			a.log.Warn("no device-mapper events", "error", err)
			<-wait.Done()
		}
		if wait.Err() != nil {
			// It is quiet: what the last calls needed is given back, which the runtime would
			// keep for minutes.
			debug.FreeOSMemory()
		}
		cancel()
		a.tendPools(ctx)
		last := outdated
		if outdated = a.pools.Outdated(); len(outdated) > 0 && !maps.Equal(outdated, last) {
			a.poke()
		}
		a.pools.Probe()
		a.Touch()
		select {
		case <-ctx.Done():
		case <-time.After(pausePools):
		}
	}
}

// tendPools ends in time: an lvm command that hangs is left behind.
func (a *Agent) tendPools(ctx context.Context) {
	within, cancel := context.WithTimeout(ctx, tendTime)
	defer cancel()
	if err := a.pools.Grow(within); err != nil && ctx.Err() == nil {
		a.log.Error("grow pools", "error", err)
	}
	if err := a.pools.CloseIdle(within, closeAfter); err != nil && ctx.Err() == nil {
		a.log.Error("close volumes that nobody uses", "error", err)
	}
}

// Reconcile brings every wanted pool as far as it can and keeps what stood in
// the way. One pool's trouble does not stop the others.
func (a *Agent) Reconcile(ctx context.Context) {
	a.mu.Lock()
	wanted, wants := slices.Clone(a.wanted), a.wants
	a.mu.Unlock()
	reports := a.reconcile(ctx, wanted)
	if ctx.Err() != nil {
		return
	}
	// LVM's report of the whole node is the largest thing that the agent ever reads;
	// the runtime would keep the room for minutes.
	debug.FreeOSMemory()
	defer a.Touch()
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, r := range reports {
		if old, known := a.reports[name]; !known || !r.equal(old) {
			a.logReport(name, r)
		}
	}
	a.reports, a.ready, a.reached = reports, true, wants
}

func (a *Agent) reconcile(ctx context.Context, wanted []Wanted) map[string]report {
	reports := map[string]report{}
	failAll := func(err error) map[string]report {
		for _, w := range wanted {
			reports[w.Pool] = report{err: err}
			// lvm was kept waiting, by somebody's lock or one disk: that says nothing of a
			// pool that is there.
			if old, known := a.reportOf(w.Pool); known && old.err == nil && errors.Is(err, pool.ErrPending) {
				a.log.Warn("the disks could not be looked at; pools stay as they are", "pool", w.Pool, "error", err)
				reports[w.Pool] = old
			}
		}
		a.lookAgain(err)
		return reports
	}
	// Without device-mapper lvm reports what it reads from the disks, and can do nothing.
	if err := a.dm.LoadTarget("linear"); err != nil {
		return failAll(err)
	}
	seen, err := a.pools.Discover(ctx)
	if err != nil {
		return failAll(err)
	}
	names := map[string]bool{}
	for _, w := range wanted {
		names[w.Pool] = true
	}
	a.pools.Unwant(names)
	disks, err := a.disks.List(ctx)
	if err != nil {
		return failAll(fmt.Errorf("list disks: %w", err))
	}
	claims := newClaims(wanted, disks, seen)
	for _, w := range wanted {
		if w.Err != nil {
			reports[w.Pool] = report{err: w.Err}
			continue
		}
		blank, refused := a.vet(ctx, w, claims)
		reports[w.Pool] = report{refused: refused, err: a.ensure(ctx, w, seen, blank)}
	}
	return reports
}

// reportOf is what the last reconciliation said of a pool.
func (a *Agent) reportOf(name string) (report, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, known := a.reports[name]
	return r, known
}

// ensure leaves behind an lvm command that hangs: the other pools have their turn, and
// this one another soon.
func (a *Agent) ensure(ctx context.Context, w Wanted, seen lvm.Report, blank []lvm.DevicePath) error {
	ctx, cancel := context.WithTimeout(ctx, tendTime)
	defer cancel()
	err := a.pools.Ensure(ctx, w.Profile.Spec(w.Pool), seen, blank)
	a.lookAgain(err)
	return err
}

// lookAgain makes another reconciliation due soon if lvm was kept waiting.
func (a *Agent) lookAgain(err error) {
	if errors.Is(err, pool.ErrPending) {
		time.AfterFunc(pollPools, a.poke)
	}
}

// vet gives the disks that a pool may claim now.
func (a *Agent) vet(ctx context.Context, w Wanted, c claims) (blank []lvm.DevicePath, refused []Refused) {
	if !w.Profile.Adopt.IsZero() {
		return nil, nil
	}
	for _, d := range c.candidates[w.Pool] {
		reason := c.conflict(w.Pool, d)
		if max := w.Profile.Disks.Count; reason == "" && max > 0 && c.taken[w.Pool]+len(blank) >= max {
			reason = fmt.Sprintf("the pool has its %d disks (count)", max)
		}
		if reason == "" {
			if err := a.disks.Vet(ctx, d); err != nil {
				reason = err.Error()
			}
		}
		dev, err := lvm.ParseDevicePath(d.Path)
		switch {
		case reason == "" && err != nil:
			refused = append(refused, Refused{d.Path, err.Error()})
		case reason != "":
			refused = append(refused, Refused{d.Path, reason})
		default:
			blank = append(blank, dev)
		}
	}
	return blank, refused
}

func (r report) equal(o report) bool {
	return slices.Equal(r.refused, o.refused) && fmt.Sprint(r.err) == fmt.Sprint(o.err)
}

func (a *Agent) logReport(name string, r report) {
	for _, ref := range r.refused {
		a.log.Info("disk refused", "pool", name, "disk", ref.Disk, "reason", ref.Reason)
	}
	if r.err != nil {
		a.log.Error("pool is not as wanted", "pool", name, "error", r.err)
		return
	}
	a.log.Info("pool is as wanted", "pool", name)
}

// Statuses tells how every pool is, those that could not be made included.
func (a *Agent) Statuses() []Status {
	a.mu.Lock()
	wanted, reports := a.wanted, a.reports
	a.mu.Unlock()
	var out []Status
	have := map[string]bool{}
	for _, s := range a.pools.Statuses() {
		r, known := reports[s.Name]
		have[s.Name] = true
		if !known && s.Health == pool.HealthError {
			continue // it is being made or activated; what is missing may be about to come
		}
		st := Status{Status: s, Refused: r.refused}
		if r.err != nil {
			st.Err = r.err.Error()
		}
		out = append(out, st)
	}
	for _, w := range wanted {
		if r, known := reports[w.Pool]; known && !have[w.Pool] {
			out = append(out, Status{
				Status:  pool.Status{Name: w.Pool, Wanted: true, Health: pool.HealthError, Text: fmt.Sprint(r.err)},
				Refused: r.refused, Err: fmt.Sprint(r.err),
			})
		}
	}
	return out
}

// Lacks says which kernel module a wanted pool waits for, nil if none. The agent goes
// on when the module is there.
func (a *Agent) Lacks() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range a.wanted {
		if missing := (*lvm.MissingModuleError)(nil); errors.As(a.reports[w.Pool].err, &missing) {
			return fmt.Errorf("pool %s: %w", w.Pool, missing)
		}
	}
	return nil
}

// Ready reports whether the first reconciliation has ended.
func (a *Agent) Ready() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.ready
}
