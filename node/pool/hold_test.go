package pool

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lamina-csi/lamina/lvm/lvmtest"
)

// held starts a hold and waits until it stands. end tells how it ended.
func (g *grouped) held(t *testing.T, ctx context.Context, part GroupPart) (end <-chan error) {
	t.Helper()
	held, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- g.HoldGroup(ctx, part, func() error { close(held); return nil }) }()
	select {
	case <-held:
	case err := <-ended:
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(g.devices)), g.holder.list()); diff != "" {
		t.Errorf("frozen (-want +got):\n%s", diff)
	}
	return ended
}

// gone fails unless the hold has ended and its members can be made no more.
func (g *grouped) gone(t *testing.T, part GroupPart) {
	t.Helper()
	if frozen := g.holder.list(); len(frozen) > 0 {
		t.Errorf("frozen: %v", frozen)
	}
	if err := g.SnapshotHeld(t.Context(), part); !errors.Is(err, ErrAborted) {
		t.Errorf("snapshot: %v", err)
	}
	if _, err := g.CommitGroup(t.Context(), part); !errors.Is(err, ErrNotFound) {
		t.Errorf("commit: %v", err)
	}
	// The next attempt finds all locks free.
	if _, err := g.make(t, g.part("next")); err != nil {
		t.Errorf("next attempt: %v", err)
	}
}

// Writers go on when the caller is gone, whatever he meant to do.
func TestHoldEnds(t *testing.T) {
	for _, made := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			g := newGrouped(t)
			ctx, cancel := context.WithCancel(t.Context())
			part := g.part("x")
			ended := g.held(t, ctx, part)
			if err := g.SnapshotHeld(ctx, g.part("y")); !errors.Is(err, ErrAborted) {
				t.Errorf("of another instant: %v", err)
			}
			if made {
				if err := g.SnapshotHeld(ctx, part); err != nil {
					t.Error(err)
				}
				if err := <-ended; err != nil { // though the caller is still there
					t.Error(err)
				}
				if err := g.SnapshotHeld(ctx, part); !errors.Is(err, ErrAborted) {
					t.Errorf("again: %v", err)
				}
				if list, err := g.ListSnapshots(); err != nil || len(list) != 0 {
					t.Errorf("listed: %v, %v", list, err)
				}
			}
			cancel()
			if !made {
				if err := <-ended; err != nil {
					t.Error(err)
				}
				g.gone(t, part)
				return
			}
			if _, err := g.CommitGroup(ctx, part); !errors.Is(err, ErrAborted) {
				t.Errorf("commit of a caller who is gone: %v", err)
			}
			group, err := g.CommitGroup(t.Context(), part)
			if err != nil {
				t.Fatal(err)
			}
			g.complete(t, group)
		})
	}
}

// At the limit writers go on, though lvcreate hangs and the caller waits.
func TestHoldLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGrouped(t)
		hang, start := make(chan struct{}), time.Now()
		made := 0
		g.host.OnStep(func(s lvmtest.Step) error {
			if s.Call == "lvcreate" && s.Point == lvmtest.Before {
				if made++; made == 3 {
					<-hang
				}
			}
			return nil
		})
		part := g.part("x")
		ended := g.held(t, t.Context(), part)
		err := g.SnapshotHeld(t.Context(), part)
		if !errors.Is(err, ErrPending) {
			t.Errorf("snapshot: %v", err)
		}
		if took := time.Since(start); took != HoldLimit {
			t.Errorf("took %s", took)
		}
		if err := <-ended; !errors.Is(err, ErrAborted) {
			t.Errorf("hold: %v", err)
		}
		if frozen := g.holder.list(); len(frozen) > 0 {
			t.Errorf("frozen: %v", frozen)
		}
		close(hang) // the third snapshot is made after all, and is of no instant
		synctest.Wait()
		if list, err := g.all(kindSnapshot); err != nil || len(list) != 3 {
			t.Errorf("made: %d, %v", len(list), err)
		}
		group, err := g.make(t, g.part("next"))
		if err != nil {
			t.Fatal(err)
		}
		g.complete(t, group)
	})
}

// The last lvcreate ends in time and its writers have gone on meanwhile.
func TestHoldLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGrouped(t)
		ctx, cancel := context.WithCancel(t.Context())
		part := g.part("x")
		ended := g.held(t, ctx, part)
		made := 0
		g.host.OnStep(func(s lvmtest.Step) error {
			if s.Call == "lvcreate" && s.Point == lvmtest.After {
				if made++; made == 3 {
					cancel()
					synctest.Wait()
				}
			}
			return nil
		})
		if err := g.SnapshotHeld(t.Context(), part); !errors.Is(err, ErrPending) && !errors.Is(err, ErrAborted) {
			t.Errorf("snapshot: %v", err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if list, err := g.all(kindSnapshot); err != nil || len(list) != 3 {
			t.Errorf("made: %d, %v", len(list), err)
		}
		g.host.OnStep(nil)
		if instant, err := g.PrepareGroup(t.Context(), g.part("z")); err != nil || instant != "" {
			t.Errorf("prepare: %q, %v", instant, err)
		}
		g.gone(t, part)
	})
}

// While one freeze hangs, what is frozen already is thawed at the limit; what the
// freeze gets in the end, at once.
func TestFreezeHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGrouped(t)
		hang := make(chan struct{})
		calls := 0
		g.holder.before = func(string) {
			if calls++; calls == 3 {
				<-hang
			}
		}
		ended := make(chan error, 1)
		go func() {
			ended <- g.HoldGroup(t.Context(), g.part("x"), func() error { return errors.New("it is not held") })
		}()
		synctest.Wait()
		if frozen := g.holder.list(); len(frozen) != 2 {
			t.Errorf("frozen: %v", frozen)
		}
		time.Sleep(HoldLimit)
		synctest.Wait()
		if frozen := g.holder.list(); len(frozen) != 0 {
			t.Errorf("frozen at the limit: %v", frozen)
		}
		close(hang)
		if err := <-ended; !errors.Is(err, ErrAborted) {
			t.Errorf("hold: %v", err)
		}
		g.gone(t, g.part("x"))
	})
}

// An agent that is killed leaves file systems frozen; the next one thaws them and
// knows of no hold.
func TestRestartWhileHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGrouped(t)
		part := g.part("x")
		ended := g.held(t, t.Context(), part)
		g.restart(t)
		g.gone(t, part)
		if err := <-ended; !errors.Is(err, ErrAborted) { // of the dead one
			t.Error(err)
		}
	})
}

// What was made before the agent was killed can be committed after.
func TestRestartBeforeCommit(t *testing.T) {
	g := newGrouped(t)
	part := g.part("x")
	if err := g.snapshotHeld(t.Context(), part); err != nil {
		t.Fatal(err)
	}
	g.restart(t)
	for range 2 {
		group, err := g.CommitGroup(t.Context(), part)
		if err != nil {
			t.Fatal(err)
		}
		g.complete(t, group)
	}
}

// Groups that share a volume follow each other.
func TestGroupsOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGrouped(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := g.held(t, ctx, g.part("x"))
		other := g.part("y", g.sources[1:]...)
		other.Name = "other"
		second := make(chan error, 1)
		go func() { second <- g.snapshotHeld(t.Context(), other) }()
		third := make(chan error, 1)
		go func() { _, err := g.CreateGroup(t.Context(), "third", g.sources[:2]); third <- err }()
		synctest.Wait()
		if list, err := g.all(kindSnapshot); err != nil || len(list) != 0 {
			t.Errorf("made: %d, %v", len(list), err)
		}
		cancel()
		for _, err := range []error{<-ended, <-second, <-third} {
			if err != nil {
				t.Error(err)
			}
		}
		if frozen := g.holder.list(); len(frozen) != 0 {
			t.Errorf("frozen: %v", frozen)
		}
	})
}

func TestHoldRefused(t *testing.T) {
	g := newGrouped(t)
	missing := ID{g.sources[0].VG, volumeLV("missing")}
	for _, tt := range []struct {
		what string
		part GroupPart
		want error
	}{
		{"no volume", GroupPart{Name: "backup", First: g.sources[0], Total: 2, Instant: "x"}, ErrInvalid},
		{"too small a whole", GroupPart{Name: "backup", Sources: g.sources, First: g.sources[0], Total: 2, Instant: "x"}, ErrInvalid},
		{"another is the first", GroupPart{Name: "backup", Sources: g.sources[:2], First: g.sources[1], Total: 4, Instant: "x"}, ErrInvalid},
		{"no instant", g.part(""), ErrInvalid},
		{"a volume that is gone", g.part("x", g.sources[0], missing), ErrNotFound},
		{"an unknown volume group", g.part("x", g.sources[0], ID{"zzzzzz-zzzz-zzzz-zzzz-zzzz-zzzz-zzzzzz", g.sources[1].LV}), ErrUnavailable},
	} {
		hold := g.HoldGroup(t.Context(), tt.part, func() error { return nil })
		_, prepare := g.PrepareGroup(t.Context(), tt.part)
		if !errors.Is(hold, tt.want) || !errors.Is(prepare, tt.want) {
			t.Errorf("%s: %v; %v", tt.what, hold, prepare)
		}
	}
	g.holder.block[g.devices[1]] = true
	err := g.HoldGroup(t.Context(), g.part("x"), func() error { t.Error("it is held"); return nil })
	if !errors.Is(err, ErrBusy) {
		t.Errorf("a block volume that a pod uses: %v", err)
	}
	// It is alone on this node, and not in its group.
	if err := g.HoldGroup(t.Context(), g.part("x", g.blockVolume(t)), nil); !errors.Is(err, ErrBusy) {
		t.Errorf("a block volume, alone on its node: %v", err)
	}
	g.holder.block = map[string]bool{}
	if err := g.snapshotHeld(t.Context(), g.part("x")); err != nil {
		t.Fatal(err)
	}
	if err := g.HoldGroup(t.Context(), g.part("y"), nil); !errors.Is(err, ErrAborted) {
		t.Errorf("over an attempt that was cut short: %v", err)
	}
	if _, err := g.CommitGroup(t.Context(), g.part("y")); !errors.Is(err, ErrNotFound) {
		t.Errorf("commit of another instant: %v", err)
	}
	if frozen := g.holder.list(); len(frozen) > 0 {
		t.Errorf("frozen: %v", frozen)
	}
	g.gone(t, g.part("y"))
}

// blockVolume is the one that the holder cannot freeze.
func (g *grouped) blockVolume(t *testing.T) ID {
	t.Helper()
	for _, id := range g.sources {
		if d, err := g.ActiveDevice(id); err == nil && g.holder.block[d] {
			return id
		}
	}
	t.Fatal("there is none")
	return ID{}
}
