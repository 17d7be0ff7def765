package pool

import (
	"errors"
	"strings"
	"testing"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
	"github.com/lamina-csi/lamina/test/invariant"
)

// A disk that appears extends the pool, in one step.
func TestPoolTakesANewDisk(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	v := n.create(t, CreateVolume{Name: "a", Required: gib})
	write(t, n.device(t, v.ID), "kept")
	before := n.Statuses()[0]
	growths := n.expedited(t)
	defer growths(1)
	n.host.AddDisk("/dev/nvme1n1", 10*gib)
	if err := n.ensure(spec(), disk(t, "/dev/nvme1n1")); err != nil {
		t.Fatal(err)
	}
	after := n.Statuses()[0]
	if after.Size < before.Size*19/10 || len(after.Disks) != 2 || after.Health != HealthOK {
		t.Errorf("before %+v\nafter %+v", before, after)
	}
	if got := read(t, n.device(t, v.ID), 4); got != "kept" {
		t.Errorf("the volume holds %q", got)
	}
	if cost := n.commands(t, func() {
		if err := n.Grow(t.Context()); err != nil {
			t.Error(err)
		}
	}); len(cost) != 0 {
		t.Errorf("nothing to grow cost %v", cost)
	}
}

// expedited checks that each growth of the pool runs with the kernel's waits
// expedited, which would stall every volume for longer otherwise, and none after
// it; the function returned checks how many growths there were.
func (n *node) expedited(t *testing.T) func(want int) {
	growths := 0
	n.host.OnStep(func(s lvmtest.Step) error {
		if s.Command.Name == "lvextend" && s.Point == lvmtest.Before {
			growths++
			if !n.host.Expedited() {
				t.Errorf("%v runs without", s.Command)
			}
		}
		return nil
	})
	return func(want int) {
		t.Helper()
		if growths != want || n.host.Expedited() {
			t.Errorf("%d growths, want %d; expedited afterwards: %v", growths, want, n.host.Expedited())
		}
	}
}

// Thin metadata that fills is grown out of the reserve.
func TestMetadataGrows(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	n.create(t, CreateVolume{Name: "a", Required: gib})
	before := n.Statuses()[0].MetadataSize
	n.host.FillMetadata("lamina-fast", ThinPoolLV, before/4096*65/100)
	growths := n.expedited(t)
	defer growths(1)
	if err := n.Grow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := n.Statuses()[0].MetadataSize; after <= before {
		t.Errorf("%d bytes of metadata before, %d after", before, after)
	}
}

// An existing volume group is adopted as it is: one tag, one thin pool in what
// is free, and its owner's volumes are left alone.
func TestAdopt(t *testing.T) {
	h := lvmtest.New()
	h.AddDisk("/dev/sda", 10*gib)
	h.AddForeignVG("data", []string{"theirs"}, "/dev/sda")
	n := &node{host: h, client: lvm.New(h, h, lvm.Options{}), after: invariant.After(t, h, nil)}
	n.start(t)
	vg, err := lvm.ParseVGName("data")
	if err != nil {
		t.Fatal(err)
	}
	adopt := spec(func(s *Spec) { s.Adopt = vg })
	for range 2 { // and again, as at the next start
		if err := n.ensure(adopt); err != nil {
			t.Fatal(err)
		}
	}
	v := n.create(t, CreateVolume{Name: "a", Required: gib})
	if v.Pool != "fast" {
		t.Errorf("%+v", v)
	}
	after, err := n.client.ReadVG(lvm.Group{Name: vg, Devices: []lvm.DevicePath{disk(t, "/dev/sda")}})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := after.LV(mustLV("data")); !ok || len(after.Tags) != 2 {
		t.Errorf("tags %v, their volume there: %t", after.Tags, ok)
	}
	if err := n.DeleteVolume(t.Context(), ID{after.UUID, mustLV("data")}); !errors.Is(err, ErrForeign) {
		t.Errorf("delete of their volume: %v", err)
	}
}

// A volume group of our name without our tag is somebody else's.
func TestForeignVolumeGroup(t *testing.T) {
	h := lvmtest.New()
	h.AddDisk("/dev/sda", 10*gib)
	h.AddDisk("/dev/nvme0n1", 10*gib)
	h.AddForeignVG("lamina-fast", nil, "/dev/sda")
	n := &node{host: h, client: lvm.New(h, h, lvm.Options{}), after: invariant.After(t, h, nil)}
	n.start(t)
	cost := n.commands(t, func() {
		if err := n.ensure(spec(), disk(t, "/dev/nvme0n1")); !errors.Is(err, ErrForeign) {
			t.Errorf("error %v", err)
		}
	})
	if len(cost) != 1 || cost[0] != "fullreport" {
		t.Errorf("it ran %v", cost)
	}
}

// A pool that is no longer wanted refuses new volumes; those that it has work.
func TestUnwanted(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	v := n.create(t, CreateVolume{Name: "a", Required: gib})
	n.Unwant(nil)
	if _, err := n.CreateVolume(t.Context(), CreateVolume{Name: "b", Pool: "fast"}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("create: %v", err)
	}
	if c, err := n.Capacity("fast"); err != nil || c.Largest != 0 {
		t.Errorf("capacity %+v, %v", c, err)
	}
	if _, err := n.OpenDevice(t.Context(), v.ID); err != nil {
		t.Errorf("open: %v", err)
	}
	if err := n.DeleteVolume(t.Context(), v.ID); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// A full pool refuses new volumes and says why.
func TestFullPool(t *testing.T) {
	n := newNode(t, spec(func(s *Spec) { s.FullAt = 10 }), "/dev/nvme0n1")
	v := n.create(t, CreateVolume{Name: "a", Required: 2 * gib})
	dev := n.device(t, v.ID)
	for off := int64(0); off < 2*gib; off += 64 << 10 {
		if _, err := dev.WriteAt([]byte{1}, off); err != nil {
			t.Fatal(err)
		}
	}
	_, create := n.CreateVolume(t.Context(), CreateVolume{Name: "b", Pool: "fast"})
	_, snapshot := n.CreateSnapshot(t.Context(), "s", v.ID)
	_, expand := n.ExpandVolume(t.Context(), v.ID, 3*gib, 0)
	for what, err := range map[string]error{"create": create, "snapshot": snapshot, "expand": expand} {
		if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), "pool fast") || !strings.Contains(err.Error(), "add a disk") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if s := n.Statuses()[0]; s.Health != HealthFull || s.Free != 0 || s.Text == "" {
		t.Errorf("%+v", s)
	}
}

func TestWhyFull(t *testing.T) {
	for _, c := range []struct {
		st   lvm.PoolStatus
		want string
	}{
		{lvm.PoolStatus{Mode: lvm.PoolOutOfSpace, UsedData: 8, AllData: 8}, "no free block"},
		{lvm.PoolStatus{Mode: lvm.PoolOutOfSpace, UsedData: 7, AllData: 8}, "metadata is full"},
		{lvm.PoolStatus{Mode: lvm.PoolReadOnly, UsedData: 8, AllData: 8}, "metadata is full"},
	} {
		if got := whyFull(c.st); !strings.Contains(got, c.want) || !strings.Contains(got, "add a disk") {
			t.Errorf("%+v: %q", c.st, got)
		}
	}
}
