package pool

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
)

// impostor is a kernel in which devices of that name belong to another volume group
// of our name, as after a disk came from elsewhere. It notes what is done to any
// device.
type impostor struct {
	lvm.Kernel
	on   bool
	name string
	did  []string
}

func (k *impostor) Info(name string) (lvm.DeviceInfo, error) {
	info, err := k.Kernel.Info(name)
	if k.on && strings.HasPrefix(name, k.name) {
		info.UUID = "LVM-" + strings.Repeat("x", 64) + "-tpool"
		info.Suspended = true
	}
	return info, err
}

func (k *impostor) note(what string) {
	if k.on {
		k.did = append(k.did, what)
	}
}

func (k *impostor) Resume(name string) error {
	k.note("resume " + name)
	return k.Kernel.Resume(name)
}

func (k *impostor) Suspend(name string) error {
	k.note("suspend " + name)
	return k.Kernel.Suspend(name)
}

func (k *impostor) Load(name string, table []lvm.Target, readOnly bool) error {
	k.note("load " + name)
	return k.Kernel.Load(name, table, readOnly)
}

func (k *impostor) Message(name, message string) error {
	k.note(message + " to " + name)
	return k.Kernel.Message(name, message)
}

func (k *impostor) Discard(path string) error {
	k.note("discard " + path)
	return k.Kernel.Discard(path)
}

func (k *impostor) Zero(path string, from, to int64) error {
	k.note("zero " + path)
	return k.Kernel.Zero(path, from, to)
}

// The devices of another volume group that has the name of ours are not touched,
// whatever is asked for.
func TestDeviceOfAnotherGroupOfOurName(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	v := n.create(t, CreateVolume{Name: "a", Required: 64 * mib})
	write(t, n.device(t, v.ID), "precious")
	k := &impostor{Kernel: n.host, on: true, name: "lamina--fast-"}
	n.client = lvm.New(n.host, k, lvm.Options{})
	n.start(t) // mends what it finds suspended
	ctx := t.Context()
	_, open := n.OpenDevice(ctx, v.ID)
	_, expand := n.ExpandVolume(ctx, v.ID, 128*mib, 0)
	_, usage := n.Usage(v.ID)
	_, active := n.ActiveDevice(v.ID)
	_, capacity := n.Capacity("fast")
	for what, err := range map[string]error{
		"open": open, "expand": expand, "usage": usage, "device": active, "capacity": capacity,
		"delete": n.DeleteVolume(ctx, v.ID), "ensure": n.ensure(spec()),
	} {
		if !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v, want %v", what, err, ErrForeign)
		}
	}
	if s := n.Statuses(); len(s) != 1 || s[0].Health != HealthError || !strings.Contains(s[0].Text, "another volume group lamina-fast") {
		t.Errorf("status %+v", s)
	}
	if len(k.did) > 0 {
		t.Errorf("the devices were touched: %v", k.did)
	}
	k.on = false
	if got := read(t, n.device(t, v.ID), 8); got != "precious" {
		t.Errorf("the volume holds %q", got)
	}
}

// A disk whose volume group says that it is our pool stops new volumes and mixes
// nothing: ours stay ours, and it gets none of our disks.
func TestGroupWithOurTag(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	v := n.create(t, CreateVolume{Name: "a", Required: 64 * mib})
	n.host.AddDisk("/dev/sdx", gib)
	n.host.AddForeignVG("hostile", []string{"lamina.pool=fast"}, "/dev/sdx")
	n.host.AddDisk("/dev/nvme1n1", gib)
	if err := n.ensure(spec(), disk(t, "/dev/nvme1n1")); !errors.Is(err, ErrConflict) {
		t.Errorf("ensure: %v, want %v", err, ErrConflict)
	}
	if _, err := n.CreateVolume(t.Context(), CreateVolume{Name: "b", Pool: "fast", FS: FSNew}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("create: %v, want %v", err, ErrUnavailable)
	}
	if again := n.create(t, CreateVolume{Name: "a", Required: 64 * mib}); again.ID != v.ID {
		t.Errorf("volume a is %s, was %s", again.ID, v.ID)
	}
	if err := n.DeleteVolume(t.Context(), v.ID); err != nil {
		t.Errorf("delete: %v", err)
	}
	for _, c := range n.host.Commands() {
		if slices.Contains([]string{"vgextend", "vgcreate"}, c.Name) && slices.Contains(c.Args, "/dev/nvme1n1") ||
			c.Name != "fullreport" && strings.Contains(fmt.Sprint(c.Args), "/dev/sdx") {
			t.Errorf("it ran %s %v", c.Name, c.Args)
		}
	}
}

// A tag of ours with a value that we would not write makes no pool, and nothing that
// the link or CSI could not carry.
func TestGroupWithAnOddTag(t *testing.T) {
	for i, tag := range []string{"lamina.pool=#ff#fe", "lamina.pool=../x", "lamina.pool=Fast", "lamina.pool=" + strings.Repeat("x", 900), "lamina.pool=#1b#5b2J", "lamina.pool="} {
		n := newNode(t, spec(), "/dev/nvme0n1")
		n.host.AddDisk("/dev/sdx", gib)
		n.host.AddForeignVG(fmt.Sprint("hostile", i), []string{tag}, "/dev/sdx")
		if err := n.ensure(spec()); err != nil {
			t.Errorf("%s: ensure: %v", tag, err)
		}
		if s := n.Statuses(); len(s) != 1 || s[0].Name != "fast" {
			t.Errorf("%s: statuses %+v", tag, s)
		}
		n.create(t, CreateVolume{Name: "a"})
	}
	for k, v := range readTags([]lvm.Tag{mustTag(t, "lamina.context.#ffk=#ffv")}).context() {
		if k != "?k" && k != "#ffk" || v != "?v" {
			t.Errorf("context %q=%q", k, v)
		}
	}
}

func mustTag(t *testing.T, s string) lvm.Tag {
	t.Helper()
	tag, err := lvm.ParseTag(s)
	if err != nil {
		t.Fatal(err)
	}
	return tag
}

const generation = 4 * mib // bytes of a tenant's volume: one extent

// soil writes a secret into each chunk of a volume, at its beginning and its end.
func soil(t *testing.T, dev lvmtest.Device) {
	t.Helper()
	secret := []byte(strings.Repeat("secret! ", 64))
	for chunk := int64(0); chunk < dev.Size(); chunk += 64 << 10 {
		for _, at := range []int64{chunk, chunk + 64<<10 - 512} {
			if _, err := dev.WriteAt(secret, at); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// clean fails unless all of a volume from that byte on is zeros.
func clean(t *testing.T, what string, dev lvmtest.Device, from int) {
	t.Helper()
	all := read(t, dev, int(dev.Size()))[from:]
	if at := strings.IndexFunc(all, func(r rune) bool { return r != 0 }); at >= 0 {
		t.Fatalf("%s shows %q at byte %d", what, all[at:at+16], from+at)
	}
}

// A hundred tenants one after the other, in a pool in which each gets the blocks of
// a former one: none sees what was there, whether the former volume was deleted
// active, inactive, or after it was expanded.
func TestGenerations(t *testing.T) {
	for _, pool := range []string{"thin", "thick"} {
		for _, mode := range []string{"filesystem", "block"} {
			t.Run(pool+" "+mode, func(t *testing.T) {
				s := spec()
				if pool == "thick" {
					s = spec(thick)
				}
				n := newNode(t, s, "/dev/nvme0n1")
				for i := range 100 {
					n.tenant(t, i, mode)
				}
			})
		}
	}
}

// tenant is the life of one volume, which finds nothing and leaves a secret.
func (n *node) tenant(t *testing.T, i int, mode string) {
	t.Helper()
	req := CreateVolume{Name: fmt.Sprint("v", i), Required: generation, FS: FSNew}
	if mode == "block" {
		req.Block, req.FS = true, FSRaw
	}
	v := n.create(t, req)
	dev := n.device(t, v.ID)
	clean(t, v.Name, dev, 0)
	soil(t, dev)
	if i%4 == 1 {
		if _, err := n.ExpandVolume(t.Context(), v.ID, 2*generation, 0); err != nil {
			t.Fatal(err)
		}
		dev = n.device(t, v.ID)
		clean(t, v.Name+", expanded,", dev, generation)
		soil(t, dev)
	}
	if i%4 >= 2 {
		if err := n.client.LVDeactivate(t.Context(), n.group(t, v), v.ID.LV); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.DeleteVolume(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
}

// A volume that is active is discarded when it is deleted, thin or thick: its
// content leaves the medium with it. It costs no lvm command.
func TestDeleteDiscards(t *testing.T) {
	for _, mode := range []Mode{Thin, Thick} {
		n := newNode(t, spec(func(s *Spec) { s.Mode = mode }), "/dev/nvme0n1")
		v := n.create(t, CreateVolume{Name: "a", Required: 8 * mib, Block: true, FS: FSRaw})
		write(t, n.device(t, v.ID), "secret")
		k := &impostor{Kernel: n.host, on: true, name: "none"}
		n.client = lvm.New(n.host, k, lvm.Options{})
		n.start(t)
		ran := n.commands(t, func() {
			if err := n.DeleteVolume(t.Context(), v.ID); err != nil {
				t.Fatal(err)
			}
		})
		if len(k.did) != 1 || !strings.HasPrefix(k.did[0], "discard /dev/") || !slices.Equal(ran, []string{"lvremove"}) {
			t.Errorf("%s: did %v, ran %v", mode, k.did, ran)
		}
	}
}
