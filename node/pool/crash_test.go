package pool

import (
	"errors"
	"testing"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
	"github.com/lamina-csi/lamina/test/invariant"
)

// Wherever the agent, or lvm, is cut in an operation, the same call made again
// succeeds, nothing is there twice, and the pool goes on.
func TestCrashAndRetry(t *testing.T) {
	type state struct {
		*node
		vol  Volume
		snap Snapshot
	}
	prepare := func(t *testing.T, s Spec) *state {
		n := newNode(t, s, "/dev/nvme0n1")
		st := &state{node: n, vol: n.create(t, CreateVolume{Name: "vol", Required: 64 * mib})}
		write(t, n.device(t, st.vol.ID), "data")
		if s.Mode == Thin {
			st.snap = n.snapshot(t, "snap", st.vol.ID)
		}
		return st
	}
	create := func(s *state, req CreateVolume) error {
		req.Pool, req.FS = "fast", FSNew
		_, err := s.CreateVolume(t.Context(), req)
		return err
	}
	ops := []struct {
		name    string
		mode    Mode
		volumes int // afterwards
		run     func(s *state) error
	}{
		{"create", Thin, 2, func(s *state) error { return create(s, CreateVolume{Name: "new", Required: gib}) }},
		{"create thick", Thick, 2, func(s *state) error { return create(s, CreateVolume{Name: "new", Required: 64 * mib}) }},
		{"clone", Thin, 2, func(s *state) error { return create(s, CreateVolume{Name: "new", Source: &Source{ID: s.vol.ID}}) }},
		{"restore larger", Thin, 2, func(s *state) error {
			return create(s, CreateVolume{Name: "new", Required: gib, Source: &Source{ID: s.snap.ID, Snapshot: true}})
		}},
		{"snapshot", Thin, 1, func(s *state) error { _, err := s.CreateSnapshot(t.Context(), "other", s.vol.ID); return err }},
		{"group", Thin, 1, func(s *state) error { _, err := s.CreateGroup(t.Context(), "group", []ID{s.vol.ID}); return err }},
		{"expand", Thin, 1, func(s *state) error { _, err := s.ExpandVolume(t.Context(), s.vol.ID, gib, 0); return err }},
		{"expand thick", Thick, 1, func(s *state) error { _, err := s.ExpandVolume(t.Context(), s.vol.ID, 128*mib, 0); return err }},
		{"limit", Thin, 1, func(s *state) error { return s.SetLimits(t.Context(), s.vol.ID, Limits{ReadIOPS: 1}) }},
		{"delete", Thin, 0, func(s *state) error { return s.DeleteVolume(t.Context(), s.vol.ID) }},
		{"delete thick", Thick, 0, func(s *state) error { return s.DeleteVolume(t.Context(), s.vol.ID) }},
		{"delete snapshot", Thin, 1, func(s *state) error { return s.DeleteSnapshot(t.Context(), s.snap.ID) }},
	}
	for _, op := range ops {
		t.Run(op.name, func(t *testing.T) {
			spec := spec(func(s *Spec) { s.Mode = op.mode })
			s := prepare(t, spec)
			before := s.host.Steps()
			if err := op.run(s); err != nil {
				t.Fatal(err)
			}
			steps := s.host.Steps() - before
			if steps < 2 {
				t.Fatalf("%d steps", steps)
			}
			for at := 2; at < 2*steps+2; at++ {
				s, step := prepare(t, spec), at/2
				if at%2 == 0 {
					s.host.CrashAt(step)
					_ = op.run(s) // it may have been done when it was cut
					s.host.Restart()
					s.start(t)
					if err := s.ensure(spec); err != nil {
						t.Fatalf("cut at step %d: pool: %v", step, err)
					}
				} else {
					// Only the command is killed: the agent lives, and mends.
					begin := s.host.Steps()
					s.host.OnStep(func(now lvmtest.Step) error {
						if now.N == begin+step {
							return errors.New("killed")
						}
						return nil
					})
					_ = op.run(s)
				}
				if err := op.run(s); err != nil {
					t.Fatalf("cut at step %d: again: %v", step, err)
				}
				list, err := s.ListVolumes()
				if err != nil || len(list) != op.volumes {
					t.Errorf("cut at step %d: %d volumes, want %d (%v)", step, len(list), op.volumes, err)
				}
				if err := create(s, CreateVolume{Name: "next", Required: 64 * mib}); err != nil {
					t.Errorf("cut at step %d: the next volume: %v", step, err)
				}
				if op.volumes > 0 {
					if got := read(t, s.device(t, s.vol.ID), 4); got != "data" {
						t.Errorf("cut at step %d: the volume holds %q", step, got)
					}
				}
			}
		})
	}
}

// A call that was cut between lvextend and the reload of the device leaves the
// device smaller than the metadata: the next start ends it, and so does the same
// call, without a restart.
func TestHalfExpandedDevice(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	v := n.create(t, CreateVolume{Name: "vol", Required: 64 * mib})
	larger := CreateVolume{Name: "larger", Pool: "fast", Required: gib, FS: FSNew, Source: &Source{ID: v.ID}}
	cut := errors.New("the reload fails")
	n.host.OnStep(func(s lvmtest.Step) error {
		if s.Call == "load" && s.Point == lvmtest.Before {
			return cut
		}
		return nil
	})
	if _, err := n.CreateVolume(t.Context(), larger); !errors.Is(err, cut) {
		t.Fatalf("create: %v", err)
	}
	if _, err := n.ExpandVolume(t.Context(), v.ID, gib, 0); !errors.Is(err, cut) {
		t.Fatalf("expand: %v", err)
	}
	n.host.OnStep(nil)
	size := func(id ID) int64 {
		table, err := n.host.Table(lvm.DMName(n.group(t, v).Name, id.LV, ""))
		if err != nil || len(table) != 1 {
			t.Fatalf("%v, %v", table, err)
		}
		return int64(table[0].Length) * 512
	}
	made, err := n.CreateVolume(t.Context(), larger)
	if err != nil || size(made.ID) != gib {
		t.Errorf("created again: a device of %d bytes, %v", size(made.ID), err)
	}
	if size(v.ID) != 64*mib {
		t.Fatalf("the device of the expanded volume has %d bytes already", size(v.ID))
	}
	if n.start(t); size(v.ID) != gib {
		t.Errorf("after the start: a device of %d bytes", size(v.ID))
	}
}

// A snapshot that a power cut left between create_snap and set_transaction_id keeps
// LVM from activating the pool: it is finished first. A new volume in that state is
// finished too, so that what was created again is there.
func TestHalfMadeThinVolume(t *testing.T) {
	for _, reboot := range []bool{false, true} {
		for _, snapshot := range []bool{false, true} {
			n := newNode(t, spec(), "/dev/nvme0n1")
			v := n.create(t, CreateVolume{Name: "vol", Required: 64 * mib})
			write(t, n.device(t, v.ID), "data")
			again := func() (ID, error) {
				if snapshot {
					s, err := n.CreateSnapshot(t.Context(), "snap", v.ID)
					return s.ID, err
				}
				v, err := n.CreateVolume(t.Context(), CreateVolume{Name: "other", Pool: "fast", Required: gib, FS: FSNew})
				return v.ID, err
			}
			n.host.OnStep(func(s lvmtest.Step) error {
				if s.Point == lvmtest.Created {
					return lvmtest.ErrCrashed
				}
				return nil
			})
			if _, err := again(); !errors.Is(err, lvmtest.ErrCrashed) {
				t.Fatal(err)
			}
			n.host.OnStep(nil)
			if n.host.Restart(); reboot {
				n.host.Reboot()
			}
			n.start(t)
			if err := n.ensure(spec()); err != nil {
				t.Fatalf("reboot %t, snapshot %t: %v", reboot, snapshot, err)
			}
			if err := invariant.Check(t.Context(), invariant.Memory(n.host, nil)); err != nil {
				t.Errorf("reboot %t, snapshot %t: %v", reboot, snapshot, err)
			}
			if _, err := again(); err != nil {
				t.Errorf("reboot %t, snapshot %t: again: %v", reboot, snapshot, err)
			}
		}
	}
}
