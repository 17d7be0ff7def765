package pool

import (
	"errors"
	"strings"
	"testing"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
)

// Before the disks were looked at, nothing is known not to exist.
func TestNothingIsKnownBeforeDiscover(t *testing.T) {
	h := lvmtest.New()
	m := NewManager(lvm.New(h, h, lvm.Options{}), nil)
	if _, err := m.ListVolumes(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("ListVolumes: %v", err)
	}
	if _, err := m.Capacity("fast"); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Capacity: %v", err)
	}
	if _, err := m.CreateVolume(t.Context(), CreateVolume{Name: "a", Pool: "fast"}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("CreateVolume: %v", err)
	}
}

// A disk that fails says nothing about its volumes.
func TestFailingDiskIsUnavailable(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	v := n.create(t, CreateVolume{Name: "a", Required: gib})
	n.host.FailDisk("/dev/nvme0n1")
	if _, err := n.GetVolume(v.ID); !errors.Is(err, ErrUnavailable) {
		t.Errorf("GetVolume: %v", err)
	}
	if err := n.DeleteVolume(t.Context(), v.ID); !errors.Is(err, ErrUnavailable) {
		t.Errorf("DeleteVolume: %v", err)
	}
}

// A pool whose disk fails does not stop others. The name that is asked for may lie in it:
// in the pool itself nothing is made.
func TestOtherPoolsGoOn(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	n.host.AddDisk("/dev/nvme1n1", 10*gib)
	if err := n.ensure(spec(func(s *Spec) { s.Name = "other" }), disk(t, "/dev/nvme1n1")); err != nil {
		t.Fatal(err)
	}
	n.create(t, CreateVolume{Name: "a", Required: gib})
	n.host.FailDisk("/dev/nvme0n1")
	v := n.create(t, CreateVolume{Name: "b", Pool: "other", Required: gib})
	if _, err := n.CreateSnapshot(t.Context(), "s", v.ID); err != nil {
		t.Errorf("snapshot: %v", err)
	}
	for _, pool := range []string{"fast", "none"} {
		if _, err := n.CreateVolume(t.Context(), CreateVolume{Name: "c", Pool: pool}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("create in pool %s: %v", pool, err)
		}
	}
	n.host.ReturnDisk("/dev/nvme0n1")
}

// Of a disk and its copy nothing is changed until one of them is away.
func TestCopiedDisk(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	v := n.create(t, CreateVolume{Name: "a", Required: gib})
	report, err := n.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	alone := report.VGs[0]
	both := alone
	both.PVs = []lvm.PVReport{alone.PVs[0]}
	both.PVs[0].Copies = []string{"/dev/nvme9n1"}
	if err := n.register("fast", both); err != nil {
		t.Fatal(err)
	}
	if _, err := n.device(t, v.ID).WriteAt([]byte("kept"), 0); err != nil {
		t.Fatal(err)
	}
	ran := n.commands(t, func() {
		_, create := n.CreateVolume(t.Context(), CreateVolume{Name: "b", Pool: "fast"})
		_, snapshot := n.CreateSnapshot(t.Context(), "s", v.ID)
		_, expand := n.ExpandVolume(t.Context(), v.ID, 2*gib, 0)
		for what, err := range map[string]error{"create": create, "snapshot": snapshot, "expand": expand, "delete": n.DeleteVolume(t.Context(), v.ID)} {
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "/dev/nvme9n1") {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	if len(ran) > 0 {
		t.Errorf("it ran %v", ran)
	}
	if s := n.Statuses()[0]; s.Health != HealthError || !strings.Contains(s.Text, "/dev/nvme9n1") {
		t.Errorf("%+v", s)
	}
	got := make([]byte, 4)
	if _, err := n.device(t, v.ID).ReadAt(got, 0); err != nil || string(got) != "kept" {
		t.Errorf("a volume that is active holds %q, %v", got, err)
	}
	if err := n.register("fast", alone); err != nil {
		t.Fatal(err)
	}
	if err := n.DeleteVolume(t.Context(), v.ID); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// LVM changes no group that lacks a disk: nothing is promised then.
func TestMissingDiskPromisesNothing(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1", "/dev/nvme1n1")
	n.host.MissDisk("/dev/nvme1n1")
	if _, err := n.Discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c, err := n.Capacity("fast"); err != nil || c.Available != 0 {
		t.Errorf("capacity %+v, %v", c, err)
	}
	if _, err := n.CreateVolume(t.Context(), CreateVolume{Name: "a", Pool: "fast", Required: gib}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("CreateVolume: %v", err)
	}
	if s := n.Statuses(); len(s) != 1 || s[0].Health != HealthMissingDisk {
		t.Errorf("status %+v", s)
	}
}

// A pool that is not in a report that lacks something may be in what it lacks.
func TestIncompleteReportMakesNoPool(t *testing.T) {
	h := lvmtest.New()
	h.AddDisk("/dev/nvme0n1", 10*gib)
	m := NewManager(lvm.New(h, h, lvm.Options{}), nil)
	report := lvm.Report{Incomplete: errors.New("a disk does not answer")}
	if err := m.Ensure(t.Context(), spec(), report, []lvm.DevicePath{disk(t, "/dev/nvme0n1")}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Ensure: %v", err)
	}
	if got := h.Commands(); len(got) != 0 {
		t.Errorf("commands: %v", got)
	}
}

// A striped volume is as large as whole stripes, and never above its limit.
func TestStripedVolumeKeepsItsLimit(t *testing.T) {
	n := newNode(t, spec(thick, func(s *Spec) { s.Layout = lvm.Striped }), "/dev/nvme0n1", "/dev/nvme1n1", "/dev/nvme2n1")
	req := CreateVolume{Name: "a", Pool: "fast", Required: 16 * mib, Limit: 20 * mib, FS: FSNew}
	if v, err := n.CreateVolume(t.Context(), req); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("no multiple of 12 MiB fits, and got %d bytes, %v", v.Size, err)
	}
	req.Limit = 24 * mib
	if v, err := n.CreateVolume(t.Context(), req); err != nil || v.Size != 24*mib {
		t.Errorf("%d bytes, %v", v.Size, err)
	}
}
