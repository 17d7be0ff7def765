//go:build vm

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/test/agent"
	"github.com/lamina-csi/lamina/test/invariant"
)

// killer is a node on which lvm is killed.
type killer struct {
	*agent.Agent
	ctx     context.Context
	raw, fs agent.Volume // in use all the time
	round   uint64       // written to both
	snaps   []snapshot
	// Volumes stay mounted: the agent would deactivate them after a minute, by an
	// lvm command that a check does not expect.
	spares, made []agent.Volume
	filler       agent.Volume // fills the pool before it grows
	filled       int64        // bytes
	size         int64        // of the pool when it had grown
	reserve      int
}

// snapshot is one of the raw volume, of that round.
type snapshot struct {
	*csi.Snapshot
	round uint64
}

// startKilled starts an agent whose lvm is killed where killAt says it. The pools that
// are wanted are applied to it.
func startKilled(ctx context.Context) (*agent.Agent, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := os.Symlink(self, killedLVM); err != nil {
		return nil, err
	}
	return agent.Start(ctx, agent.Options{Program: "/usr/local/bin/lamina-node", Dir: "/var/lib/kubelet", LVM: killedLVM})
}

// kill has lvm killed, as the kernel does when memory is short, before each of its
// system calls that change something, over each operation that runs it. The same call
// made again succeeds, the node is as it must be, and volumes in use work on.
func kill(ctx context.Context, a *agent.Agent) error {
	k := &killer{Agent: a, ctx: ctx, reserve: mostReserve}
	if err := k.prepare(); err != nil {
		return err
	}
	points := 0
	for _, op := range []struct {
		name, command string
		run           func(n int) error
	}{
		{"create", "lvcreate", k.create},
		{"snapshot", "lvcreate", k.snapshot},
		{"restore", "lvcreate", k.restore},
		{"expand", "lvextend", k.expand},
		{"delete volume", "lvremove", k.deleteVolume},
		{"delete snapshot", "lvremove", k.deleteSnapshot},
		{"grow pool", "lvextend", k.grow},
	} {
		each := k.each
		if op.name == "restore" && os.Args[1] != "killAll" {
			each = k.live
		}
		n, err := each(op.command, op.run)
		if err != nil {
			return fmt.Errorf("%s: %w", op.name, err)
		}
		fmt.Printf("%s: killed at %d points\n", op.name, n)
		points += n
	}
	fmt.Printf("killed at %d points in all\n", points)
	for _, v := range slices.Concat(k.spares, k.made, []agent.Volume{k.raw, k.fs, k.filler}) {
		if err := v.Unmount(ctx); err != nil {
			return err
		}
	}
	return k.Stop()
}

func (k *killer) prepare() (err error) {
	if err := k.apply("start"); err != nil {
		return err
	}
	for _, v := range []struct {
		*agent.Volume
		name, fs string
		size     int64
	}{{&k.raw, "raw", "", 64 << 20}, {&k.fs, "fs", "ext4", 64 << 20}, {&k.filler, "filler", "", 1 << 30}} {
		if *v.Volume, err = k.Create(k.ctx, "fast", v.name, v.fs, v.size, nil); err != nil {
			return err
		}
		if err := v.Volume.Mount(k.ctx); err != nil {
			return err
		}
	}
	return nil
}

// each runs an operation again and again, with its lvm command killed one call later
// each time, up to its exit. A text that wraps around in LVM's metadata area is written
// with one call more: a command may end before the call that is waited for.
func (k *killer) each(command string, run func(n int) error) (points int, err error) {
	for n, at := 1, 1; n < 2*mostPoints; n++ {
		if err := k.write(); err != nil {
			return points, err
		}
		if err := os.WriteFile(killAt, fmt.Appendln(nil, command, at), 0o600); err != nil {
			return points, err
		}
		first := run(n)
		what, err := os.ReadFile(killed)
		if errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Stat(killAt); err == nil || first != nil {
				return points, fmt.Errorf("%s was not killed: %w", command, first)
			}
			at--
			continue
		}
		if err := errors.Join(err, os.Remove(killed)); err != nil {
			return points, err
		}
		if err := run(n); err != nil {
			return points, fmt.Errorf("%s killed before %s (%w): again: %w", command, what, first, err)
		}
		if err := invariant.Check(k.ctx, invariant.Machine(k.data)); err != nil {
			return points, fmt.Errorf("%s killed before %s (%w): %w", command, what, first, err)
		}
		fmt.Printf("%s killed before %d: %s\n", command, at, what)
		points++
		if string(what) == "exit" {
			return points, nil
		}
		at++
	}
	return points, fmt.Errorf("%s came to no end", command)
}

// live runs an operation for each snapshot, and nothing is killed.
func (k *killer) live(_ string, run func(n int) error) (points int, err error) {
	for n := range k.snaps {
		err = errors.Join(err, run(n))
	}
	return 0, err
}

// mostPoints is more than any command has.
const mostPoints = 40

// write puts another round into both volumes. It hangs where one is suspended.
func (k *killer) write() error {
	k.round++
	for _, v := range []agent.Volume{k.raw, k.fs} {
		if err := put(file(v), binary.BigEndian.AppendUint64(nil, k.round)); err != nil {
			return err
		}
	}
	return nil
}

// data reads the round back.
func (k *killer) data() error {
	return errors.Join(holds(k.raw, k.round), holds(k.fs, k.round))
}

// holds reads a volume's round from its device.
func holds(v agent.Volume, round uint64) error {
	f, err := os.Open(file(v))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	got := make([]byte, 8)
	if _, err := f.ReadAt(got, 0); err != nil {
		return fmt.Errorf("%s: %w", v.Name, err)
	}
	if n := binary.BigEndian.Uint64(got); n != round {
		return fmt.Errorf("%s holds round %d, not %d", v.Name, n, round)
	}
	return nil
}

// create makes a volume that can be used. A call that is made again finds what the first
// has made.
func (k *killer) create(n int) error {
	v, err := k.Create(k.ctx, "fast", fmt.Sprint("new-", n), "", 64<<20, nil)
	if err != nil {
		return err
	}
	if err := v.Mount(k.ctx); err != nil {
		return err
	}
	k.spares = append(k.spares, v)
	return put(file(v), make([]byte, 1<<20))
}

func (k *killer) snapshot(n int) error {
	s, err := k.raw.Snapshot(k.ctx, fmt.Sprint("snap-", n))
	if err != nil {
		return err
	}
	k.snaps = append(k.snaps, snapshot{s, k.round})
	return nil
}

// restore makes a volume of each snapshot that holds what its source held then.
func (k *killer) restore(n int) error {
	snap := k.snaps[n%len(k.snaps)]
	v, err := k.Create(k.ctx, "fast", fmt.Sprint("restored-", n), "", 64<<20, snap.Snapshot)
	if err != nil {
		return err
	}
	if err := v.Mount(k.ctx); err != nil {
		return err
	}
	k.made = append(k.made, v)
	return holds(v, snap.round)
}

func (k *killer) expand(n int) error {
	return k.raw.Expand(k.ctx, int64(64+4*n)<<20)
}

// moreFrom is where the numbers of those begin that are made to be deleted.
const moreFrom = 1000

func (k *killer) deleteVolume(n int) error {
	if n > len(k.spares) {
		if err := k.create(moreFrom + n); err != nil {
			return err
		}
	}
	if err := k.spares[n-1].Unmount(k.ctx); err != nil {
		return err
	}
	return k.spares[n-1].Delete(k.ctx)
}

func (k *killer) deleteSnapshot(n int) error {
	if n > len(k.snaps) {
		if err := k.snapshot(moreFrom + n); err != nil {
			return err
		}
	}
	return k.DropSnapshot(k.ctx, k.snaps[n-1].Snapshot)
}

// The pool lets mostReserve percent of its disk be at first. It grows by one percent when
// it is full enough.
const (
	mostReserve = 50
	growAt      = 80
	chunk       = 1 << 20
)

// grow fills the pool and lets it have more of its disk.
func (k *killer) grow(n int) error {
	p, err := k.status()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(k.filler.Target(), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for used := p.Used; used*100 < p.Size*(growAt+2); used += chunk {
		if _, err := f.WriteAt([]byte("full"), k.filled); err != nil {
			return err
		}
		k.filled += chunk
	}
	if err := f.Sync(); err != nil {
		return err
	}
	k.reserve = mostReserve - n
	if err := k.apply(fmt.Sprint("attempt ", time.Now())); err != nil {
		return err
	}
	grown, err := k.status()
	if err == nil && grown.Size <= k.size {
		err = fmt.Errorf("the pool has %d bytes, as before", grown.Size)
	}
	k.size = grown.GetSize()
	return err
}

// apply wants the pool with the reserve; the note makes the wish another one.
func (k *killer) apply(note string) error {
	profile := fmt.Sprintf("{disks: {minSize: 512Mi}, thinChunk: 1Mi, overprovision: 10, reserve: %d%%} # %s", k.reserve, note)
	_, err := k.Pools.Apply(k.ctx, &link.ApplyRequest{Pools: []*link.Pool{{Name: "fast", Profile: "all", Text: profile}}})
	if err != nil {
		return err
	}
	p, err := k.status()
	if err == nil && p.Error != "" {
		err = errors.New(p.Error)
	}
	return err
}

// status waits until the agent has done what it can.
func (k *killer) status() (*link.PoolStatus, error) {
	ctx, cancel := context.WithCancel(k.ctx)
	defer cancel()
	watch, err := k.Pools.Watch(ctx, &link.WatchRequest{})
	if err != nil {
		return nil, err
	}
	for {
		resp, err := watch.Recv()
		switch {
		case err != nil:
			return nil, err
		case resp.Settled && len(resp.Pools) == 1:
			return resp.Pools[0], nil
		}
	}
}
