package pool

import (
	"errors"
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
