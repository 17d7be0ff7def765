package pool

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
)

func mustVG(s string) lvm.VGName {
	n, err := lvm.ParseVGName(s)
	if err != nil {
		panic(err)
	}
	return n
}

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

// At the agent's end what nobody uses is closed by one command, the thin pool too if no
// volume is left, and it all comes back.
func TestCloseAll(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	used := n.create(t, CreateVolume{Name: "pvc-1", Required: gib})
	unused := n.create(t, CreateVolume{Name: "pvc-2", Required: gib})
	write(t, n.device(t, used.ID), "kept")
	n.snapshot(t, "snap", used.ID)
	d, err := n.OpenDevice(t.Context(), used.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.host.Open(d.Path); err != nil {
		t.Fatal(err)
	}
	published := n.create(t, CreateVolume{Name: "pvc-3", Required: gib})
	inPod, err := n.ActiveDevice(published.ID)
	if err != nil || inPod == "" {
		t.Fatalf("device %q, %v", inPod, err)
	}
	closeAll := func(want ...string) {
		t.Helper()
		got := n.commands(t, func() {
			if err := n.CloseAll(t.Context(), func(device string) bool { return device == inPod }); err != nil {
				t.Fatal(err)
			}
		})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	check := func(what string, id ID, active bool) {
		t.Helper()
		if dev, err := n.ActiveDevice(id); err != nil || (dev != "") != active {
			t.Errorf("%s has device %q, %v", what, dev, err)
		}
	}
	pool := func() error {
		_, err := n.client.PoolStatus(mustVG("lamina-fast"), thinPoolLV)
		return err
	}

	closeAll("lvchange")
	check("the used volume", used.ID, true)
	check("the unused volume", unused.ID, false)
	check("the volume whose node a pod has", published.ID, true)
	if err := pool(); err != nil {
		t.Errorf("the pool below a used volume: %v", err)
	}
	closeAll()

	if err := n.host.Close(d.Path); err != nil {
		t.Fatal(err)
	}
	inPod = ""
	closeAll("lvchange")
	check("the volume", used.ID, false)
	if err := pool(); !errors.Is(err, lvm.ErrNotFound) {
		t.Errorf("the pool without users: %v", err)
	}
	closeAll()

	n.start(t)
	if err := n.ensure(spec()); err != nil {
		t.Fatal(err)
	}
	if got := read(t, n.device(t, used.ID), 4); got != "kept" {
		t.Errorf("it holds %q", got)
	}
}

// A volume group that was adopted holds others' volumes: they and the pool below them
// stay.
func TestCloseAllLeavesWhatIsNotOurs(t *testing.T) {
	h := lvmtest.New()
	h.AddDisk("/dev/sda", 10*gib)
	h.AddForeignVG("data", nil, "/dev/sda")
	n := &node{host: h, client: lvm.New(h, h, lvm.Options{})}
	n.start(t)
	adopt := spec(func(s *Spec) { s.Adopt = mustVG("data") })
	if err := n.ensure(adopt); err != nil {
		t.Fatal(err)
	}
	theirs := lvm.NewLV{Group: lvm.Group{Name: mustVG("data"), Devices: []lvm.DevicePath{disk(t, "/dev/sda")}}, Name: mustLV("theirs")}
	if err := n.client.LVCreateThin(t.Context(), theirs, thinPoolLV, gib); err != nil {
		t.Fatal(err)
	}
	if cost := n.commands(t, func() {
		if err := n.CloseAll(t.Context(), func(string) bool { return false }); err != nil {
			t.Fatal(err)
		}
	}); len(cost) != 0 {
		t.Errorf("it ran %v", cost)
	}
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
