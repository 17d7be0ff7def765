//go:build vm

package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/test/agent"
	"github.com/lamina-csi/lamina/test/invariant"
)

// Flags of the scenario "cuts". What was done at each cut follows from the seed, so
// that nothing but the disk is carried from one boot to the next.
var (
	cutSeed  = flag.Uint64("seed", 0, "")
	cutBoot  = flag.Int("boot", 0, "how often the power was cut before")
	cutLast  = flag.Bool("last", false, "no operation is cut any more")
	cutAcked = flag.Bool("acked", false, "the operation that was cut had been answered")
)

// cutVolume is a volume that is there between two cuts.
type cutVolume struct {
	name, fs string
	size     int64 // at least
	round    int   // what was written to it last; 0: nothing
	copied   bool  // it was made from another one
}

// cutSnapshot is a snapshot that is there.
type cutSnapshot struct {
	name string
	of   cutVolume // as it was
}

// world is what must be on the disks.
type world struct {
	volumes []cutVolume
	snaps   []cutSnapshot
	names   int
	rounds  int
	other   bool // what came after the cut was another call
}

// cutter is a node whose power is cut.
type cutter struct {
	*agent.Agent
	world
	ctx context.Context
	vg  string // UUID
	in  *bufio.Scanner
}

func newCutter(ctx context.Context, a *agent.Agent) (*cutter, error) {
	c := &cutter{Agent: a, ctx: ctx, in: bufio.NewScanner(os.Stdin)}
	return c, c.findGroup()
}

// cuts finds after a power cut what must be there, brings the operation that was cut to
// its end, or does what else may follow it, and begins the next one.
func cuts(ctx context.Context, a *agent.Agent) error {
	c, err := newCutter(ctx, a)
	if err != nil {
		return err
	}
	c.volumes = []cutVolume{c.newVolume(""), c.newVolume("ext4"), c.newVolume("xfs")}
	for i := range c.volumes {
		c.volumes[i].round = c.newRound()
	}
	if *cutBoot == 0 {
		for _, v := range c.volumes {
			if err := inOrder(func() error { return c.make(v, nil) }, func() error { return c.fill(v) }); err != nil {
				return err
			}
		}
	}
	for boot := range *cutBoot {
		op := c.plan(boot)
		if boot == *cutBoot-1 {
			if err := c.settle(op); err != nil {
				return err
			}
		}
		op.then(&c.world)
	}
	if err := c.verify(); err != nil {
		return err
	}
	if *cutLast {
		return c.unmount()
	}
	return c.begin(c.plan(*cutBoot))
}

// settle does after the cut what kubelet and the sidecars do.
func (c *cutter) settle(op cutOp) error {
	if *cutAcked {
		if err := op.there(c); err != nil {
			return fmt.Errorf("%s was answered, and after the power cut: %w", op.name, err)
		}
	}
	if op.next != nil {
		if err := op.next(c); err != nil {
			return fmt.Errorf("after %s was cut: %s: %w", op.name, op.nextName, err)
		}
		return nil
	}
	if err := op.run(c); err != nil {
		return fmt.Errorf("after %s was cut: again: %w", op.name, err)
	}
	if err := inOrder(func() error { return op.there(c) }, func() error { return op.after(c) }); err != nil {
		return fmt.Errorf("after %s was made again: %w", op.name, err)
	}
	return nil
}

// begin starts an operation that will be cut, and tells the host when it begins and
// when it was answered.
func (c *cutter) begin(op cutOp) error {
	if err := op.before(c); err != nil {
		return fmt.Errorf("before %s: %w", op.name, err)
	}
	what := op.name
	if op.next != nil {
		what += ", then " + op.nextName
	}
	if err := c.tell("BEGIN " + what); err != nil {
		return err
	}
	if err := op.run(c); err != nil {
		return fmt.Errorf("%s: %w", op.name, err)
	}
	return c.tell("ANSWERED")
}

// tell says something to the host and waits until it has taken note of it.
func (c *cutter) tell(line string) error {
	fmt.Println(line)
	if !c.in.Scan() {
		return errors.New("the host went silent")
	}
	return nil
}

func (c *cutter) findGroup() error {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	watch, err := c.Pools.Watch(ctx, &link.WatchRequest{})
	if err != nil {
		return err
	}
	for c.vg == "" {
		resp, err := watch.Recv()
		if err != nil {
			return err
		}
		if resp.Settled && len(resp.Pools) == 1 && agent.Healthy(resp.Pools[0]) {
			c.vg = resp.Pools[0].VgUuid
		}
	}
	return nil
}

// verify holds the node to the rules, and all volumes and snapshots to what is known.
func (c *cutter) verify() error {
	var want, got []string
	for _, v := range c.volumes {
		want = append(want, c.vg+"/"+v.name)
	}
	for _, s := range c.snaps {
		want = append(want, c.snapID(s.name))
	}
	volumes, err := c.ListVolumes(c.ctx, &csi.ListVolumesRequest{})
	if err != nil {
		return err
	}
	for _, e := range volumes.Entries {
		got = append(got, e.Volume.VolumeId)
	}
	snaps, err := c.ListSnapshots(c.ctx, &csi.ListSnapshotsRequest{})
	if err != nil {
		return err
	}
	for _, e := range snaps.Entries {
		got = append(got, e.Snapshot.SnapshotId)
	}
	slices.Sort(got)
	if slices.Sort(want); !slices.Equal(got, want) {
		return fmt.Errorf("there are %q, want %q", got, want)
	}
	for _, v := range c.volumes {
		if err := inOrder(func() error { return c.vol(v).Mount(c.ctx) }, func() error { return c.holds(v) }); err != nil {
			return err
		}
	}
	for _, s := range c.snaps {
		if *cutLast || s == c.snaps[*cutBoot%len(c.snaps)] {
			if err := c.snapHolds(s); err != nil {
				return err
			}
		}
	}
	return invariant.Check(c.ctx, invariant.Machine(nil))
}
