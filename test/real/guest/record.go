//go:build vm

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/test/agent"
)

var (
	recordRounds = flag.Int("rounds", 1, "of the scenario record")
	lookFor      = flag.String("for", "", "what the scenario look must find: names and rounds of block volumes")
)

// record changes a pool, one call after another, and tells the host of each call when
// it begins and when it was answered.
func record(ctx context.Context, a *agent.Agent) error {
	c, err := newCutter(ctx, a)
	if err != nil {
		return err
	}
	if err := c.tellMetadata(); err != nil {
		return err
	}
	for range *recordRounds {
		if err := c.recordRound(); err != nil {
			return err
		}
	}
	return c.unmount()
}

// tellMetadata tells where the pool's metadata lies on the disk, in bytes.
func (c *cutter) tellMetadata() error {
	pool, err := lvm.ParseVGName("lamina-fast")
	if err != nil {
		return err
	}
	thin, err := lvm.ParseLVName("thinpool")
	if err != nil {
		return err
	}
	table, err := (&lvm.LinuxKernel{}).Table(lvm.DMName(pool, thin, "") + "_tmeta")
	if err != nil || len(table) != 1 {
		return fmt.Errorf("the table of the pool's metadata: %v (%w)", table, err)
	}
	var disk string
	var start uint64
	if _, err := fmt.Sscan(table[0].Params, &disk, &start); err != nil {
		return err
	}
	return c.tell(fmt.Sprintf("METADATA %d %d", start*512, table[0].Length*512))
}

// mostRecorded volumes are there at a time.
const mostRecorded = 4

// recordRound makes a volume, writes to it, snapshots and expands it; and deletes what
// an earlier round has made.
func (c *cutter) recordRound() error {
	v := c.newVolume("")
	v.round = c.newRound()
	s := cutSnapshot{c.uid(), v}
	steps := []func() error{
		func() error { return c.recorded("create", v.name, v.size, func() error { return c.make(v, nil) }) },
		func() error { return c.recorded("write", v.name, int64(v.round), func() error { return c.fill(v) }) },
		func() error { return c.recorded("create", "snap-"+s.name, v.size, func() error { return c.snap(s) }) },
		func() error {
			return c.recorded("expand", v.name, v.size+32<<20, func() error { return c.vol(v).Expand(c.ctx, v.size+32<<20) })
		},
	}
	if len(c.volumes) == mostRecorded {
		old, snap := c.volumes[0], c.snaps[0]
		c.volumes, c.snaps = c.volumes[1:], c.snaps[1:]
		steps = append(steps,
			func() error { return c.recorded("delete", old.name, 0, func() error { return c.remove(old) }) },
			func() error {
				return c.recorded("delete", "snap-"+snap.name, 0, func() error { return c.removeSnap(snap) })
			})
	}
	c.volumes, c.snaps = append(c.volumes, v), append(c.snaps, s)
	return inOrder(steps...)
}

func (c *cutter) recorded(what, lv string, n int64, call func() error) error {
	return inOrder(
		func() error { return c.tell(fmt.Sprintf("BEGIN %s %s %d", what, lv, n)) },
		call,
		func() error { return c.tell("ANSWERED") })
}

// metadataCopy is a line of pvck --dump metadata_search.
var metadataCopy = regexp.MustCompile(`metadata at (\d+) length \d+ crc \w+ vg lamina-fast seqno (\d+) `)

// startRepaired gives the group its newest text that is whole, as the runbook says
// (docs/operations.md), and starts an agent. One that was there before has left the
// disk alone.
func startRepaired(ctx context.Context) (*agent.Agent, error) {
	const disk, text = "/dev/vda", "/tmp/text"
	lvm := func(args ...string) (string, error) {
		out, err := exec.CommandContext(ctx, "/usr/sbin/lvm", args...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("lvm %q: %w: %s", args, err, out)
		}
		return string(out), err
	}
	out, err := lvm("vgs", "lamina-fast")
	if err == nil {
		return nil, fmt.Errorf("nothing is to be repaired: %s", out)
	}
	fmt.Println("before the repair:", err)
	if err := leavesAlone(ctx); err != nil {
		return nil, err
	}
	list, err := lvm("pvck", "--dump", "metadata_search", disk)
	if err != nil {
		return nil, err
	}
	newest, at := 0, ""
	for _, m := range metadataCopy.FindAllStringSubmatch(list, -1) {
		if n, err := strconv.Atoi(m[2]); err == nil && n > newest {
			newest, at = n, m[1]
		}
	}
	if at == "" {
		return nil, fmt.Errorf("no text in %s", list)
	}
	if _, err := lvm("pvck", "--dump", "metadata_search", "--settings", "metadata_offset="+at, "--file", text, disk); err != nil {
		return nil, err
	}
	if _, err := lvm("pvck", "--yes", "--repair", "--file", text, disk); err != nil {
		return nil, err
	}
	return startLogged(ctx)
}

// leavesAlone starts and stops an agent that does not get its pool.
func leavesAlone(ctx context.Context) error {
	a, err := startLogged(ctx)
	if err != nil {
		return err
	}
	err = a.AwaitPool(ctx, "missing", func(s *link.PoolStatus) bool {
		fmt.Println("before the repair:", s)
		return !agent.Healthy(s)
	})
	return errors.Join(err, a.Stop())
}

// look finds block volumes and what was written to them.
func look(ctx context.Context, a *agent.Agent) error {
	c, err := newCutter(ctx, a)
	if err != nil {
		return err
	}
	words := strings.Fields(*lookFor)
	for pair := range slices.Chunk(words, 2) {
		round, err := strconv.Atoi(pair[1])
		if err != nil {
			return err
		}
		v := cutVolume{name: pair[0], round: round}
		c.volumes = append(c.volumes, v)
		if err := inOrder(func() error { return c.vol(v).Mount(ctx) }, func() error { return c.holds(v) }); err != nil {
			return err
		}
	}
	return c.unmount()
}

// unmount lets go of all volumes and stops the agent.
func (c *cutter) unmount() error {
	for _, v := range c.volumes {
		if err := c.vol(v).Unmount(c.ctx); err != nil {
			return err
		}
	}
	return c.Stop()
}
