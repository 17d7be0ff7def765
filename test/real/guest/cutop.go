//go:build vm

package main

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// cutOp is an operation that is cut.
type cutOp struct {
	name   string
	before func(*cutter) error // what must have been answered before it
	run    func(*cutter) error // the same call may come again, also after a boot
	there  func(*cutter) error // what its answer promises, after a boot too
	after  func(*cutter) error // what is done in the end when the call was made again
	// next is the other call that may follow the cut; nil: the same one comes again.
	nextName string
	next     func(*cutter) error
	then     func(*world) // the end, wherever the cut was
}

func nothing(*cutter) error { return nil }

// mostVolumes and leastVolumes, mostSnaps bound what is there.
const (
	leastVolumes = 3
	mostVolumes  = 6
	mostSnaps    = 3
)

// plan chooses the operation of a boot. It is called once for each boot, in order.
func (w *world) plan(boot int) cutOp {
	rng := rand.New(rand.NewPCG(*cutSeed, uint64(boot)))
	ops := []func(*rand.Rand) cutOp{w.expand, w.group}
	if len(w.volumes) < mostVolumes {
		ops = append(ops, w.create, w.stage, w.clone)
	}
	if len(w.volumes) > leastVolumes {
		ops = append(ops, w.deleteVolume)
	}
	if len(w.snaps) < mostSnaps {
		ops = append(ops, w.snapshot)
	}
	if len(w.snaps) > 0 {
		ops = append(ops, w.deleteSnapshot)
		if len(w.volumes) < mostVolumes {
			ops = append(ops, w.restore)
		}
	}
	op := ops[rng.IntN(len(ops))](rng)
	for _, f := range []*func(*cutter) error{&op.before, &op.after} {
		if *f == nil {
			*f = nothing
		}
	}
	if op.nextName == "" || rng.IntN(2) == 0 {
		op.nextName, op.next = "", nil
	}
	// The choice comes last: the end depends on it.
	then, other := op.then, op.next != nil
	op.then = func(w *world) {
		w.other = other
		then(w)
	}
	return op
}

func (w *world) uid() string {
	w.names++
	return fmt.Sprintf("00000000-0000-0000-0000-%012d", w.names)
}

func (w *world) newRound() int {
	w.rounds++
	return w.rounds
}

func (w *world) newVolume(fs string) cutVolume {
	size := map[string]int64{"xfs": 300 << 20, "btrfs": 128 << 20}[fs]
	return cutVolume{name: "pvc-" + w.uid(), fs: fs, size: max(size, 64<<20)}
}

func (w *world) anyFS(rng *rand.Rand) cutVolume {
	return w.newVolume([]string{"", "ext4", "xfs", "btrfs"}[rng.IntN(4)])
}

func (w *world) any(rng *rand.Rand) cutVolume { return w.volumes[rng.IntN(len(w.volumes))] }

func (w *world) set(v cutVolume) {
	i := slices.IndexFunc(w.volumes, func(have cutVolume) bool { return have.name == v.name })
	if i < 0 {
		w.volumes = append(w.volumes, v)
	} else {
		w.volumes[i] = v
	}
}

func (w *world) has(name string) bool {
	return slices.ContainsFunc(w.volumes, func(v cutVolume) bool { return v.name == name })
}

func (w *world) drop(name string) {
	w.volumes = slices.DeleteFunc(w.volumes, func(v cutVolume) bool { return v.name == name })
}

// made is an operation that makes a volume, or a deletion after it.
func (w *world) made(name string, v cutVolume, op cutOp) cutOp {
	op.name = fmt.Sprintf("%s %s", name, map[bool]string{true: "block", false: v.fs}[v.fs == ""])
	op.nextName, op.next = "delete", func(c *cutter) error { return c.remove(v) }
	op.then = func(w *world) {
		if !w.other {
			w.set(v)
		}
	}
	if op.there == nil {
		op.there = func(c *cutter) error { return c.sized(v.name, v.size) }
	}
	return op
}

func (w *world) create(rng *rand.Rand) cutOp {
	v := w.anyFS(rng)
	return w.made("create", v, cutOp{run: func(c *cutter) error { return c.make(v, nil) }})
}

// stage is the first one of a volume, which formats it, with data that is acknowledged.
func (w *world) stage(rng *rand.Rand) cutOp {
	v := w.anyFS(rng)
	v.round = w.newRound()
	return w.made("stage", v, cutOp{
		before: func(c *cutter) error { return c.make(v, nil) },
		run:    func(c *cutter) error { return c.fill(v) },
		there: func(c *cutter) error {
			return inOrder(func() error { return c.vol(v).Mount(c.ctx) }, func() error { return c.holds(v) })
		},
	})
}

// copied makes a volume of the same size or, one time in two, of a larger one.
func (w *world) copied(rng *rand.Rand, name string, of cutVolume, source func(*cutter) *csi.VolumeContentSource) cutOp {
	v := of
	v.name, v.copied = "pvc-"+w.uid(), true
	if rng.IntN(2) == 0 {
		v.size += 32 << 20
		name = "larger " + name
	}
	return w.made(name, v, cutOp{run: func(c *cutter) error { return c.make(v, source(c)) }})
}

func (w *world) clone(rng *rand.Rand) cutOp {
	of := w.any(rng)
	return w.copied(rng, "clone", of, func(c *cutter) *csi.VolumeContentSource { return volumeSource(c.vg + "/" + of.name) })
}

func (w *world) restore(rng *rand.Rand) cutOp {
	s := w.snaps[rng.IntN(len(w.snaps))]
	return w.copied(rng, "restore", s.of, func(c *cutter) *csi.VolumeContentSource { return snapSource(c.snapID(s.name)) })
}

// expand is of a volume in use.
func (w *world) expand(rng *rand.Rand) cutOp {
	v := w.any(rng)
	old := v
	v.size += 32 << 20
	op := cutOp{
		name: "expand " + map[bool]string{true: "block", false: v.fs}[v.fs == ""],
		run: func(c *cutter) error {
			return inOrder(func() error { return c.vol(v).Mount(c.ctx) }, func() error { return c.vol(v).Expand(c.ctx, v.size) })
		},
		there: func(c *cutter) error { return c.sized(v.name, v.size) },
		then: func(w *world) {
			if !w.other {
				w.set(v)
			}
		},
	}
	s := cutSnapshot{w.uid(), old}
	if len(w.volumes) == leastVolumes {
		op.nextName, op.next = "snapshot", func(c *cutter) error {
			return inOrder(func() error { return c.snap(s) }, func() error { return c.snapHolds(s) }, func() error { return c.removeSnap(s) })
		}
		return op
	}
	op.nextName, op.next = "delete", func(c *cutter) error { return c.remove(v) }
	op.then = func(w *world) {
		if w.set(v); w.other {
			w.drop(v.name)
		}
	}
	return op
}

func (w *world) deleteVolume(rng *rand.Rand) cutOp {
	v := w.any(rng)
	op := cutOp{
		name:   "delete volume",
		before: func(c *cutter) error { return c.vol(v).Unmount(c.ctx) },
		run:    func(c *cutter) error { return c.vol(v).Delete(c.ctx) },
		there:  func(c *cutter) error { return c.gone(v.name) },
		then:   func(w *world) { w.drop(v.name) },
	}
	if v.copied { // its creation would name a source that may be gone
		return op
	}
	empty := v
	empty.round = 0
	op.nextName, op.next = "create", func(c *cutter) error { return c.afresh(v, empty) }
	op.then = func(w *world) {
		if w.drop(v.name); w.other {
			w.set(empty)
		}
	}
	return op
}

func (w *world) snapshot(rng *rand.Rand) cutOp {
	v := w.any(rng)
	v.round = w.newRound()
	s := cutSnapshot{w.uid(), v}
	return cutOp{
		name:     "snapshot",
		before:   func(c *cutter) error { return c.fill(v) },
		run:      func(c *cutter) error { return c.snap(s) },
		there:    func(c *cutter) error { return c.hasSnaps(true, c.snapID(s.name)) },
		nextName: "delete", next: func(c *cutter) error { return c.removeSnap(s) },
		then: func(w *world) {
			if w.set(v); !w.other {
				w.snaps = append(w.snaps, s)
			}
		},
	}
}

func (w *world) deleteSnapshot(rng *rand.Rand) cutOp {
	s := w.snaps[rng.IntN(len(w.snaps))]
	op := cutOp{
		name:  "delete snapshot",
		run:   func(c *cutter) error { return c.removeSnap(s) },
		there: func(c *cutter) error { return c.hasSnaps(false, c.snapID(s.name)) },
		then: func(w *world) {
			w.snaps = slices.DeleteFunc(w.snaps, func(have cutSnapshot) bool { return have.name == s.name })
		},
	}
	if w.has(s.of.name) {
		op.nextName, op.next = "snapshot", func(c *cutter) error {
			return inOrder(func() error { return c.snap(s) }, func() error { return c.removeSnap(s) })
		}
	}
	return op
}

// group is a snapshot of two volumes.
func (w *world) group(rng *rand.Rand) cutOp {
	i := rng.IntN(len(w.volumes))
	pair := []cutVolume{w.volumes[i], w.volumes[(i+1)%len(w.volumes)]}
	pair[0].round, pair[1].round = w.newRound(), w.newRound()
	name := "group-" + w.uid()
	short := func(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s)))[:32] }
	member := func(c *cutter, v cutVolume) string {
		return c.vg + "/s-" + short("g-"+short(name)+"/"+c.vg+"/"+v.name)
	}
	members := func(c *cutter) []string { return []string{member(c, pair[0]), member(c, pair[1])} }
	remove := func(c *cutter) error {
		_, err := c.DeleteVolumeGroupSnapshot(c.ctx, &csi.DeleteVolumeGroupSnapshotRequest{
			GroupSnapshotId: c.vg + "/g-" + short(name), SnapshotIds: members(c),
		})
		if err != nil {
			return err
		}
		return c.hasSnaps(false, members(c)...)
	}
	return cutOp{
		name: "group snapshot",
		before: func(c *cutter) error {
			return inOrder(func() error { return c.fill(pair[0]) }, func() error { return c.fill(pair[1]) })
		},
		run: func(c *cutter) error {
			_, err := c.CreateVolumeGroupSnapshot(c.ctx, &csi.CreateVolumeGroupSnapshotRequest{
				Name: name, SourceVolumeIds: []string{c.vg + "/" + pair[0].name, c.vg + "/" + pair[1].name},
			})
			return err
		},
		there: func(c *cutter) error { return c.hasSnaps(true, members(c)...) },
		after: func(c *cutter) error {
			return inOrder(
				func() error { return c.restores(member(c, pair[0]), pair[0]) },
				func() error { return c.restores(member(c, pair[1]), pair[1]) },
				func() error { return remove(c) })
		},
		nextName: "delete", next: remove,
		then: func(w *world) { w.set(pair[0]); w.set(pair[1]) },
	}
}
