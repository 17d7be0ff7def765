//go:build vm

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/test/agent"
)

// stormSize is how much of a storm is wanted: test/crash has the same on the in-memory
// host, with more of everything.
type stormSize struct{ callers, volumes, calls int }

var (
	shortStorm = stormSize{callers: 8, volumes: 24, calls: 200}
	longStorm  = stormSize{callers: 32, volumes: 200, calls: 1500}
)

// storm lets many callers make random calls about many volumes, twice at once and with
// contexts that end at any moment, while the host's own lvm looks at all and moves the
// pool's metadata between disks. What the callers know must be so.
func (n stormSize) storm(ctx context.Context, a *agent.Agent) error {
	seed := uint64(time.Now().UnixNano())
	fmt.Println("seed", seed)
	s := &stormy{ctx: ctx, agent: a, slots: make([]slot, n.volumes)}
	for i := range s.slots {
		s.slots[i].name = fmt.Sprint("storm-", i)
	}
	spare, err := bySerial("SPARE")
	if err != nil {
		return err
	}
	home, err := bySerial("STORM1")
	if err != nil {
		return err
	}
	if err := errors.Join(lvmDo("vgextend lamina-fast "+spare), a.AwaitPool(ctx, "well", func(p *link.PoolStatus) bool {
		return agent.Healthy(p) && len(p.GetDisks()) == 2
	})); err != nil {
		return err
	}
	// With its first volume LVM takes the pool down and up again, which a move of its
	// metadata does not bear: docs/limits.md.
	first, err := a.Create(ctx, "fast", "first", "ext4", 64<<20, nil)
	if err != nil {
		return err
	}
	stop, host := make(chan struct{}), make(chan error, 1)
	go func() { host <- besideStorm(stop, home, spare) }()
	var callers sync.WaitGroup
	for i := range n.callers {
		callers.Go(func() {
			c := &caller{stormy: s, Rand: rand.New(rand.NewPCG(seed, uint64(i)))}
			for s.calls.Load() < int64(n.calls) && !s.failed() {
				if err := c.turn(); err != nil {
					s.fail(err)
				}
			}
		})
	}
	callers.Wait()
	close(stop)
	if err := errors.Join(s.err, <-host); err != nil {
		return err
	}
	fmt.Println(s.calls.Load(), "calls,", s.repeated.Load(), "of them to be repeated")
	return errors.Join(first.Delete(ctx), s.compare(), s.clear(), a.Stop())
}

type stormy struct {
	ctx             context.Context
	agent           *agent.Agent
	slots           []slot
	calls, repeated atomic.Int64

	mu  sync.Mutex
	err error
}

func (s *stormy) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = errors.Join(s.err, err)
}

func (s *stormy) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

// slot is a volume, there or not, and perhaps a snapshot of it or of one before it.
type slot struct {
	sync.Mutex
	agent.Volume
	name           string
	there, mounted bool
	size           int64
	data           string
	snap           *csi.Snapshot
	snapFS         string
	snapData       string
}

type caller struct {
	*stormy
	*rand.Rand
}

// turn does something about a volume that no other caller has in hand.
func (c *caller) turn() error {
	s := &c.slots[c.IntN(len(c.slots))]
	if !s.TryLock() {
		return nil
	}
	defer s.Unlock()
	switch choice := c.IntN(6); {
	case s.snap != nil && choice == 0:
		snap := s.snap
		s.snap = nil
		return c.do("delete snapshot of "+s.name, func(ctx context.Context) error { return c.agent.DropSnapshot(ctx, snap) })
	case !s.there:
		return c.create(s)
	case s.snap == nil && choice == 1:
		return c.snapshot(s)
	case !s.mounted && choice == 2:
		s.there = false
		return c.do("delete "+s.name, s.Delete)
	case !s.mounted:
		s.mounted = true
		return errors.Join(c.do("mount "+s.name, s.Mount), s.read())
	case choice == 2:
		s.size += 64 << 20
		return c.do("expand "+s.name, func(ctx context.Context) error { return s.Expand(ctx, s.size) })
	case choice == 3:
		s.mounted = false
		return errors.Join(s.read(), c.do("unmount "+s.name, s.Unmount))
	default:
		s.data = fmt.Sprintf("data %20d", c.Uint64())
		return errors.Join(put(file(s.Volume), []byte(s.data)), s.read())
	}
}

// read compares.
func (s *slot) read() error {
	if s.data == "" {
		return nil
	}
	f, err := os.Open(file(s.Volume))
	if err != nil {
		return err
	}
	defer f.Close()
	got := make([]byte, len(s.data))
	if _, err := io.ReadFull(f, got); err != nil || string(got) != s.data {
		return fmt.Errorf("%s holds %q, want %q (%w)", s.name, got, s.data, err)
	}
	return nil
}

// create makes an empty volume, or one from another slot's snapshot.
func (c *caller) create(s *slot) error {
	fs, size, data, snap := []string{"ext4", "ext4", ""}[c.IntN(3)], int64(64<<20), "", (*csi.Snapshot)(nil)
	if source := &c.slots[c.IntN(len(c.slots))]; source != s && source.TryLock() {
		defer source.Unlock()
		if source.snap != nil {
			fs, size, data, snap = source.snapFS, source.snap.SizeBytes, source.snapData, source.snap
		}
	}
	s.there, s.size, s.data = true, size, data
	return c.do("create "+s.name, func(ctx context.Context) error {
		v, err := c.agent.Create(ctx, "fast", s.name, fs, size, snap)
		if err == nil {
			c.mu.Lock()
			s.Volume = v
			c.mu.Unlock()
		}
		return err
	})
}

func (c *caller) snapshot(s *slot) error {
	s.snapFS, s.snapData = s.FS, s.data
	return c.do("snapshot "+s.name, func(ctx context.Context) error {
		snap, err := s.Snapshot(ctx, "snap-"+s.name)
		if err == nil {
			c.mu.Lock()
			s.snap = snap
			c.mu.Unlock()
		}
		return err
	})
}

// do makes a call: perhaps twice at once, perhaps with contexts that end; then again
// until it is done.
func (c *caller) do(what string, do func(context.Context) error) error {
	call := func(ctx context.Context) error {
		c.calls.Add(1)
		err := do(ctx)
		// The agent answers a little before the end of the context.
		if code := status.Code(err); code == codes.Aborted || code == codes.DeadlineExceeded || ctx.Err() != nil {
			c.repeated.Add(1)
			return nil
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", what, err)
		}
		return err
	}
	var tries sync.WaitGroup
	for range c.IntN(2) {
		after := time.Duration(c.IntN(500)) * time.Millisecond
		tries.Go(func() {
			ctx, cancel := context.WithTimeout(c.ctx, after)
			defer cancel()
			if err := call(ctx); err != nil {
				c.fail(err)
			}
		})
	}
	for range c.IntN(2) {
		tries.Go(func() {
			if err := call(c.ctx); err != nil {
				c.fail(err)
			}
		})
	}
	tries.Wait()
	for {
		c.calls.Add(1)
		err := do(c.ctx)
		if err == nil {
			return nil
		}
		if status.Code(err) != codes.Aborted {
			return fmt.Errorf("%s, in the end: %w", what, err)
		}
		c.repeated.Add(1)
	}
}

// compare holds the lists of the agent against what is known.
func (s *stormy) compare() error {
	volumes, err := s.agent.ListVolumes(s.ctx, &csi.ListVolumesRequest{})
	if err != nil {
		return err
	}
	snapshots, err := s.agent.ListSnapshots(s.ctx, &csi.ListSnapshotsRequest{})
	if err != nil {
		return err
	}
	var have, want []string
	for _, e := range volumes.Entries {
		have = append(have, fmt.Sprint(e.Volume.VolumeId, " ", e.Volume.CapacityBytes))
	}
	for _, e := range snapshots.Entries {
		have = append(have, e.Snapshot.SnapshotId)
	}
	for i := range s.slots {
		if s := &s.slots[i]; s.there {
			want = append(want, fmt.Sprint(s.VolumeId, " ", s.size))
		}
		if snap := s.slots[i].snap; snap != nil {
			want = append(want, snap.SnapshotId)
		}
	}
	slices.Sort(have)
	slices.Sort(want)
	if !slices.Equal(have, want) {
		return fmt.Errorf("the agent lists\n%s\nand should\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
	return nil
}

// clear takes all away, after a last look at it.
func (s *stormy) clear() error {
	for i := range s.slots {
		s := &s.slots[i]
		if s.there && !s.mounted {
			if err := s.Mount(context.Background()); err != nil {
				return err
			}
		}
		if s.there {
			if err := errors.Join(s.read(), s.Unmount(context.Background()), s.Delete(context.Background())); err != nil {
				return err
			}
		}
	}
	for i := range s.slots {
		if snap := s.slots[i].snap; snap != nil {
			if err := s.agent.DropSnapshot(s.ctx, snap); err != nil {
				return err
			}
		}
	}
	return nil
}

// besideStorm is what a person and his monitoring do meanwhile, with LVM's own
// configuration.
func besideStorm(stop chan struct{}, home, spare string) error {
	if err := os.MkdirAll(hostConfig, 0o700); err != nil {
		return err
	}
	looks, moves := 0, 0
	defer func() { fmt.Println("beside it", looks, "looks and", moves, "moves of the pool's metadata") }()
	for {
		select {
		case <-stop:
			return nil
		default:
		}
		for _, args := range [][]string{{"lvs", "-a", "-o", "+all"}, {"vgscan"}, {"pvs", "-a"}} {
			if _, err := lvmWith(hostConfig, args...); err != nil {
				return err
			}
			looks++
		}
		if _, err := lvmWith(hostConfig, "pvmove", "--interval", "1", "--name", "thinpool_tmeta", home, spare); err != nil {
			return err
		}
		home, spare = spare, home
		moves++
	}
}

// hostConfig has no lvm.conf: all is as LVM's authors have it.
const hostConfig = "/run/host-lvm"
