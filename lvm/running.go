package lvm

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// vgLock is held while a command changes the group. A channel, so that waiting
// for it can obey a context.
type vgLock struct {
	token chan struct{}
	mu    sync.Mutex
	held  string    // the command that holds it
	since time.Time // since when
	alarm *time.Timer
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
		r := Running{vg, command, time.Now()}
		l.mu.Lock()
		l.held, l.since = command, r.Since
		l.alarm = time.AfterFunc(StuckAfter, func() { c.stuck(r) })
		l.mu.Unlock()
		return l, nil
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		on := ""
		if vg != all {
			on = " on " + vg.s
		}
		return nil, fmt.Errorf("%s%s: %w: %s has run for %v (%w)",
			command, on, ErrPending, l.held, time.Since(l.since).Round(time.Second), ctx.Err())
	}
}

func (l *vgLock) release() {
	l.mu.Lock()
	l.held = ""
	l.alarm.Stop()
	l.mu.Unlock()
	<-l.token
}

// Running is a command that changes a volume group and has not ended, or, with the
// zero VG, one that reads them all.
type Running struct {
	VG      VGName
	Command string
	Since   time.Time
}

// Stuck returns the command that has held a volume group for [StuckAfter].
func (c *Client) Stuck(vg VGName) (Running, bool) {
	for _, r := range c.Running() {
		if r.VG == vg && time.Since(r.Since) >= StuckAfter {
			return r, true
		}
	}
	return Running{}, false
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
