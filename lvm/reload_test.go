package lvm_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
)

// noTable is a host on which a killed lvm has made devices and loaded no table.
type noTable struct{ *lvmtest.Host }

func (noTable) Table(string) ([]lvm.Target, error) { return nil, nil }

func TestReloadThinWithoutTable(t *testing.T) {
	h := lvmtest.New()
	c, g, thin := oneThin(t, h, noTable{h})
	if err := c.ReloadThin(g, thin); err != nil {
		t.Error(err)
	}
}

// poolSuspended is a host whose thin pool is suspended: the kernel loads no table of a
// thin volume then.
type poolSuspended struct {
	*lvmtest.Host
	suspended bool
}

func (p *poolSuspended) Load(name string, table []lvm.Target, readOnly bool) error {
	if p.suspended {
		return unix.EINVAL
	}
	return p.Host.Load(name, table, readOnly)
}

// Beside somebody else's lvm command an expansion is asked for again.
func TestExtendWhilePoolIsSuspended(t *testing.T) {
	h := lvmtest.New()
	k := &poolSuspended{Host: h, suspended: true}
	c, g, thin := oneThin(t, h, k)
	if err := c.LVExtendThin(t.Context(), g, thin, 128<<20); !errors.Is(err, lvm.ErrPending) {
		t.Errorf("error %v, want %v", err, lvm.ErrPending)
	}
	k.suspended = false
	if err := c.ReloadThin(g, thin); err != nil {
		t.Error(err)
	}
	table, err := h.Table("vg-thin")
	if err != nil || table[0].Length != 128<<20/512 {
		t.Errorf("table %+v, %v", table, err)
	}
}

// oneThin makes an active thin volume of 64 MiB in a pool of its own.
func oneThin(t *testing.T, h *lvmtest.Host, k lvm.Kernel) (*lvm.Client, lvm.Group, lvm.LVName) {
	t.Helper()
	h.AddDisk("/dev/nvme0n1", 1<<30)
	c := lvm.New(h, k, lvm.Options{})
	dev, err1 := lvm.ParseDevicePath("/dev/nvme0n1")
	vg, err2 := lvm.ParseVGName("vg")
	pool, err3 := lvm.ParseLVName("pool")
	thin, err4 := lvm.ParseLVName("thin")
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			t.Fatal(err)
		}
	}
	g := lvm.Group{Name: vg, Devices: []lvm.DevicePath{dev}}
	steps := []error{
		c.VGCreate(t.Context(), lvm.VGCreate{Group: g, MetadataSize: 1 << 20}),
		c.LVCreateThinPool(t.Context(), lvm.ThinPoolCreate{NewLV: lvm.NewLV{Group: g, Name: pool}, Size: 256 << 20, MetadataSize: 32 << 20, ChunkSize: 64 << 10}),
		c.LVCreateThin(t.Context(), lvm.NewLV{Group: g, Name: thin}, pool, 64<<20),
	}
	for i, err := range steps {
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
	}
	return c, g, thin
}
