package lvmtest

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lamina-csi/lamina/lvm"
)

func TestSteps(t *testing.T) {
	f := newFixture(t)
	var got []string
	f.h.OnStep(func(s Step) error {
		got = append(got, s.Call+" "+string(s.Point))
		return nil
	})
	f.ok(f.thin("a"))
	f.ok(f.h.Suspend("vg-a"))
	want := []string{
		"lvcreate before", "lvcreate committed", "lvcreate created", "lvcreate inactive", "lvcreate after",
		"flush before", "flush after", "flush before", "flush after", "suspend before", "suspend after",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if n := len(f.h.Commands()); n != 3 {
		t.Errorf("%d commands", n)
	}
}

func TestStepError(t *testing.T) {
	f := newFixture(t)
	broken := errors.New("exec format error")
	f.h.OnStep(func(s Step) error { return broken })
	f.is(f.thin("a"), broken)
	f.h.OnStep(nil)
	f.ok(f.thin("a"))
}

// crash runs change until it crashes at that point of the command.
func (f *fixture) crash(at Point, change func() error) {
	f.Helper()
	f.h.OnStep(func(s Step) error {
		if s.Point == at {
			return ErrCrashed
		}
		return nil
	})
	f.is(change(), ErrCrashed)
	if !f.h.Crashed() {
		f.Fatal("not crashed")
	}
	_, err := f.c.ReadVG(f.g)
	f.is(err, ErrCrashed)
	f.is(f.thin("z"), ErrCrashed)
	f.h.OnStep(nil)
	f.h.Restart()
}

func (f *fixture) transactions() [2]int64 {
	f.Helper()
	vg, err := f.c.ReadVG(f.g)
	f.ok(err)
	lv, _ := vg.LV(pool)
	status, err := f.c.PoolStatus(f.g.Name, pool)
	f.ok(err)
	return [2]int64{status.TransactionID, lv.Pool.TransactionID}
}

func TestCrashInCreate(t *testing.T) {
	tests := []struct {
		at           Point
		there        bool
		transactions [2]int64 // the kernel's, LVM's
	}{
		{Before, false, [2]int64{1, 1}},
		{Committed, true, [2]int64{1, 2}},
		{Created, true, [2]int64{1, 2}},
		{Inactive, true, [2]int64{2, 2}},
		{After, true, [2]int64{2, 2}},
	}
	for _, tt := range tests {
		t.Run(string(tt.at), func(t *testing.T) {
			f := newFixture(t)
			f.ok(f.thin("first"))
			f.crash(tt.at, func() error { return f.thin("a") })
			vg, err := f.c.ReadVG(f.g)
			f.ok(err)
			if _, there := vg.LV(lvName("a")); there != tt.there {
				t.Errorf("there %v", there)
			}
			if got := f.transactions(); got != tt.transactions {
				t.Errorf("transactions %v, want %v", got, tt.transactions)
			}
			// The pool goes on: LVM sends what is pending.
			f.ok(f.thin("b"))
			if tt.there {
				f.ok(f.c.LVActivate(f.calls, f.g, lvName("a")))
				f.write("a", 0, []byte("x"))
			}
		})
	}
}

// A snapshot that is cut between the kernel's two messages wedges the pool; the
// second message mends it.
func TestCrashInSnapshot(t *testing.T) {
	f := newFixture(t)
	f.ok(f.thin("a"))
	f.write("a", 0, []byte("old"))
	f.crash(Created, func() error { return f.snapshot("s", "a") })
	if info, err := f.h.Info("vg-a"); err != nil || !info.Suspended {
		t.Fatalf("the origin: %+v, %v", info, err)
	}
	for _, err := range []error{f.thin("b"), f.snapshot("s2", "a"), f.c.LVRemove(f.calls, f.g, lvName("s"))} {
		if err == nil || errors.Is(err, lvm.ErrNoSpace) {
			t.Errorf("a wedged pool: %v", err)
		}
	}
	f.ok(f.h.Message("vg-pool0-tpool", "set_transaction_id 1 2"))
	f.ok(f.thin("b"))
	f.ok(f.c.LVRefresh(f.calls, f.g, lvName("a")))
	f.write("a", 0, []byte("new"))
	f.ok(f.c.LVActivate(f.calls, f.g, lvName("s")))
	f.holds("s", []byte("old"))
}

func TestCrashInRemove(t *testing.T) {
	f := newFixture(t)
	f.ok(f.thin("a"))
	f.crash(Inactive, func() error { return f.c.LVRemove(f.calls, f.g, lvName("a")) })
	if _, err := f.h.Info("vg-a"); !errors.Is(err, lvm.ErrNotFound) {
		t.Errorf("still active: %v", err)
	}
	f.ok(f.c.LVRemove(f.calls, f.g, lvName("a")))
}

func TestCrashInExtend(t *testing.T) {
	f := newFixture(t)
	f.ok(f.thin("a"))
	f.h.CrashAt(2) // after the command, which left the kernel alone
	f.is(f.c.LVExtendThin(f.calls, f.g, lvName("a"), 12*mib), ErrCrashed)
	f.h.Restart()
	if size := f.device("a").Size(); size != 8*mib {
		t.Errorf("size %d", size)
	}
	f.ok(f.c.ReloadThin(f.g, lvName("a")))
	if size := f.device("a").Size(); size != 12*mib {
		t.Errorf("size %d after the reload", size)
	}
}
