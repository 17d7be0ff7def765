package lvmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lamina-csi/lamina/lvm"
)

// fixture is a host with a group and a pool of 16 MiB on two disks.
type fixture struct {
	*testing.T
	h     *Host
	c     *lvm.Client
	g     lvm.Group
	calls context.Context
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	h := New()
	f := &fixture{T: t, h: h, c: lvm.New(h, h, lvm.Options{}), calls: t.Context()}
	f.g.Name = must(lvm.ParseVGName("vg"))
	for _, p := range []string{"/dev/nvme0n1", "/dev/nvme1n1"} {
		h.AddDisk(p, 256*mib)
		f.g.Devices = append(f.g.Devices, must(lvm.ParseDevicePath(p)))
	}
	f.ok(f.c.VGCreate(f.calls, lvm.VGCreate{Group: f.g, MetadataSize: mib}))
	f.ok(f.c.LVCreateThinPool(f.calls, lvm.ThinPoolCreate{
		NewLV: f.new("pool0"), Size: 16 * mib, MetadataSize: 4 * mib, ChunkSize: 64 << 10,
	}))
	return f
}

func (f *fixture) ok(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) is(err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Fatalf("error is %v, want %v", err, want)
	}
}

func (f *fixture) new(name string) lvm.NewLV { return lvm.NewLV{Group: f.g, Name: lvName(name)} }

func (f *fixture) thin(name string) error {
	return f.c.LVCreateThin(f.calls, f.new(name), pool, 8*mib)
}

func (f *fixture) snapshot(name, origin string) error {
	return f.c.LVCreateSnapshot(f.calls, lvm.LVSnapshot{NewLV: f.new(name), Origin: lvName(origin), ReadOnly: true})
}

func (f *fixture) device(name string) Device {
	f.Helper()
	d, err := f.h.Device("/dev/vg/" + name)
	f.ok(err)
	return d
}

func (f *fixture) write(name string, off int64, data []byte) {
	f.Helper()
	_, err := f.device(name).WriteAt(data, off)
	f.ok(err)
}

func (f *fixture) holds(name string, want []byte) {
	f.Helper()
	got := make([]byte, len(want))
	_, err := f.device(name).ReadAt(got, 0)
	f.ok(err)
	if !bytes.Equal(got, want) {
		f.Fatalf("%s begins with %q, want %q", name, got[:min(8, len(got))], want[:min(8, len(want))])
	}
}

func TestUnknownIsRefused(t *testing.T) {
	f := newFixture(t)
	for _, cmd := range []lvm.Command{
		{Name: "lvs"},
		{Name: "lvremove", Args: []string{"--force", "--", "vg/a"}},
		{Name: "lvremove", Args: []string{"--yes", "vg/a"}},
		{Name: "lvremove", Args: []string{"--yes", "--", "@tag"}},
		{Name: "lvremove", Args: []string{"--yes", "--", "vg"}},
		{Name: "lvcreate", Args: []string{"--name", "a", "--type", "thin", "--virtualsize", "1g", "--", "vg/pool0"}},
		{Name: "lvcreate", Args: []string{"--name", "a", "--type", "thin", "--virtualsize", "1000b", "--", "vg/pool0"}},
		{Name: "lvcreate", Args: []string{"--name", "a_tdata", "--type", "thin", "--virtualsize", "512b", "--", "vg/pool0"}},
		{Name: "lvcreate", Args: []string{"--name", "a", "--type", "cache", "--", "vg"}},
	} {
		res, err := f.h.Run(f.calls, cmd)
		f.ok(err)
		if res.Exit != 3 || len(res.Stderr) == 0 {
			t.Errorf("%v: exit %d, %s", cmd, res.Exit, res.Stderr)
		}
	}
}

func TestDisksThatAreRefused(t *testing.T) {
	f := newFixture(t)
	f.h.AddSignedDisk("/dev/nvme2n1", 256*mib, "ext4")
	f.h.AddDisk("/dev/nvme3n1", 256*mib)
	f.h.AddForeignVG("theirs", []string{"x"}, "/dev/nvme3n1")
	f.h.AddDisk("/dev/nvme4n1", 256*mib)
	f.h.FailDisk("/dev/nvme4n1")
	for _, p := range []string{"/dev/nvme2n1", "/dev/nvme3n1", "/dev/nvme4n1", "/dev/nvme9n1", "/dev/nvme0n1"} {
		dev := must(lvm.ParseDevicePath(p))
		before := f.generation()
		if err := f.c.VGExtend(f.calls, f.g, []lvm.DevicePath{dev}, mib); err == nil {
			t.Errorf("%s was taken", p)
		}
		if f.generation() != before {
			t.Errorf("%s: the group changed", p)
		}
	}
	theirs := lvm.Group{Name: must(lvm.ParseVGName("theirs")), Devices: []lvm.DevicePath{must(lvm.ParseDevicePath("/dev/nvme3n1"))}}
	vg, err := f.c.ReadVG(theirs)
	f.ok(err)
	if _, ok := vg.LV(lvName("data")); !ok {
		t.Errorf("%+v", vg)
	}
}

func (f *fixture) generation() lvm.Generation {
	f.Helper()
	raw, err := f.h.ReadMetadata(f.g.Devices[0], lvm.Generation{})
	f.ok(err)
	return raw.Generation
}

func TestFullPool(t *testing.T) {
	f := newFixture(t)
	f.ok(f.c.LVCreateThin(f.calls, f.new("a"), pool, 64*mib))
	f.write("a", 0, pattern("aaaa", 16*mib))
	_, err := f.device("a").WriteAt([]byte("b"), 32*mib)
	f.is(err, syscall.ENOSPC)
	status, err := f.c.PoolStatus(f.g.Name, pool)
	f.ok(err)
	if status.Mode != lvm.PoolOutOfSpace {
		t.Errorf("mode %s", status.Mode)
	}
	// What has a chunk can be written again.
	f.write("a", 0, []byte("bbbb"))
	f.ok(f.c.LVExtend(f.calls, f.g, pool, 32*mib))
	status, err = f.c.PoolStatus(f.g.Name, pool)
	f.ok(err)
	if status.Mode != lvm.PoolReadWrite {
		t.Errorf("mode %s after growth", status.Mode)
	}
	f.write("a", 32*mib, []byte("b"))
}

func TestFullMetadata(t *testing.T) {
	f := newFixture(t)
	f.ok(f.thin("a"))
	f.h.FillMetadata("vg", "pool0", 900)
	f.ok(f.h.WaitEvent(f.calls))
	f.is(f.thin("b"), lvm.ErrNoSpace)
	f.ok(f.c.LVExtendPoolMetadata(f.calls, f.g, pool, 16*mib))
	f.ok(f.thin("b"))
}

// Half of the metadata area is usable: the text is written beside the old one.
func TestVGMetadataFills(t *testing.T) {
	f := newFixture(t)
	var tags []lvm.Tag
	for c := range 20 {
		tags = append(tags, must(lvm.ParseTag(strings.Repeat(string(rune('a'+c)), 1024))))
	}
	for n := range 100 {
		l := f.new(fmt.Sprintf("lv-%d", n))
		l.Tags = tags
		if err := f.c.LVCreateThin(f.calls, l, pool, 4*mib); err != nil {
			f.is(err, lvm.ErrNoSpace)
			vg, err := f.c.ReadVG(f.g)
			f.ok(err)
			if n < 45 || n > 50 || vg.MetadataFree > 24<<10 {
				t.Errorf("full after %d volumes of 21 KiB, %d bytes free of %d", n, vg.MetadataFree, vg.MetadataSize)
			}
			return
		}
	}
	t.Error("2 MiB of text fit a metadata area of 2 MiB")
}

func TestReboot(t *testing.T) {
	f := newFixture(t)
	f.ok(f.thin("a"))
	f.write("a", 0, pattern("aaaa", mib))
	d := f.device("a")
	f.ok(f.h.Open("/dev/vg/a"))
	f.ok(f.h.Suspend("vg-a"))
	blocked := make(chan error, 1)
	go func() {
		_, err := d.WriteAt([]byte("x"), 0)
		blocked <- err
	}()
	f.h.Reboot()
	f.is(<-blocked, syscall.ENXIO)
	if _, err := f.h.Info("vg-a"); !errors.Is(err, lvm.ErrNotFound) {
		t.Errorf("active after a reboot: %v", err)
	}
	f.ok(f.c.LVActivate(f.calls, f.g, lvName("a")))
	f.holds("a", pattern("aaaa", mib))
}

func TestSuspendedIOWaits(t *testing.T) {
	f := newFixture(t)
	f.ok(f.thin("a"))
	f.ok(f.h.Suspend("vg-a"))
	done := make(chan error, 1)
	d := f.device("a")
	go func() {
		_, err := d.WriteAt([]byte("x"), 0)
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("a suspended device was written: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	f.ok(f.h.Resume("vg-a"))
	f.ok(<-done)
	f.holds("a", []byte("x"))
}

func TestDeviceEnds(t *testing.T) {
	f := newFixture(t)
	f.ok(f.thin("a"))
	d := f.device("a")
	buf := make([]byte, 8)
	n, err := d.ReadAt(buf, d.Size()-4)
	if n != 4 || !errors.Is(err, io.EOF) {
		t.Errorf("read at the end: %d, %v", n, err)
	}
	if n, err := d.WriteAt(buf, d.Size()-4); n != 4 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("write at the end: %d, %v", n, err)
	}
	if _, err := f.h.Device("/dev/dm-99"); !errors.Is(err, lvm.ErrNotFound) {
		t.Errorf("no device: %v", err)
	}
}

func TestMissingDisk(t *testing.T) {
	f := newFixture(t)
	f.ok(f.thin("a"))
	f.ok(f.c.LVCreateThick(f.calls, f.new("r"), 8*mib, lvm.Layout{Type: lvm.Raid1}))
	f.write("r", 0, pattern("rrrr", mib))
	f.h.MissDisk("/dev/nvme1n1")
	before, err := f.c.ReadVG(f.g)
	f.ok(err)
	if err := f.thin("b"); err == nil || errors.Is(err, lvm.ErrNotFound) || errors.Is(err, lvm.ErrNoSpace) {
		t.Errorf("a volume in a group without one of its disks: %v", err)
	}
	after, err := f.c.ReadVG(f.g)
	f.ok(err)
	if diff := cmp.Diff(before.Seqno, after.Seqno); diff != "" {
		t.Error(diff)
	}
	report, err := f.c.FullReport(f.calls)
	f.ok(err)
	if report.VGs[0].Missing != 1 {
		t.Errorf("%d missing", report.VGs[0].Missing)
	}
	f.holds("r", pattern("rrrr", mib)) // the other half
	f.h.MissDisk("/dev/nvme0n1")
	if _, err := f.c.ReadVG(f.g); !errors.Is(err, lvm.ErrNotFound) {
		t.Errorf("read without any disk: %v", err)
	}
	f.h.ReturnDisk("/dev/nvme0n1")
	f.h.ReturnDisk("/dev/nvme1n1")
	f.ok(f.thin("b"))
	f.h.FailDisk("/dev/nvme0n1")
	if _, err := f.device("a").ReadAt(make([]byte, 1), 0); err != nil {
		t.Errorf("a chunk that is not mapped: %v", err)
	}
	_, err = f.device("a").WriteAt(make([]byte, 1), 0)
	f.is(err, syscall.EIO)
}

// A disk that was away when the group changed holds old metadata.
func TestStaleDisk(t *testing.T) {
	f := newFixture(t)
	f.h.MissDisk("/dev/nvme1n1")
	f.ok(f.c.LVRemove(f.calls, f.g, pool))
	f.h.ReturnDisk("/dev/nvme1n1")
	stale := lvm.Group{Name: f.g.Name, Devices: f.g.Devices[1:]}
	old, err := f.c.ReadVG(stale)
	f.ok(err)
	if _, ok := old.LV(pool); !ok {
		t.Error("the disk that was away knows of the removal")
	}
	vg, err := f.c.ReadVG(f.g)
	f.ok(err)
	if _, ok := vg.LV(pool); ok {
		t.Error("the older copy counts")
	}
}
