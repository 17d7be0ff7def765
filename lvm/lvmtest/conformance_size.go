package lvmtest

import (
	"bytes"
	"context"
	"time"

	"github.com/lamina-csi/lamina/lvm"
)

func checkExtendThin(s *suite) {
	s.makePool(32 * mib)
	path := s.makeThin("a", 8*mib)
	s.makeThin("b", 8*mib)
	s.write(path, 0, pattern("aaaa", mib))
	release, err := s.Hold(path)
	s.ok(err)
	defer release()
	s.ok(s.Client.LVExtendThin(s.ctx, s.group, lvName("a"), 100_000_000))
	s.equal("size", []int64{s.lv("a").Size, s.deviceSize("a")}, []int64{96 * mib, 96 * mib})
	s.equal("size of another", []int64{s.lv("b").Size, s.deviceSize("b")}, []int64{8 * mib, 8 * mib})
	s.equal("path", s.path("a"), path)
	s.equal("suspended", s.info("a").Suspended, false)
	s.holds(path, 0, pattern("aaaa", mib))
	s.write(path, 90*mib, pattern("end", 4096))
	s.holds(path, 90*mib, pattern("end", 4096))
	// LVM and the kernel still agree: the pool can be used.
	s.makeSnapshot("s", "a", true)
	s.equal("size of a snapshot", s.lv("s").Size, int64(96*mib))
	s.snapshotHolds("s", pattern("aaaa", mib))
	s.agree()
}

// checkExtendThinInterrupted stops between the metadata and the device.
func checkExtendThinInterrupted(s *suite) {
	s.makePool(32 * mib)
	path := s.makeThin("a", 8*mib)
	s.write(path, 0, pattern("aaaa", mib))
	stop, cancel := context.WithCancel(s.ctx)
	defer cancel()
	// Only the first half: the kernel that this client knows has no device.
	half := lvm.New(s.Runner, noDevices{s.Client.Kernel()}, lvm.Options{})
	s.ok(half.LVExtendThin(stop, s.group, lvName("a"), 16*mib))
	s.equal("size", []int64{s.lv("a").Size, s.deviceSize("a")}, []int64{16 * mib, 8 * mib})
	s.holds(path, 0, pattern("aaaa", mib))
	s.ok(s.Client.ReloadThin(s.group, lvName("a")))
	s.equal("device size", s.deviceSize("a"), int64(16*mib))
	s.ok(s.Client.ReloadThin(s.group, lvName("a")))
	s.holds(path, 0, pattern("aaaa", mib))
	s.agree()
}

// noDevices is a kernel on which nothing is active.
type noDevices struct{ lvm.Kernel }

func (noDevices) Info(string) (lvm.DeviceInfo, error) { return lvm.DeviceInfo{}, lvm.ErrNotFound }
func (noDevices) Table(string) ([]lvm.Target, error)  { return nil, lvm.ErrNotFound }

func checkExtendThinInactive(s *suite) {
	s.makePool(32 * mib)
	s.makeThin("a", 8*mib)
	s.ok(s.Client.LVDeactivate(s.ctx, s.group, lvName("a")))
	s.ok(s.Client.LVExtendThin(s.ctx, s.group, lvName("a"), 16*mib))
	s.inactive("a")
	s.ok(s.Client.LVActivate(s.ctx, s.group, lvName("a")))
	s.equal("device size", s.deviceSize("a"), int64(16*mib))
}

func checkExtendPool(s *suite) {
	s.makePool(16 * mib)
	path := s.makeThin("a", 64*mib)
	s.write(path, 0, pattern("aaaa", mib))
	s.ok(s.Client.LVExtend(s.ctx, s.group, pool, 64*mib))
	s.ok(s.Client.LVExtendPoolMetadata(s.ctx, s.group, pool, 8*mib))
	status, err := s.Client.PoolStatus(s.group.Name, pool)
	s.ok(err)
	s.equal("status", []int64{status.UsedData, status.AllData, status.AllMetadata}, []int64{16, 64 * 16, 2048})
	s.equal("size", s.lv("pool0").Size, int64(64*mib))
	s.equal("suspended", s.info("a").Suspended, false)
	s.holds(path, 0, pattern("aaaa", mib))
	s.fails(lvm.ErrNoSpace, func() error { return s.Client.LVExtend(s.ctx, s.group, pool, 64*mib+s.vg().Free()+1) })
	s.fails(lvm.ErrNoSpace, func() error { return s.Client.LVExtendPoolMetadata(s.ctx, s.group, pool, 8<<30) })
	s.agree()
}

// checkConvertPool makes a pool whose data lies on raid1, and extends it.
func checkConvertPool(s *suite) {
	s.makeVG(2)
	s.ok(s.Client.LVCreateThick(s.ctx, s.newLV("pool0", "lamina.kind=pool"), 16*mib, lvm.Layout{Type: lvm.Raid1}))
	s.ok(s.Client.LVCreateThick(s.ctx, s.newLV("meta"), 4*mib, lvm.Layout{Type: lvm.Raid1}))
	s.ok(s.Client.LVConvertThinPool(s.ctx, s.group, pool, lvName("meta"), 64<<10))
	p := s.lv("pool0")
	s.equal("type", p.Type, "thin-pool")
	s.equal("size", p.Size, int64(16*mib))
	s.equal("chunk", p.Pool.ChunkSize, int64(64<<10))
	s.equal("zero", p.Pool.Zero, true)
	s.agree()
	path := s.makeThin("a", 64*mib)
	s.write(path, 0, pattern("aaaa", mib))
	s.ok(s.Client.LVExtend(s.ctx, s.group, pool, 32*mib))
	s.ok(s.Client.LVExtendPoolMetadata(s.ctx, s.group, pool, 8*mib))
	status, err := s.Client.PoolStatus(s.group.Name, pool)
	s.ok(err)
	s.equal("status", []int64{status.UsedData, status.AllData, status.AllMetadata}, []int64{16, 32 * 16, 2048})
	s.holds(path, 0, pattern("aaaa", mib))
	s.agree()
}

// checkExtendPoolMetadata: LVM grows the metadata with the data, 64 bytes a chunk.
func checkExtendPoolMetadata(s *suite) {
	s.makePool(16 * mib)
	s.ok(s.Client.VGExtend(s.ctx, s.group, s.Disks[1:4], metadataSize))
	s.group.Devices = s.Disks[:4]
	s.makeThin("a", 64*mib)
	s.ok(s.Client.LVExtend(s.ctx, s.group, pool, 5<<30))
	status, err := s.Client.PoolStatus(s.group.Name, pool)
	s.ok(err)
	s.equal("status", []int64{status.AllData, status.AllMetadata}, []int64{5 << 14, 2048})
	s.agree()
}

// checkPoolFills crosses the low-water mark, which LVM sets where lvm.conf's
// threshold of 95 % is.
func checkPoolFills(s *suite) {
	s.makePool(32 * mib)
	path := s.makeThin("a", 64*mib)
	s.write(path, 0, pattern("aaaa", 30*mib))
	s.makeThin("b", 8*mib)
	drain(s)
	event := make(chan error, 1)
	go func() { event <- s.Client.Kernel().WaitEvent(s.ctx) }()
	s.write(path, 30*mib, pattern("aaaa", mib))
	s.ok(<-event)
	status, err := s.Client.PoolStatus(s.group.Name, pool)
	s.ok(err)
	s.equal("chunks", []int64{status.UsedData, status.AllData}, []int64{31 * 16, 32 * 16})
	s.fails(lvm.ErrNoSpace, func() error { return s.Client.LVCreateThin(s.ctx, s.newLV("c"), pool, 8*mib) })
	s.fails(lvm.ErrNoSpace, func() error {
		return s.Client.LVCreateSnapshot(s.ctx, lvm.LVSnapshot{NewLV: s.newLV("s"), Origin: lvName("a"), ReadOnly: true})
	})
	s.ok(s.Client.LVExtend(s.ctx, s.group, pool, 64*mib))
	s.makeThin("c", 8*mib)
	s.holds(path, 0, pattern("aaaa", 31*mib))
}

func drain(s *suite) {
	s.Helper()
	for {
		ctx, cancel := context.WithTimeout(s.ctx, 200*time.Millisecond)
		err := s.Client.Kernel().WaitEvent(ctx)
		cancel()
		if err != nil {
			return
		}
	}
}

func checkThick(s *suite, layout lvm.Layout) {
	s.makeVG(len(s.Disks))
	s.ok(s.Client.LVCreateThick(s.ctx, s.newLV("a", "x"), 13*mib, layout))
	size := s.lv("a").Size
	if size != 16*mib {
		s.Fatalf("size %d", size)
	}
	kind := string(layout.Type)
	if layout.Type == lvm.Linear {
		kind = "striped"
	}
	s.equal("type", s.lv("a").Type, kind)
	s.equal("tags", sorted(s.lv("a").Tags), []string{"x"})
	path := s.path("a")
	data := pattern("aaaabbbbccccdddd", 16*mib)
	s.write(path, 0, data)
	s.ok(s.Client.LVExtend(s.ctx, s.group, lvName("a"), 40*mib))
	s.equal("size", []int64{s.lv("a").Size, s.deviceSize("a")}, []int64{40 * mib, 40 * mib})
	s.holds(path, 0, data)
	s.write(path, 30*mib, pattern("end", mib))
	s.agree()
	s.ok(s.Client.LVDeactivate(s.ctx, s.group, lvName("a")))
	s.ok(s.Client.LVActivate(s.ctx, s.group, lvName("a")))
	s.holds(s.path("a"), 0, data)
	s.holds(s.path("a"), 30*mib, pattern("end", mib))
	s.fails(lvm.ErrExists, func() error {
		return s.Client.LVCreateThick(s.ctx, s.newLV("a"), 8*mib, layout)
	})
	free := s.vg().Free()
	s.ok(s.Client.LVRemove(s.ctx, s.group, lvName("a")))
	if s.vg().Free() <= free {
		s.Fatal("removal freed nothing")
	}
	s.equal("LVs", len(s.vg().LVs), 0)
	s.agree()
}

func checkThickNoSpace(s *suite) {
	s.makeVG(1)
	free := s.vg().Free()
	s.fails(lvm.ErrNoSpace, func() error {
		return s.Client.LVCreateThick(s.ctx, s.newLV("a"), free+1, lvm.Layout{Type: lvm.Linear})
	})
	s.fails(lvm.ErrNoSpace, func() error {
		return s.Client.LVCreateThick(s.ctx, s.newLV("a"), 16*mib, lvm.Layout{Type: lvm.Raid1})
	})
	s.ok(s.Client.LVCreateThick(s.ctx, s.newLV("a"), free, lvm.Layout{Type: lvm.Linear}))
	s.equal("free", s.vg().Free(), int64(0))
	s.fails(lvm.ErrNoSpace, func() error { return s.Client.LVExtend(s.ctx, s.group, lvName("a"), free+1) })
	s.agree()
}

// checkThickOldContent: a thick volume shows what was there; the caller must zero it.
func checkThickOldContent(s *suite) {
	s.makeVG(1)
	secret := pattern("secret", mib)
	s.ok(s.Client.LVCreateThick(s.ctx, s.newLV("a"), 8*mib, lvm.Layout{Type: lvm.Linear}))
	s.write(s.path("a"), 0, secret)
	s.ok(s.Client.LVRemove(s.ctx, s.group, lvName("a")))
	s.ok(s.Client.LVCreateThick(s.ctx, s.newLV("b"), 8*mib, lvm.Layout{Type: lvm.Linear}))
	got, err := s.Read(s.path("b"), 0, mib)
	s.ok(err)
	if !bytes.Equal(got, secret) {
		s.Fatal("the content is gone: zeroing before use would be needless")
	}
	s.ok(s.Client.Kernel().Zero(s.path("b"), 0, 8*mib))
	s.holds(s.path("b"), 0, make([]byte, 8*mib))
}
