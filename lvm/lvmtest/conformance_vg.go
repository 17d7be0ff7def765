package lvmtest

import (
	"errors"

	"github.com/lamina-csi/lamina/lvm"
)

func checkVersion(s *suite) {
	v, err := s.Client.Version(s.ctx)
	s.ok(err)
	if v[0] != 2 || v[1] != 3 || v[2] < 16 {
		s.Fatalf("version %v", v)
	}
}

func checkVgCreate(s *suite) {
	s.makeVG(2)
	vg := s.vg()
	s.equal("PVs", len(vg.PVs), 2)
	s.equal("tags", sorted(vg.Tags), []string{"lamina.pool=conformance"})
	s.equal("extent", vg.ExtentSize, int64(extentSize))
	s.equal("free", vg.Free(), vg.PVs[0].Size+vg.PVs[1].Size)
	if vg.MetadataSize < metadataSize {
		s.Fatalf("the metadata area has %d bytes", vg.MetadataSize)
	}
	s.agree()
	s.ok(s.Client.VGAddTag(s.ctx, s.group, lvTags("lamina.schema=1")[0]))
	s.equal("tags", sorted(s.vg().Tags), []string{"lamina.pool=conformance", "lamina.schema=1"})
}

func checkVgExtend(s *suite) {
	s.makeVG(1)
	free := s.vg().Free()
	s.ok(s.Client.VGExtend(s.ctx, s.group, s.Disks[1:2], metadataSize))
	s.group.Devices = s.Disks[:2]
	s.equal("free", s.vg().Free(), 2*free)
	s.agree()
}

func checkVgErrors(s *suite) {
	blank := lvm.Group{Name: s.group.Name, Devices: s.Disks[:1]}
	if _, err := s.Client.ReadVG(blank); !errors.Is(err, lvm.ErrNotFound) {
		s.Fatalf("reading a blank disk: %v", err)
	}
	s.makeVG(1)
	s.fails(lvm.ErrExists, func() error {
		again := lvm.Group{Name: s.group.Name, Devices: s.Disks[:2]}
		return s.Client.VGCreate(s.ctx, lvm.VGCreate{Group: again, MetadataSize: metadataSize})
	})
	other := lvm.Group{Name: must(lvm.ParseVGName("lamina-other")), Devices: s.Disks[:1]}
	err := s.Client.VGCreate(s.ctx, lvm.VGCreate{Group: other, MetadataSize: metadataSize})
	if err == nil {
		s.Fatal("a disk of another group was taken")
	}
	s.Logf("as it should: %v", err)
	if _, err := s.Client.ReadVG(other); !errors.Is(err, lvm.ErrNotFound) {
		s.Fatalf("reading a group that is not on its disks: %v", err)
	}
	s.fails(lvm.ErrNotFound, func() error { return s.Client.VGAddTag(s.ctx, other, lvTags("a")[0]) })
	err = s.Client.VGExtend(s.ctx, s.group, s.Disks[:1], metadataSize)
	if err == nil {
		s.Fatal("a disk was added twice")
	}
	s.Logf("as it should: %v", err)
	s.agree()
}

// checkMetadata is re-read only after a commit.
func checkMetadata(s *suite) {
	s.makePool(64 * mib)
	dev := s.group.Devices[0]
	raw, err := s.Client.Kernel().ReadMetadata(dev, lvm.Generation{})
	s.ok(err)
	again, err := s.Client.Kernel().ReadMetadata(dev, raw.Generation)
	s.ok(err)
	if again.Text != nil || again.Generation != raw.Generation {
		s.Fatal("metadata of a known generation was read again")
	}
	seqno := s.vg().Seqno
	generation := raw.Generation
	for _, change := range []func(){
		func() { s.makeThin("a", 8*mib) },
		func() { s.ok(s.Client.LVChangeTags(s.ctx, s.group, lvName("a"), lvTags("x"), nil)) },
		func() { s.makeSnapshot("s", "a", true) },
		func() { s.ok(s.Client.LVExtendThin(s.ctx, s.group, lvName("a"), 16*mib)) },
		func() { s.ok(s.Client.LVRemove(s.ctx, s.group, lvName("s"))) },
	} {
		before := s.vg()
		if s.vg() != before {
			s.Fatal("unchanged metadata was parsed again")
		}
		change()
		raw, err := s.Client.Kernel().ReadMetadata(dev, lvm.Generation{})
		s.ok(err)
		after := s.vg()
		if raw.Generation == generation || after == before || after.Seqno <= seqno {
			s.Fatalf("generation %v → %v, seqno %d → %d", generation, raw.Generation, seqno, after.Seqno)
		}
		generation, seqno = raw.Generation, after.Seqno
	}
	if vg := s.vg(); vg.MetadataFree <= 0 || vg.MetadataFree >= vg.MetadataSize {
		s.Fatalf("%d of %d bytes of metadata are free", vg.MetadataFree, vg.MetadataSize)
	}
}
