package crash

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lamina-csi/lamina/lvm/lvmtest"
	"github.com/lamina-csi/lamina/node/pool"
)

var (
	stormSeed  = flag.Uint64("storm.seed", 0, "seed of TestStorm; 0: another in every run")
	stormSteps = flag.Int("storm.steps", 1000, "calls in TestStorm")
)

const (
	stormCallers = 32
	stormVolumes = 200
)

// TestStorm lets many callers make random calls about many volumes, each caller
// about one at a time, and holds what they see against what they know: calls are made
// twice at once, and their contexts end at any moment.
func TestStorm(t *testing.T) {
	seed := *stormSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("to choose the same again: -storm.seed=%d", seed)
	s := &storm{rig: newRigOf(t, pool.Thin, t.TempDir(), 64<<30)}
	s.system.Before, s.system.After = nil, nil
	s.host.OnStep(func(now lvmtest.Step) error {
		// Others come in between.
		for range now.N % 5 {
			runtime.Gosched()
		}
		return nil
	})
	for i := range s.slots {
		s.slots[i].volume = s.volume("", "")
		s.slots[i].name = fmt.Sprintf("pvc-00000000-0000-0000-0000-%012d", i)
	}
	var callers sync.WaitGroup
	for i := range uint64(stormCallers) {
		callers.Go(func() {
			c := &caller{storm: s, Rand: rand.New(rand.NewPCG(seed, i))}
			for s.calls.Load() < int64(*stormSteps) && !t.Failed() {
				c.turn()
			}
		})
	}
	callers.Wait()
	s.check("after the storm")
	s.compare()
	for i := range s.slots {
		s.slots[i].clear(s)
	}
	s.check("after all was deleted")
	if left := s.system.Mounted(); len(left) > 0 {
		t.Errorf("mounts are left: %v", left)
	}
	s.compare()
}

type storm struct {
	*rig
	calls atomic.Int64
	slots [stormVolumes]slot
}

// slot is a volume, there or not, as those who asked for it know it. Its snapshot is
// of it, or of an earlier volume of the slot.
type slot struct {
	sync.Mutex
	volume
	there, staged, published bool
	limited                  bool   // its pods would need a cgroup
	data                     string // what was written
	written                  bool   // it has been staged once
	snapped                  bool
	snapData                 string
	snapFS                   string
	snapSize                 int64
	snapWritten              bool
}

func (s *slot) snapName() string { return "snapshot" + s.name[len("pvc"):] }
func (s *slot) snapID() string   { return s.vg() + "/snap" + s.name[len("pvc"):] }

// caller makes calls, one after the other.
type caller struct {
	*storm
	*rand.Rand
}

// turn does something about a volume that no other caller has in hand.
func (c *caller) turn() {
	s := &c.slots[c.IntN(stormVolumes)]
	if !s.TryLock() {
		return
	}
	defer s.Unlock()
	if s.snapped && c.IntN(6) == 0 {
		c.do("delete snapshot", func(ctx context.Context) error {
			_, err := c.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: s.snapID()})
			return err
		})
		s.snapped = false
		return
	}
	switch choice := c.IntN(6); {
	case !s.there:
		c.create(s)
	case s.published && choice == 0:
		c.call("unpublish", s, volume.unpublish)
		s.published = false
	case choice == 0:
		c.call("modify", s, volume.modify)
		s.limited = true
	case choice == 1 && !s.snapped:
		c.snapshot(s)
	case choice == 2 && s.staged && (s.fs != "" || s.published):
		s.size *= 2
		c.call("expand", s, func(v volume) error { v.size /= 2; return v.expand() })
	case choice == 3 && s.staged && s.fs != "":
		c.write(s)
	case !s.staged && choice == 4:
		c.call("delete", s, volume.remove)
		s.there = false
	case !s.staged:
		c.call("stage", s, volume.stage)
		s.staged, s.written = true, true
		c.read(s)
	case s.published:
		c.read(s)
	case choice == 4:
		c.call("unstage", s, volume.unstage)
		s.staged = false
	case !s.limited:
		c.call("publish", s, volume.publish)
		s.published = true
	}
}

// call makes a call about a volume.
func (c *caller) call(what string, s *slot, f func(volume) error) {
	c.do(what+" "+s.name, func(ctx context.Context) error {
		v := s.volume
		v.ctx = ctx
		return f(v)
	})
}

// do makes a call: perhaps twice at once, perhaps with contexts that end; then, if it
// is not known to be done, again until it is.
func (c *caller) do(what string, do func(context.Context) error) {
	call := func(ctx context.Context) error {
		c.calls.Add(1)
		return do(ctx)
	}
	var tries sync.WaitGroup
	for range c.IntN(3) {
		hops := c.IntN(50)
		tries.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan struct{})
			go func() {
				defer close(done)
				for range hops {
					runtime.Gosched()
				}
				cancel()
			}()
			if err := call(ctx); err != nil && !again(err) {
				c.t.Errorf("%s, cancelled: %v", what, err)
			}
			cancel()
			<-done
		})
	}
	for range 1 + c.IntN(2) {
		tries.Go(func() {
			if err := call(context.Background()); err != nil && !again(err) {
				c.t.Errorf("%s: %v", what, err)
			}
		})
	}
	tries.Wait()
	if err := call(context.Background()); err != nil {
		c.t.Errorf("%s, in the end: %v", what, err)
	}
}

// again reports whether an error says that the call may be repeated.
func again(err error) bool {
	return errors.Is(err, pool.ErrPending) || errors.Is(err, pool.ErrAborted) || errors.Is(err, context.Canceled)
}

// create makes an empty volume, or one from another slot's volume or snapshot.
func (c *caller) create(s *slot) {
	v := c.volume("", []string{"ext4", "xfs", "btrfs", ""}[c.IntN(4)])
	v.name = s.name
	data, written := "", false
	source := &c.slots[c.IntN(stormVolumes)]
	if source != s && c.IntN(2) == 0 && source.TryLock() {
		defer source.Unlock()
		switch {
		case source.snapped:
			v.fs, v.size, v.snapshot = source.snapFS, source.snapSize, source.snapID()
			data, written = source.snapData, source.snapWritten
		case source.there:
			v.fs, v.size, v.clone = source.fs, source.size, source.id()
			data, written = source.data, source.written
		}
	}
	s.volume, s.there, s.limited, s.data, s.written = v, true, false, data, written
	c.call("create", s, volume.create)
	s.volume.snapshot, s.volume.clone = "", ""
}

func (c *caller) snapshot(s *slot) {
	c.do("snapshot "+s.name, func(ctx context.Context) error {
		_, err := c.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: s.snapName(), SourceVolumeId: s.id()})
		return err
	})
	s.snapped, s.snapData, s.snapFS, s.snapSize, s.snapWritten = true, s.data, s.fs, s.size, s.written
}

func (c *caller) write(s *slot) {
	s.data = fmt.Sprint("data ", c.Uint64())
	if err := c.system.Write(s.staging(), s.data); err != nil {
		c.t.Errorf("write %s: %v", s.name, err)
	}
}

func (c *caller) read(s *slot) {
	if s.fs == "" {
		return
	}
	if got, err := c.system.Read(s.staging()); err != nil || got != s.data {
		c.t.Errorf("%s holds %q (%v), want %q", s.name, got, err, s.data)
	}
}

// compare holds the lists of volumes and snapshots against what is known.
func (s *storm) compare() {
	s.t.Helper()
	volumes, err := s.ListVolumes(context.Background(), &csi.ListVolumesRequest{})
	s.must(err)
	sizes := map[string]int64{}
	for _, e := range volumes.Entries {
		sizes[e.Volume.VolumeId] = e.Volume.CapacityBytes
	}
	snapshots, err := s.ListSnapshots(context.Background(), &csi.ListSnapshotsRequest{})
	s.must(err)
	snaps := map[string]bool{}
	for _, e := range snapshots.Entries {
		snaps[e.Snapshot.SnapshotId] = true
	}
	for i := range s.slots {
		slot := &s.slots[i]
		if size, there := sizes[slot.id()]; there != slot.there || there && size != slot.size {
			s.t.Errorf("%s: there %t with %d bytes, want %t with %d", slot.name, there, size, slot.there, slot.size)
		}
		if snaps[slot.snapID()] != slot.snapped {
			s.t.Errorf("snapshot of %s: there %t, want %t", slot.name, snaps[slot.snapID()], slot.snapped)
		}
		delete(sizes, slot.id())
		delete(snaps, slot.snapID())
	}
	if len(sizes)+len(snaps) > 0 {
		s.t.Errorf("nobody knows %v and %v", sizes, snaps)
	}
}

// clear takes all of a slot away.
func (s *slot) clear(st *storm) {
	st.must(s.unpublish())
	st.must(s.unstage())
	st.must(s.remove())
	_, err := st.DeleteSnapshot(context.Background(), &csi.DeleteSnapshotRequest{SnapshotId: s.snapID()})
	st.must(err)
	s.there, s.snapped = false, false
}
