package lvm_test

import (
	"fmt"
	"testing"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
)

// TestConformance runs the suite on the host in memory; the same runs on real
// LVM under the build tag vm.
func TestConformance(t *testing.T) {
	lvmtest.Conformance(t, func(t *testing.T) lvmtest.Env {
		h := lvmtest.New()
		env := lvmtest.Env{Client: lvm.New(h, h, lvm.Options{}), Runner: h}
		for i := range 4 {
			path := fmt.Sprintf("/dev/nvme%dn1", i)
			h.AddDisk(path, 2<<30)
			dev, err := lvm.ParseDevicePath(path)
			if err != nil {
				t.Fatal(err)
			}
			env.Disks = append(env.Disks, dev)
		}
		env.Write = func(path string, off int64, data []byte) error {
			d, err := h.Device(path)
			if err != nil {
				return err
			}
			_, err = d.WriteAt(data, off)
			return err
		}
		env.Read = func(path string, off int64, size int) ([]byte, error) {
			d, err := h.Device(path)
			if err != nil {
				return nil, err
			}
			buf := make([]byte, size)
			_, err = d.ReadAt(buf, off)
			return buf, err
		}
		env.Hold = func(path string) (func(), error) {
			if err := h.Open(path); err != nil {
				return nil, err
			}
			return func() {
				if err := h.Close(path); err != nil {
					t.Error(err)
				}
			}, nil
		}
		return env
	})
}
