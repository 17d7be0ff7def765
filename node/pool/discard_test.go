package pool

import (
	"testing"

	"github.com/lamina-csi/lamina/lvm/lvmtest"
)

// What a volume has written is discarded when it is deleted; one that has written
// nothing is not opened for that.
func TestDiscardOnDelete(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	discards := 0
	n.host.OnStep(func(s lvmtest.Step) error {
		if s.Call == "discard" && s.Point == lvmtest.Before {
			discards++
		}
		return nil
	})
	for _, tt := range []struct {
		name  string
		write bool
		want  int
	}{{"untouched", false, 0}, {"written", true, 1}} {
		discards = 0
		v := n.create(t, CreateVolume{Name: tt.name, Required: 64 * mib})
		if tt.write {
			write(t, n.device(t, v.ID), "data")
		}
		if err := n.DeleteVolume(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
		if discards != tt.want {
			t.Errorf("%s volume: %d discards, want %d", tt.name, discards, tt.want)
		}
	}
}
