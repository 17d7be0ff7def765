package lvm_test

import (
	"testing"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
)

// noTable is a host on which a killed lvm has made devices and loaded no table.
type noTable struct{ *lvmtest.Host }

func (noTable) Table(string) ([]lvm.Target, error) { return nil, nil }

func TestReloadThinWithoutTable(t *testing.T) {
	h := lvmtest.New()
	h.AddDisk("/dev/nvme0n1", 1<<30)
	c := lvm.New(h, noTable{h}, lvm.Options{})
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
		c.ReloadThin(g, thin),
	}
	for i, err := range steps {
		if err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
}
