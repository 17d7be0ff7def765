package lvmtest

import (
	"bytes"
	"errors"

	"github.com/lamina-csi/lamina/lvm"
)

func checkThinPool(s *suite) {
	s.makePool(64*mib + 1)
	p := s.lv("pool0")
	s.equal("type", p.Type, "thin-pool")
	s.equal("size", p.Size, int64(68*mib))
	s.equal("chunk", p.Pool.ChunkSize, int64(64<<10))
	s.equal("zero", p.Pool.Zero, true)
	status, err := s.Client.PoolStatus(s.group.Name, pool)
	s.ok(err)
	s.equal("mode", status.Mode, lvm.PoolReadWrite)
	s.equal("data chunks", []int64{status.UsedData, status.AllData}, []int64{0, 68 * 16})
	s.equal("transaction", status.TransactionID, p.Pool.TransactionID)
	if status.AllMetadata != 1024 || status.UsedMetadata <= 0 || !status.ErrorIfNoSpace || status.NeedsCheck {
		s.Fatalf("status %+v", status)
	}
	s.agree()
}

func checkThin(s *suite) {
	s.makePool(64 * mib)
	s.ok(s.Client.LVCreateThin(s.ctx, s.newLV("a-b", "lamina.name=a", "lamina.size=100000000"), pool, 100_000_000))
	l := s.lv("a-b")
	s.equal("type", l.Type, "thin")
	s.equal("size", l.Size, int64(96*mib))
	s.equal("device size", s.deviceSize("a-b"), l.Size)
	s.equal("pool", l.Thin.Pool, pool)
	s.equal("origin", l.Thin.Origin.IsZero(), true)
	s.equal("tags", sorted(l.Tags), []string{"lamina.name=a", "lamina.size=100000000"})
	s.equal("mapped", s.mapped("a-b"), int64(0))
	info := s.info("a-b")
	s.equal("state", []any{info.ReadOnly, info.Suspended, info.LiveTable, info.OpenCount}, []any{false, false, true, 0})
	if l.Created.IsZero() || l.ReadOnly || !l.Visible {
		s.Fatalf("%+v", l)
	}
	data := pattern("data", 64<<10)
	s.write(info.Path(), 10*mib, data)
	s.holds(info.Path(), 10*mib, data)
	s.holds(info.Path(), 0, make([]byte, 4096))
	s.equal("mapped", s.mapped("a-b"), int64(64<<10))
	status, err := s.Client.PoolStatus(s.group.Name, pool)
	s.ok(err)
	s.equal("used chunks", status.UsedData, int64(1))
	s.equal("transaction", status.TransactionID, s.lv("pool0").Pool.TransactionID)
	s.agree()
}

func checkThinErrors(s *suite) {
	s.makePool(64 * mib)
	s.makeThin("a", 8*mib)
	s.fails(lvm.ErrExists, func() error { return s.Client.LVCreateThin(s.ctx, s.newLV("a"), pool, 8*mib) })
	s.fails(lvm.ErrNotFound, func() error { return s.Client.LVRemove(s.ctx, s.group, lvName("none")) })
	s.fails(lvm.ErrNotFound, func() error { return s.Client.LVExtendThin(s.ctx, s.group, lvName("none"), 16*mib) })
	s.fails(lvm.ErrNotFound, func() error { return s.Client.LVActivate(s.ctx, s.group, lvName("none")) })
	s.fails(lvm.ErrNotFound, func() error {
		return s.Client.LVChangeTags(s.ctx, s.group, lvName("none"), lvTags("x"), nil)
	})
	s.fails(lvm.ErrNotFound, func() error {
		return s.Client.LVCreateSnapshot(s.ctx, lvm.LVSnapshot{NewLV: s.newLV("s"), Origin: lvName("none"), ReadOnly: true})
	})
	other := lvm.Group{Name: must(lvm.ParseVGName("lamina-other")), Devices: s.group.Devices}
	s.fails(lvm.ErrNotFound, func() error { return s.Client.LVRemove(s.ctx, other, lvName("a")) })
	s.fails(lvm.ErrNoSpace, func() error {
		return s.Client.LVCreateThinPool(s.ctx, lvm.ThinPoolCreate{
			NewLV: s.newLV("pool1"), Size: 1 << 40, MetadataSize: 4 * mib, ChunkSize: 64 << 10,
		})
	})
	for _, size := range []int64{8 * mib, 4 * mib} {
		if err := s.Client.LVExtendThin(s.ctx, s.group, lvName("a"), size); err == nil {
			s.Fatalf("extended from 8 MiB to %d bytes", size)
		}
	}
	s.equal("size", s.lv("a").Size, int64(8*mib))
	if _, err := s.Client.ThinStatus(s.group.Name, lvName("none")); !errors.Is(err, lvm.ErrNotFound) {
		s.Fatalf("status of no device: %v", err)
	}
}

// checkThinZeroes: a volume that takes over chunks does not show their content.
func checkThinZeroes(s *suite) {
	s.makePool(16 * mib)
	secret := bytes.Repeat([]byte("secret"), 4096)
	path := s.makeThin("a", 16*mib)
	for off := int64(0); off < 8*mib; off += 64 << 10 {
		s.write(path, off, secret)
	}
	s.ok(s.Client.LVRemove(s.ctx, s.group, lvName("a")))
	path = s.makeThin("b", 16*mib)
	for off := int64(0); off < 8*mib; off += 64 << 10 {
		s.write(path, off, []byte{1})
	}
	got, err := s.Read(path, 0, 8*mib)
	s.ok(err)
	if bytes.Contains(got, []byte("secret")) {
		s.Fatal("a new volume shows what a removed one held")
	}
}

// checkTags change in one commit, and keep when nothing else changes.
func checkTags(s *suite) {
	s.makePool(32 * mib)
	path := s.makeThin("a", 8*mib)
	s.write(path, 0, pattern("data", 4096))
	s.ok(s.Client.LVChangeTags(s.ctx, s.group, lvName("a"), lvTags("lamina.state=creating", "lamina.fs=new"), nil))
	seqno := s.vg().Seqno
	s.ok(s.Client.LVChangeTags(s.ctx, s.group, lvName("a"), lvTags("lamina.state=ready", "lamina.x=/=!:&#+"), lvTags("lamina.state=creating")))
	s.equal("tags", sorted(s.lv("a").Tags), []string{"lamina.fs=new", "lamina.state=ready", "lamina.x=/=!:&#+"})
	s.equal("commits", s.vg().Seqno-seqno, int64(1))
	// Repeating it is no error: a retry after a crash does.
	s.ok(s.Client.LVChangeTags(s.ctx, s.group, lvName("a"), lvTags("lamina.state=ready"), lvTags("lamina.state=creating")))
	s.equal("tags", sorted(s.lv("a").Tags), []string{"lamina.fs=new", "lamina.state=ready", "lamina.x=/=!:&#+"})
	s.holds(path, 0, pattern("data", 4096))
	s.agree()
}

func checkActivation(s *suite) {
	s.makePool(32 * mib)
	s.write(s.makeThin("a", 8*mib), 0, pattern("aaaa", 4096))
	s.write(s.makeThin("b", 8*mib), 0, pattern("bbbb", 4096))
	s.ok(s.Client.LVDeactivate(s.ctx, s.group, lvName("a"), lvName("b")))
	s.inactive("a")
	s.inactive("b")
	s.ok(s.Client.LVDeactivate(s.ctx, s.group, lvName("a")))
	// With the pool's own device away too, as after a reboot.
	s.ok(s.Client.LVDeactivate(s.ctx, s.group, pool))
	s.inactive("pool0")
	if _, err := s.Client.PoolStatus(s.group.Name, pool); !errors.Is(err, lvm.ErrNotFound) {
		s.Fatalf("status of an inactive pool: %v", err)
	}
	// Nobody else activates any of them without meaning them.
	s.command("vgchange", "--activate", "y", "--", s.group.Name.String())
	s.inactive("a")
	s.inactive("pool0")
	s.ok(s.Client.LVActivate(s.ctx, s.group, lvName("a"), lvName("b")))
	s.holds(s.path("a"), 0, pattern("aaaa", 4096))
	s.holds(s.path("b"), 0, pattern("bbbb", 4096))
	s.ok(s.Client.LVActivate(s.ctx, s.group, lvName("a")))
	_, err := s.Client.PoolStatus(s.group.Name, pool)
	s.ok(err)
	release, err := s.Hold(s.path("a"))
	s.ok(err)
	defer release()
	s.equal("open count", s.info("a").OpenCount, 1)
	s.fails(lvm.ErrInUse, func() error { return s.Client.LVDeactivate(s.ctx, s.group, lvName("a")) })
	s.holds(s.path("a"), 0, pattern("aaaa", 4096))
	s.ok(s.Client.LVRefresh(s.ctx, s.group, lvName("a")))
	s.holds(s.path("a"), 0, pattern("aaaa", 4096))
}

func checkRemove(s *suite) {
	s.makePool(32 * mib)
	s.write(s.makeThin("a", 8*mib), 0, pattern("aaaa", 4*mib))
	s.write(s.makeThin("b", 8*mib), 0, pattern("bbbb", 4096))
	s.ok(s.Client.LVRemove(s.ctx, s.group, lvName("a")))
	if _, found := s.vg().LV(lvName("a")); found {
		s.Fatal("the LV is still there")
	}
	s.inactive("a")
	status, err := s.Client.PoolStatus(s.group.Name, pool)
	s.ok(err)
	s.equal("used chunks", status.UsedData, int64(1))
	s.holds(s.path("b"), 0, pattern("bbbb", 4096))
	s.fails(lvm.ErrNotFound, func() error { return s.Client.LVRemove(s.ctx, s.group, lvName("a")) })
	s.agree()
}

func checkRemoveOpen(s *suite) {
	s.makePool(32 * mib)
	path := s.makeThin("a", 8*mib)
	s.write(path, 0, pattern("aaaa", 4096))
	release, err := s.Hold(path)
	s.ok(err)
	s.fails(lvm.ErrInUse, func() error { return s.Client.LVRemove(s.ctx, s.group, lvName("a")) })
	s.holds(path, 0, pattern("aaaa", 4096))
	if err := s.Client.Kernel().Discard(path); !errors.Is(err, lvm.ErrInUse) {
		s.Fatalf("discard of an open device: %v", err)
	}
	s.holds(path, 0, pattern("aaaa", 4096))
	release()
	s.ok(s.Client.LVRemove(s.ctx, s.group, lvName("a")))
}

func checkDiscard(s *suite) {
	s.makePool(32 * mib)
	path := s.makeThin("a", 8*mib)
	s.write(path, 0, pattern("aaaa", mib))
	s.equal("mapped", s.mapped("a"), int64(mib))
	s.ok(s.Client.Kernel().Discard(path))
	s.equal("mapped", s.mapped("a"), int64(0))
	s.holds(path, 0, make([]byte, mib))
	s.write(path, 0, pattern("bbbb", mib))
	s.ok(s.Client.Kernel().Zero(path, 4096, mib/2))
	s.holds(path, 0, pattern("bbbb", 4096))
	s.holds(path, 4096, make([]byte, mib/2-4096))
	s.holds(path, mib/2, pattern("bbbb", mib/2))
}
