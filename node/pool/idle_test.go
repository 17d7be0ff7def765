package pool

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestCloseIdle(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	v := n.create(t, CreateVolume{Name: "pvc-1", Required: gib})
	closeIdle := func(after time.Duration) []string {
		return n.commands(t, func() {
			if err := n.CloseIdle(t.Context(), after); err != nil {
				t.Fatal(err)
			}
		})
	}
	check := func(what string, got []string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
	}
	active := func() bool {
		dev, err := n.ActiveDevice(v.ID)
		if err != nil {
			t.Fatal(err)
		}
		return dev != ""
	}

	check("never released", closeIdle(0))
	write(t, n.device(t, v.ID), "kept")
	n.Released(v.ID)
	check("too early", closeIdle(time.Hour))
	n.device(t, v.ID)
	check("opened again", closeIdle(0))
	n.Released(v.ID)
	check("released", closeIdle(0), "lvchange")
	if active() {
		t.Error("it is active still")
	}
	check("closed already", closeIdle(0))
	check("opened after that", n.commands(t, func() {
		if got := read(t, n.device(t, v.ID), 4); got != "kept" {
			t.Errorf("it holds %q", got)
		}
	}), "lvchange")

	n.Released(v.ID)
	if err := n.DeleteVolume(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	check("deleted", closeIdle(0))
}

// What somebody holds open is left alone.
func TestCloseIdleLeavesWhatIsOpen(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	v := n.create(t, CreateVolume{Name: "pvc-1", Required: gib})
	d, err := n.OpenDevice(t.Context(), v.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.host.Open(d.Path); err != nil {
		t.Fatal(err)
	}
	n.Released(v.ID)
	if err := n.CloseIdle(t.Context(), 0); err != nil {
		t.Errorf("an open volume: %v", err)
	}
	if dev, err := n.ActiveDevice(v.ID); err != nil || dev == "" {
		t.Errorf("device %q, %v", dev, err)
	}
}
