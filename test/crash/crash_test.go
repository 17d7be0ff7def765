package crash

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/pool"
)

// operation is one that is cut at each of its steps.
type operation struct {
	name  string
	mode  pool.Mode                   // "": thin
	setup func(*rig)                  // what was there before, as far as LVM remembers it
	node  func(*rig) error            // what kubelet did before, and does again after a reboot
	run   func(*rig) error            // the operation: the same call may be repeated
	next  map[string]func(*rig) error // calls that may follow instead
}

// TestEveryStep cuts each operation before and after each step, with the agent's
// death and with a reboot. The same call, repeated, comes to the same end as one that
// was never cut. Any other call that may follow works too, and nothing is left of
// both that the rules forbid.
func TestEveryStep(t *testing.T) {
	cases := 0
	for _, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			dir := t.TempDir()
			want, steps := op.whole(t, dir)
			if steps < 2 {
				t.Fatalf("%d steps", steps)
			}
			for at := 1; at <= steps; at++ {
				for _, reboot := range []bool{false, true} {
					r := op.cut(t, dir, at, reboot)
					when := fmt.Sprintf("cut at step %d of %d, reboot %t", at, steps, reboot)
					if err := op.run(r); err != nil {
						t.Fatalf("%s: again: %v", when, err)
					}
					if got := r.state(); got != want {
						t.Errorf("%s: again:\n%s\nwant\n%s", when, got, want)
					}
					r.check(when)
					cases++
					for name, next := range op.next {
						r := op.cut(t, dir, at, reboot)
						when := when + ", then " + name
						if err := next(r); err != nil {
							t.Fatalf("%s: %v", when, err)
						}
						r.check(when)
						cases++
					}
				}
			}
		})
	}
	t.Logf("%d cases", cases)
}

// whole runs the operation without a cut.
func (o operation) whole(t *testing.T, dir string) (state string, steps int) {
	r := o.prepare(t, dir)
	before := r.steps
	r.must(o.run(r))
	steps = r.steps - before
	r.check("whole")
	state = r.state()
	r.must(o.run(r)) // a call that was answered may come again
	if again := r.state(); again != state {
		t.Errorf("repeated:\n%s\nwant\n%s", again, state)
	}
	return state, steps
}

func (o operation) prepare(t *testing.T, dir string) *rig {
	t.Helper()
	mode := o.mode
	if mode == "" {
		mode = pool.Thin
	}
	r := newRig(t, mode, dir)
	if o.setup != nil {
		o.setup(r)
	}
	if o.node != nil {
		r.must(o.node(r))
	}
	return r
}

// cut runs the operation, which dies at a step, and starts a new agent.
func (o operation) cut(t *testing.T, dir string, at int, reboot bool) *rig {
	t.Helper()
	r := o.prepare(t, dir)
	r.crashAt = r.steps + at
	_ = o.run(r) // it may have been done when it was cut
	if !r.dead {
		t.Fatalf("step %d did not come", at)
	}
	if !reboot {
		r.start()
		return r
	}
	r.reboot()
	if o.node != nil {
		r.must(o.node(r))
	}
	return r
}

func operations() []operation {
	var all []operation
	all = append(all, creations()...)
	all = append(all, snapshots()...)
	for _, kind := range []struct {
		name, fs  string
		encrypted bool
	}{{"ext4", "ext4", false}, {"xfs", "xfs", false}, {"btrfs", "btrfs", false}, {"block", "", false}, {"luks ext4", "ext4", true}, {"luks block", "", true}} {
		all = append(all, mounts(kind.name, func(r *rig) volume {
			v := r.volume("1", kind.fs)
			v.encrypted = kind.encrypted
			return v
		})...)
	}
	return all
}

// creations make a volume and take it away.
func creations() []operation {
	var out []operation
	add := func(name string, mode pool.Mode, setup func(*rig), make func(*rig) volume) {
		out = append(out, operation{
			name: "create " + name, mode: mode, setup: setup,
			run: func(r *rig) error { return make(r).create() },
			next: map[string]func(*rig) error{
				"delete": func(r *rig) error { return gone(make(r)) },
				"stage":  func(r *rig) error { return ifThere(make(r).stage()) },
			},
		}, operation{
			name: "delete " + name, mode: mode,
			setup: func(r *rig) {
				if setup != nil {
					setup(r)
				}
				r.must(make(r).create())
			},
			run: func(r *rig) error { return make(r).remove() },
			next: map[string]func(*rig) error{
				"create": func(r *rig) error { return afresh(make(r)) },
				"stage":  func(r *rig) error { return ifDiscarded(ifThere(make(r).stage())) },
			},
		})
	}
	base := func(r *rig) {
		v := r.volume("9", "ext4")
		v.fill()
		r.must(v.snap())
		r.must(v.unstage())
	}
	add("thin", pool.Thin, nil, func(r *rig) volume { return r.volume("1", "ext4") })
	add("thin block", pool.Thin, nil, func(r *rig) volume { return r.volume("1", "") })
	add("thick", pool.Thick, nil, func(r *rig) volume { return r.volume("1", "ext4") })
	add("thick block", pool.Thick, nil, func(r *rig) volume { return r.volume("1", "") })
	add("restore", pool.Thin, base, func(r *rig) volume {
		v := r.volume("1", "ext4")
		v.snapshot = r.snapID()
		return v
	})
	add("larger clone", pool.Thin, base, func(r *rig) volume {
		v := r.volume("1", "ext4")
		v.size, v.clone = 2*v.size, r.volume("9", "").id()
		return v
	})
	return out
}

// afresh makes a volume of the name of one whose deletion was cut. It may still be
// there, but discarded: then it is not formatted, and deleted as any other.
func afresh(v volume) error {
	if err := v.create(); err != nil {
		return err
	}
	if err := ifDiscarded(v.stage()); err != nil {
		return err
	}
	return errors.Join(v.unstage(), gone(v), v.create(), v.stage())
}

// ifDiscarded passes the error of a volume that is empty and says that it is not.
func ifDiscarded(err error) error {
	if errors.Is(err, mount.ErrForeign) {
		return nil
	}
	return err
}

// gone deletes a volume and finds that it is.
func gone(v volume) error {
	if err := v.remove(); err != nil {
		return err
	}
	_, err := v.ControllerGetVolume(context.Background(), &csi.ControllerGetVolumeRequest{VolumeId: v.id()})
	if !errors.Is(err, pool.ErrNotFound) {
		return fmt.Errorf("after its deletion, GetVolume says %w", err)
	}
	return nil
}

// snapshots are of volumes that are staged and hold data.
func snapshots() []operation {
	base := func(r *rig) { r.volume("1", "ext4").fill(); r.volume("2", "xfs").fill() }
	node := func(r *rig) error { return errors.Join(r.volume("1", "ext4").stage(), r.volume("2", "xfs").stage()) }
	restore := func(r *rig) error {
		v := r.volume("3", "ext4")
		v.snapshot = r.snapID()
		if err := v.create(); err != nil {
			return ifThere(err)
		}
		return v.stage()
	}
	drop := func(r *rig) error {
		delete(r.kept, r.volume("1", "").id())
		v := r.volume("1", "ext4")
		return errors.Join(v.unstage(), gone(v))
	}
	group := func(r *rig) error { _, err := r.group(r.volume("1", ""), r.volume("2", "")); return err }
	dropGroup := func(r *rig) error {
		_, err := r.DeleteVolumeGroupSnapshot(context.Background(), &csi.DeleteVolumeGroupSnapshotRequest{
			GroupSnapshotId: groupID(r), SnapshotIds: []string{memberID(r, "1"), memberID(r, "2")},
		})
		return err
	}
	withSnap := func(r *rig) { base(r); r.must(r.volume("1", "").snap()) }
	withGroup := func(r *rig) { base(r); r.must(group(r)) }
	return []operation{
		{name: "snapshot", setup: base, node: node, run: func(r *rig) error { return r.volume("1", "").snap() },
			next: map[string]func(*rig) error{"delete": (*rig).removeSnap, "delete the volume": drop, "restore": restore, "group": group}},
		{name: "delete snapshot", setup: withSnap, node: node, run: (*rig).removeSnap,
			next: map[string]func(*rig) error{"snapshot": func(r *rig) error { return r.volume("1", "").snap() }, "delete the volume": drop, "restore": restore}},
		{name: "group snapshot", setup: base, node: node, run: group,
			next: map[string]func(*rig) error{"delete": dropGroup, "delete a volume": drop, "snapshot": func(r *rig) error { return r.volume("1", "").snap() }}},
		{name: "delete group snapshot", setup: withGroup, node: node, run: dropGroup,
			next: map[string]func(*rig) error{"group": func(r *rig) error {
				// A group of which members are gone is another: it says so, and goes.
				if err := group(r); err != nil && !errors.Is(err, pool.ErrConflict) {
					return err
				}
				return dropGroup(r)
			}}},
	}
}

// groupID is the id of the group of volumes 1 and 2.
func groupID(r *rig) string { return r.vg() + "/" + groupLV }

// memberID is the id of the snapshot of a volume in that group.
func memberID(r *rig, volume string) string {
	sum := sha256.Sum256([]byte(groupLV + "/" + r.volume(volume, "").id()))
	return fmt.Sprintf("%s/s-%x", r.vg(), sum[:16])
}

// groupLV is named after the group's name, "group".
const groupLV = "g-ad936fcbed631fa67e05c3ea03953905"

// mounts are what kubelet does with one volume.
func mounts(kind string, volumeOf func(*rig) volume) []operation {
	do := func(calls ...func(volume) error) func(*rig) error {
		return func(r *rig) error {
			for _, call := range calls {
				if err := call(volumeOf(r)); err != nil {
					return err
				}
			}
			return nil
		}
	}
	created := func(r *rig) { r.must(volumeOf(r).create()) }
	filled := func(r *rig) { volumeOf(r).fill() }
	unkept := func(calls func(*rig) error) func(*rig) error {
		return func(r *rig) error {
			delete(r.kept, volumeOf(r).id())
			return calls(r)
		}
	}
	published := do(volume.stage, volume.publish)
	expanding := published
	if volumeOf(nil).fs != "" {
		expanding = do(volume.stage)
	}
	all := []operation{
		{name: "stage " + kind, setup: created, run: do(volume.stage), next: map[string]func(*rig) error{
			"unstage":           do(volume.unstage, volume.stage),
			"delete":            do(volume.unstage, gone),
			"expand":            func(r *rig) error { return do(volume.stage, volume.publish, volume.expand)(r) },
			"snapshot, restore": func(r *rig) error { return restored(volumeOf(r)) },
		}},
		{name: "publish " + kind, setup: filled, node: do(volume.stage), run: do(volume.publish), next: map[string]func(*rig) error{
			"unpublish": do(volume.unpublish, volume.unstage),
			"stage":     do(volume.stage, volume.publish),
		}},
		{name: "unpublish " + kind, setup: filled, node: published, run: do(volume.unpublish), next: map[string]func(*rig) error{
			"publish": do(volume.publish),
			"unstage": do(volume.unpublish, volume.unstage),
		}},
		{name: "unstage " + kind, setup: filled, node: do(volume.stage), run: do(volume.unstage), next: map[string]func(*rig) error{
			"stage":  do(volume.stage, volume.publish),
			"delete": unkept(do(volume.unstage, gone)),
		}},
		{name: "expand " + kind, setup: filled, node: expanding, run: do(volume.expand), next: map[string]func(*rig) error{
			"snapshot": do(volume.snap),
			"unstage":  do(volume.unpublish, volume.unstage, volume.stage),
			"delete":   unkept(do(volume.unpublish, volume.unstage, gone)),
			"modify":   do(volume.modify),
		}},
		{name: "modify " + kind, setup: filled, node: do(volume.stage), run: do(volume.modify), next: map[string]func(*rig) error{
			"unstage": do(volume.unstage, volume.stage),
			"delete":  unkept(do(volume.unstage, gone)),
		}},
		{name: "delete used " + kind, setup: func(r *rig) { filled(r); r.must(volumeOf(r).unstage()); delete(r.kept, volumeOf(r).id()) },
			run: do(volume.remove), next: map[string]func(*rig) error{
				"create":   func(r *rig) error { return afresh(volumeOf(r)) },
				"snapshot": func(r *rig) error { return ifThere(volumeOf(r).snap()) },
			}},
	}
	// To stage a block volume in the clear changes nothing.
	return slices.DeleteFunc(all, func(o operation) bool { return o.name == "stage block" || o.name == "unstage block" })
}

// restored snapshots a volume whose stage was cut, and uses a restore of it.
func restored(v volume) error {
	if err := v.snap(); errors.Is(err, pool.ErrAborted) {
		// Its first format was cut.
		if err := errors.Join(v.stage(), v.snap()); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	copied := v
	copied.name, copied.snapshot = v.rig.volume("2", "").name, v.snapID()
	if err := copied.create(); err != nil {
		return err
	}
	return errors.Join(v.stage(), copied.stage(), copied.publish())
}
