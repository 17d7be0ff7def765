package lvmtest

import (
	"errors"
	"fmt"

	"github.com/lamina-csi/lamina/lvm"
)

func checkSnapshot(s *suite) {
	s.makePool(32 * mib)
	path := s.makeThin("a", 8*mib)
	before, after := pattern("before", mib), pattern("after", mib)
	s.write(path, 0, before)
	s.ok(s.Client.LVCreateSnapshot(s.ctx, lvm.LVSnapshot{
		NewLV: s.newLV("snap-1", "lamina.kind=snapshot"), Origin: lvName("a"), ReadOnly: true,
	}))
	l := s.lv("snap-1")
	s.equal("snapshot", []any{l.ReadOnly, l.Type, l.Size, l.Thin.Origin, l.Thin.Pool},
		[]any{true, "thin", int64(8 * mib), lvName("a"), pool})
	s.equal("tags", sorted(l.Tags), []string{"lamina.kind=snapshot"})
	s.inactive("snap-1")
	s.equal("origin suspended", s.info("a").Suspended, false)
	status, err := s.Client.PoolStatus(s.group.Name, pool)
	s.ok(err)
	s.equal("used chunks: they are shared", status.UsedData, int64(16))
	s.write(path, 0, after)
	s.holds(path, 0, after)
	s.snapshotHolds("snap-1", before)
	s.ok(s.Client.LVActivate(s.ctx, s.group, lvName("snap-1")))
	s.equal("read-only device", s.info("snap-1").ReadOnly, true)
	if err := s.Write(s.path("snap-1"), 0, after); err == nil {
		s.Fatal("a read-only snapshot was written")
	}
	s.holds(s.path("snap-1"), 0, before)
	s.agree()
}

// checkClone: a writable snapshot, of a volume and of a snapshot.
func checkClone(s *suite) {
	s.makePool(32 * mib)
	path := s.makeThin("a", 8*mib)
	s.write(path, 0, pattern("aaaa", mib))
	s.makeSnapshot("s", "a", true)
	s.makeSnapshot("c", "a", false)
	s.makeSnapshot("r", "s", false)
	for _, name := range []string{"c", "r"} {
		l := s.lv(name)
		s.equal("read-only", []bool{l.ReadOnly, s.info(name).ReadOnly}, []bool{false, false})
		s.holds(s.path(name), 0, pattern("aaaa", mib))
		s.write(s.path(name), 0, pattern(name, mib))
	}
	s.holds(path, 0, pattern("aaaa", mib))
	s.holds(s.path("c"), 0, pattern("c", mib))
	s.holds(s.path("r"), 0, pattern("r", mib))
	s.snapshotHolds("s", pattern("aaaa", mib))
	s.agree()
}

func checkSnapshotOfInactive(s *suite) {
	s.makePool(32 * mib)
	s.write(s.makeThin("a", 8*mib), 0, pattern("aaaa", mib))
	s.ok(s.Client.LVDeactivate(s.ctx, s.group, lvName("a")))
	s.ok(s.Client.LVDeactivate(s.ctx, s.group, pool))
	s.makeSnapshot("s", "a", true)
	s.inactive("a")
	s.inactive("s")
	s.ok(s.Client.LVActivate(s.ctx, s.group, lvName("a")))
	s.write(s.path("a"), 0, pattern("bbbb", mib))
	s.snapshotHolds("s", pattern("aaaa", mib))
	s.agree()
}

func checkSnapshotOutlivesOrigin(s *suite) {
	s.makePool(32 * mib)
	s.write(s.makeThin("a", 8*mib), 0, pattern("aaaa", mib))
	s.makeSnapshot("s", "a", true)
	s.makeSnapshot("c", "s", false)
	s.ok(s.Client.LVRemove(s.ctx, s.group, lvName("a")))
	s.equal("origin", s.lv("s").Thin.Origin.IsZero(), true)
	s.equal("origin", s.lv("c").Thin.Origin, lvName("s"))
	s.snapshotHolds("s", pattern("aaaa", mib))
	s.ok(s.Client.LVRemove(s.ctx, s.group, lvName("s")))
	s.equal("origin", s.lv("c").Thin.Origin.IsZero(), true)
	s.holds(s.path("c"), 0, pattern("aaaa", mib))
	s.agree()
}

// checkSnapshotOfSuspended holds why the agent refuses to snapshot a suspended
// volume, and freezes file systems for a group: of an origin that somebody else
// suspended, LVM makes no snapshot and says that it did. An LVM that does better
// fails here, and can be used in a plainer way.
func checkSnapshotOfSuspended(s *suite) {
	s.makePool(32 * mib)
	s.makeThin("a", 8*mib)
	s.ok(s.Client.Kernel().Suspend(s.dm("a")))
	err := s.Client.LVCreateSnapshot(s.ctx, lvm.LVSnapshot{NewLV: s.newLV("s"), Origin: lvName("a"), ReadOnly: true})
	if rerr := s.Client.Kernel().Resume(s.dm("a")); rerr != nil {
		s.Error(rerr)
	}
	s.ok(err)
	status, err := s.Client.PoolStatus(s.group.Name, pool)
	s.ok(err)
	s.equal("transaction", []int64{status.TransactionID, s.lv("pool0").Pool.TransactionID}, []int64{1, 2})
	// Nothing can be made in the pool from now on. That is no lack of space.
	err = s.Client.LVCreateThin(s.ctx, s.newLV("b"), pool, 8*mib)
	if err == nil || errors.Is(err, lvm.ErrNoSpace) {
		s.Fatalf("error is %v", err)
	}
	s.Logf("as it should: %v", err)
	// The repair: make what LVM believes to be there.
	tpool := lvm.DMName(s.group.Name, pool, "tpool")
	snap := s.lv("s").Thin
	s.ok(s.Client.Kernel().Message(tpool, fmt.Sprintf("create_snap %d %d", snap.DeviceID, s.lv("a").Thin.DeviceID)))
	s.ok(s.Client.Kernel().Message(tpool, "set_transaction_id 1 2"))
	s.makeThin("b", 8*mib)
	s.ok(s.Client.LVRemove(s.ctx, s.group, lvName("s")))
}
