package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
	"github.com/lamina-csi/lamina/test/invariant"
)

// node is a node with one in-memory LVM host.
type node struct {
	*Manager
	host   *lvmtest.Host
	client *lvm.Client
	after  *invariant.Watch
}

// spec is the default thin pool named fast.
func spec(change ...func(*Spec)) Spec {
	s := Spec{Name: "fast", Mode: Thin, Layout: lvm.Linear, Overprovision: 3, Reserve: 5, FullAt: 90}
	for _, f := range change {
		f(&s)
	}
	return s
}

func disk(t *testing.T, path string) lvm.DevicePath {
	t.Helper()
	d, err := lvm.ParseDevicePath(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// newNode makes a pool of the spec on a blank disk for each path: of 10 GiB, or of
// 2 for thick volumes, which the host really zeroes.
func newNode(t *testing.T, s Spec, paths ...string) *node {
	t.Helper()
	h := lvmtest.New()
	var blank []lvm.DevicePath
	size := int64(10 * gib)
	if s.Mode == Thick {
		size = 2 * gib
	}
	for _, p := range paths {
		h.AddDisk(p, size)
		blank = append(blank, disk(t, p))
	}
	n := &node{host: h, client: lvm.New(h, h, lvm.Options{})}
	n.after = invariant.After(t, h, nil)
	n.start(t)
	if err := n.ensure(s, blank...); err != nil {
		t.Fatal(err)
	}
	return n
}

// start is what a new agent process does.
func (n *node) start(t *testing.T) {
	t.Helper()
	n.Manager = NewManager(n.client, nil)
	if _, err := n.Discover(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (n *node) ensure(s Spec, blank ...lvm.DevicePath) error {
	report, err := n.Discover(context.Background())
	if err != nil {
		return err
	}
	return n.Ensure(context.Background(), s, report, blank)
}

func (n *node) create(t *testing.T, req CreateVolume) Volume {
	t.Helper()
	if req.Pool == "" {
		req.Pool = "fast"
	}
	if req.FS == "" {
		req.FS = FSNew
	}
	v, err := n.CreateVolume(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// commands runs f and returns the lvm commands that it cost.
func (n *node) commands(t *testing.T, f func()) []string {
	t.Helper()
	before := len(n.host.Commands())
	f()
	var out []string
	for _, c := range n.host.Commands()[before:] {
		out = append(out, c.Name)
	}
	return out
}

// device is the content of a volume.
func (n *node) device(t *testing.T, id ID) lvmtest.Device {
	t.Helper()
	d, err := n.OpenDevice(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	dev, err := n.host.Device(d.Path)
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

func write(t *testing.T, w io.WriterAt, text string) {
	t.Helper()
	if _, err := w.WriteAt([]byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, r io.ReaderAt, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := r.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestVolumeLife(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	var v Volume
	got := n.commands(t, func() {
		v = n.create(t, CreateVolume{Name: "pvc-0b0e8ae2-4a2b-4a53-9d0f-6f4ac7d3c111", Required: gib, Claim: "default/db", Context: map[string]string{"mkfsOptions": "-m 1, x"}})
	})
	if diff := cmp.Diff([]string{"lvcreate"}, got); diff != "" {
		t.Errorf("commands of a create (-want +got):\n%s", diff)
	}
	if v.ID.LV.String() != "pvc-0b0e8ae2-4a2b-4a53-9d0f-6f4ac7d3c111" || v.Size != gib || v.FS != FSNew || v.Context["mkfsOptions"] != "-m 1, x" {
		t.Errorf("created %+v", v)
	}
	write(t, n.device(t, v.ID), "hello")

	n.start(t) // a new process knows all of it
	if err := n.ensure(spec()); err != nil {
		t.Fatal(err)
	}
	again, err := n.GetVolume(v.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v, again, cmp.Comparer(func(a, b ID) bool { return a == b })); diff != "" {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}

	var snap Snapshot
	got = n.commands(t, func() { snap = n.snapshot(t, "snapshot-0b0e8ae2-4a2b-4a53-9d0f-6f4ac7d3c112", v.ID) })
	if diff := cmp.Diff([]string{"lvcreate"}, got); diff != "" {
		t.Errorf("commands of a snapshot (-want +got):\n%s", diff)
	}
	write(t, n.device(t, v.ID), "later")
	restored := n.create(t, CreateVolume{Name: "restored", Required: 2 * gib, Source: &Source{ID: snap.ID, Snapshot: true}})
	if restored.Size != 2*gib {
		t.Errorf("restored has %d bytes", restored.Size)
	}
	if err := n.DeleteVolume(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if got := read(t, n.device(t, restored.ID), 5); got != "hello" {
		t.Errorf("restored holds %q", got)
	}
	got = n.commands(t, func() {
		if v, err := n.ExpandVolume(t.Context(), restored.ID, 3*gib, 0); err != nil || v.Size != 3*gib {
			t.Errorf("expand: %v, %d bytes", err, v.Size)
		}
	})
	if diff := cmp.Diff([]string{"lvextend"}, got); diff != "" {
		t.Errorf("commands of an expansion (-want +got):\n%s", diff)
	}
	for _, id := range []ID{restored.ID, restored.ID} {
		if err := n.DeleteVolume(t.Context(), id); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if err := n.DeleteSnapshot(t.Context(), snap.ID); err != nil {
		t.Error(err)
	}
	if s := n.Statuses()[0]; s.Volumes+s.Snapshots != 0 || s.Health != HealthOK || s.Used != 0 {
		t.Errorf("in the end: %+v", s)
	}
}

func (n *node) snapshot(t *testing.T, name string, source ID) Snapshot {
	t.Helper()
	s, err := n.CreateSnapshot(t.Context(), name, source)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCreateAgain(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	first := n.create(t, CreateVolume{Name: "a", Required: gib})
	src := n.create(t, CreateVolume{Name: "src", Required: gib})
	for _, tt := range []struct {
		name string
		req  CreateVolume
		err  error
	}{
		{"same", CreateVolume{Name: "a", Required: gib}, nil},
		{"smaller", CreateVolume{Name: "a", Required: 1}, nil},
		{"larger", CreateVolume{Name: "a", Required: gib + 1}, ErrConflict},
		{"limit below", CreateVolume{Name: "a", Limit: gib - 1}, ErrConflict},
		{"other mode", CreateVolume{Name: "a", Required: gib, Block: true}, ErrConflict},
		{"other source", CreateVolume{Name: "a", Required: gib, Source: &Source{ID: src.ID}}, ErrConflict},
		{"other pool", CreateVolume{Name: "a", Pool: "slow", Required: gib}, ErrConflict},
		{"no such pool", CreateVolume{Name: "b", Pool: "slow", Required: gib}, ErrNotFound},
		{"negative", CreateVolume{Name: "b", Required: -1}, ErrInvalid},
		{"limit below required", CreateVolume{Name: "b", Required: 2, Limit: 1}, ErrInvalid},
		{"no whole extent fits", CreateVolume{Name: "b", Required: 1, Limit: 2}, ErrOutOfRange},
		{"overflow", CreateVolume{Name: "b", Required: 1<<63 - 1}, ErrOutOfRange},
		{"too much", CreateVolume{Name: "b", Required: 100 * gib}, ErrNoSpace},
		{"source gone", CreateVolume{Name: "b", Source: &Source{ID: ID{first.ID.VG, volumeLV("zz")}}}, ErrNotFound},
		{"source larger than the limit", CreateVolume{Name: "b", Limit: mib * 8, Source: &Source{ID: first.ID}}, ErrOutOfRange},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.req.Pool == "" {
				tt.req.Pool = "fast"
			}
			tt.req.FS = FSNew
			var v Volume
			var err error
			cost := n.commands(t, func() { v, err = n.CreateVolume(t.Context(), tt.req) })
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if err == nil && v.ID != first.ID {
				t.Errorf("another volume: %v", v.ID)
			}
			if len(cost) > 0 {
				t.Errorf("it ran %v", cost)
			}
		})
	}
}

// A foreign LV is never changed, whatever it is called.
func TestForeignLV(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	p, err := n.byName("fast")
	if err != nil {
		t.Fatal(err)
	}
	name := volumeLV("theirs")
	if err := n.client.LVCreateThin(t.Context(), lvm.NewLV{Group: p.group, Name: name}, thinPoolLV, gib); err != nil {
		t.Fatal(err)
	}
	id := ID{p.uuid, name}
	for what, err := range map[string]error{
		"delete": n.DeleteVolume(t.Context(), id),
		"create": func() error {
			_, err := n.CreateVolume(t.Context(), CreateVolume{Name: "theirs", Pool: "fast"})
			return err
		}(),
		"delete snapshot": n.DeleteSnapshot(t.Context(), id),
		"expand":          func() error { _, err := n.ExpandVolume(t.Context(), id, 2*gib, 0); return err }(),
		"open":            func() error { _, err := n.OpenDevice(t.Context(), id); return err }(),
	} {
		if !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := n.DeleteVolume(t.Context(), ID{p.uuid, thinPoolLV}); !errors.Is(err, ErrForeign) {
		t.Errorf("delete of the thin pool: %v", err)
	}
}

// What cannot be seen is not gone.
func TestAbsenceIsNoEvidence(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	v := n.create(t, CreateVolume{Name: "a", Required: gib})
	unknown := ID{strings.Replace(v.ID.VG, v.ID.VG[:1], "_", 1), v.ID.LV}
	unknown.VG = "abcdef-abcd-abcd-abcd-abcd-abcd-abcdef"
	if err := n.DeleteVolume(t.Context(), unknown); !errors.Is(err, ErrUnavailable) {
		t.Errorf("delete in an unknown volume group: %v", err)
	}
	n.host.MissDisk("/dev/nvme0n1")
	if err := n.DeleteVolume(t.Context(), v.ID); !errors.Is(err, ErrUnavailable) {
		t.Errorf("delete with the disk pulled: %v", err)
	}
	if _, err := n.CreateVolume(t.Context(), CreateVolume{Name: "b", Pool: "fast"}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("create with the disk pulled: %v", err)
	}
	n.host.ReturnDisk("/dev/nvme0n1")
	if _, err := n.GetVolume(v.ID); err != nil {
		t.Errorf("after its return: %v", err)
	}
}

// Sixteen callers of one name make one volume; of sixteen names, sixteen.
func TestConcurrentCreate(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	var wg sync.WaitGroup
	for i := range 16 {
		for _, name := range []string{"same", fmt.Sprint("own-", i)} {
			wg.Go(func() {
				if _, err := n.CreateVolume(t.Context(), CreateVolume{Name: name, Pool: "fast", Required: gib, FS: FSNew}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			})
		}
	}
	wg.Wait()
	list, err := n.ListVolumes()
	if err != nil || len(list) != 17 {
		t.Errorf("%d volumes, %v", len(list), err)
	}
}

// What GetCapacity promises, CreateVolume gives, and not a byte more.
func TestCapacityIsHonest(t *testing.T) {
	layouts := []struct {
		layout lvm.LayoutType
		disks  []string
	}{
		{lvm.Linear, []string{"/dev/nvme0n1"}},
		{lvm.Linear, []string{"/dev/nvme0n1", "/dev/nvme1n1"}},
		{lvm.Striped, []string{"/dev/nvme0n1", "/dev/nvme1n1"}},
		{lvm.Raid1, []string{"/dev/nvme0n1", "/dev/nvme1n1"}},
		{lvm.Raid10, []string{"/dev/nvme0n1", "/dev/nvme1n1", "/dev/nvme2n1", "/dev/nvme3n1"}},
	}
	for _, mode := range []Mode{Thin, Thick} {
		for _, l := range layouts {
			t.Run(fmt.Sprint(mode, " ", l.layout, " ", len(l.disks)), func(t *testing.T) {
				n := newNode(t, spec(func(s *Spec) { s.Mode, s.Layout = mode, l.layout }), l.disks...)
				n.create(t, CreateVolume{Name: "first", Required: 256 * mib})
				c, err := n.Capacity("fast")
				if err != nil || c.Available < gib {
					t.Fatalf("%+v, %v", c, err)
				}
				req := CreateVolume{Name: "all", Pool: "fast", Required: c.Largest + 1}
				if _, err := n.CreateVolume(t.Context(), req); !errors.Is(err, ErrNoSpace) {
					t.Errorf("one byte more: %v", err)
				}
				n.create(t, CreateVolume{Name: "all", Required: c.Largest})
				if c, err := n.Capacity("fast"); err != nil || c.Largest != 0 {
					t.Errorf("afterwards: %+v, %v", c, err)
				}
			})
		}
	}
}

// A thick volume never shows what its extents held before.
func TestThickIsZeroed(t *testing.T) {
	n := newNode(t, spec(func(s *Spec) { s.Mode = Thick }), "/dev/nvme0n1")
	const size = 64 * mib
	v := n.create(t, CreateVolume{Name: "a", Required: size, Block: true, FS: FSRaw})
	dev := n.device(t, v.ID)
	secret := []byte(strings.Repeat("secret! ", size/8/64))
	for off := int64(0); off < size; off += int64(len(secret)) {
		if _, err := dev.WriteAt(secret, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.DeleteVolume(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	v = n.create(t, CreateVolume{Name: "b", Required: size / 2, Block: true, FS: FSRaw})
	if _, err := n.ExpandVolume(t.Context(), v.ID, size, 0); err != nil {
		t.Fatal(err)
	}
	all := make([]byte, size)
	if _, err := n.device(t, v.ID).ReadAt(all, 0); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(all), "secret!") {
		t.Error("the former tenant's data is visible")
	}
	if _, err := n.CreateSnapshot(t.Context(), "s", v.ID); !errors.Is(err, ErrInvalid) {
		t.Errorf("snapshot of a thick volume: %v", err)
	}
}
