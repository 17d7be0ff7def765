package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
	"github.com/lamina-csi/lamina/node/disk"
	"github.com/lamina-csi/lamina/node/pool"
	"github.com/lamina-csi/lamina/test/invariant"
)

const gib = 1 << 30

// fakeDisks lists NVMe disks; vetting refuses those with a reason.
type fakeDisks struct {
	disks   []disk.Disk
	refuses map[string]string
}

func (f *fakeDisks) List(context.Context) ([]disk.Disk, error) { return f.disks, nil }

func (f *fakeDisks) Vet(_ context.Context, d disk.Disk) error {
	if why := f.refuses[d.Path]; why != "" {
		return errors.New(why)
	}
	return nil
}

func newTestAgent(t *testing.T, pools string, paths ...string) (*Agent, *fakeDisks, *lvmtest.Host) {
	t.Helper()
	h, f := lvmtest.New(), &fakeDisks{refuses: map[string]string{}}
	invariant.After(t, h, nil)
	for _, p := range paths {
		h.AddDisk(p, 10*gib)
		f.disks = append(f.disks, disk.Disk{Path: p, Transport: "nvme", Size: 10 * gib})
	}
	a := NewAgent(pool.NewManager(lvm.New(h, h, lvm.Options{}), nil), f, h, slog.New(slog.DiscardHandler))
	want(t, a, pools)
	return a, f, h
}

func want(t *testing.T, a *Agent, pools string) {
	t.Helper()
	wanted, err := ParsePools([]byte(pools))
	if err != nil {
		t.Fatal(err)
	}
	a.Want(wanted)
}

// told is what a status says, in short.
type told struct {
	Pool    string
	Wanted  bool
	Disks   []string
	Refused []string
	Err     bool
}

func statuses(a *Agent) []told {
	var out []told
	for _, s := range a.Statuses() {
		x := told{Pool: s.Name, Wanted: s.Wanted, Disks: s.Disks, Err: s.Err != ""}
		for _, r := range s.Refused {
			x.Refused = append(x.Refused, r.Disk)
		}
		out = append(out, x)
	}
	return out
}

func check(t *testing.T, a *Agent, want ...told) {
	t.Helper()
	a.Reconcile(t.Context())
	if diff := cmp.Diff(want, statuses(a)); diff != "" {
		t.Errorf("statuses (-want +got):\n%s", diff)
	}
}

func TestReconcile(t *testing.T) {
	a, f, h := newTestAgent(t, "pools: {fast: nvme}", "/dev/nvme0n1", "/dev/nvme1n1")
	f.refuses["/dev/nvme1n1"] = "holds a filesystem"
	if a.Ready() {
		t.Error("it is ready before it has looked")
	}
	check(t, a, told{"fast", true, []string{"/dev/nvme0n1"}, []string{"/dev/nvme1n1"}, false})
	if !a.Ready() {
		t.Error("it is not ready")
	}
	f.refuses = map[string]string{"/dev/nvme0n1": "holds LVM2_member"}
	check(t, a, told{"fast", true, []string{"/dev/nvme0n1", "/dev/nvme1n1"}, nil, false})

	before := len(h.Commands())
	check(t, a, told{"fast", true, []string{"/dev/nvme0n1", "/dev/nvme1n1"}, nil, false})
	for _, c := range h.Commands()[before:] {
		if c.Name != "fullreport" {
			t.Errorf("nothing is to do, and %s ran", c.Name)
		}
	}
	want(t, a, "pools: {}")
	check(t, a, told{"fast", false, []string{"/dev/nvme0n1", "/dev/nvme1n1"}, nil, false})
}

// An lvm that is kept waiting says nothing of a pool that is there.
func TestReconcileWhileLVMHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, h := newTestAgent(t, "pools: {fast: nvme}", "/dev/nvme0n1")
		hangs := func(s lvmtest.Step) error {
			if s.Call == "fullreport" {
				return fmt.Errorf("run fullreport: %w", context.DeadlineExceeded)
			}
			return nil
		}
		h.OnStep(hangs)
		check(t, a, told{Pool: "fast", Wanted: true, Err: true})
		h.OnStep(nil)
		well := told{Pool: "fast", Wanted: true, Disks: []string{"/dev/nvme0n1"}}
		check(t, a, well)
		h.OnStep(hangs)
		check(t, a, well)
		h.OnStep(nil)
		time.Sleep(pollPools)
		synctest.Wait()
		if len(a.changed) != 1 {
			t.Error("it does not look again soon")
		}
	})
}

func TestConflictingClaimsTakeNothing(t *testing.T) {
	a, _, h := newTestAgent(t, "pools: {fast: nvme, other: nvme}", "/dev/nvme0n1")
	check(t, a,
		told{"fast", true, nil, []string{"/dev/nvme0n1"}, true},
		told{"other", true, nil, []string{"/dev/nvme0n1"}, true})
	for _, c := range h.Commands() {
		if c.Name != "fullreport" {
			t.Errorf("%s ran", c.Name)
		}
	}
}

func TestCount(t *testing.T) {
	const pools = "{profiles: {two: {disks: {count: 2}}}, pools: {fast: two}}"
	a, f, h := newTestAgent(t, pools, "/dev/nvme0n1", "/dev/nvme1n1", "/dev/nvme2n1")
	check(t, a, told{"fast", true, []string{"/dev/nvme0n1", "/dev/nvme1n1"}, []string{"/dev/nvme2n1"}, false})
	// Disks that are missing are the pool's still.
	h.MissDisk("/dev/nvme1n1")
	f.disks = f.disks[2:]
	check(t, a, told{"fast", true, []string{"/dev/nvme0n1"}, []string{"/dev/nvme2n1"}, false})
}

// Missing disks have no path; each counts all the same.
func TestMissingDisksCount(t *testing.T) {
	tag, err := lvm.ParseTag("lamina.pool=fast")
	if err != nil {
		t.Fatal(err)
	}
	missing := lvm.PVReport{Device: "[unknown]", Missing: true}
	seen := lvm.Report{VGs: []lvm.VGReport{{Tags: []lvm.Tag{tag}, PVs: []lvm.PVReport{{Device: "/dev/nvme0n1"}, missing, missing}}}}
	if got := newClaims(nil, nil, seen).taken["fast"]; got != 3 {
		t.Errorf("the pool has %d disks, want 3", got)
	}
}

// eventless is a kernel that has no events to wait for.
type eventless struct {
	*lvmtest.Host
	asked int
}

func (e *eventless) WaitEvent(context.Context) error { e.asked++; return errors.New("no such device") }

// Without events the pools are looked at from time to time, not all the time.
func TestWatchPoolsWithoutEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, h := newTestAgent(t, "pools: {}")
		kernel := &eventless{Host: h}
		a.dm = kernel
		ctx, cancel := context.WithTimeout(t.Context(), 10*(pollPools+pausePools)+time.Second)
		defer cancel()
		a.watchPools(ctx)
		if kernel.asked != 11 {
			t.Errorf("it asked %d times, want 11", kernel.asked)
		}
	})
}

// moduleless is a kernel that lacks modules, by target.
type moduleless struct {
	*lvmtest.Host
	lacks map[string]string
}

func (m *moduleless) LoadTarget(target string) error {
	if module := m.lacks[target]; module != "" {
		return &lvm.MissingModuleError{Module: module, Err: syscall.EINVAL}
	}
	return m.Host.LoadTarget(target)
}

// A pool waits for the module that it needs, says what to do, and is made once the
// module is there. Meanwhile the others are served.
func TestMissingModule(t *testing.T) {
	h := lvmtest.New()
	kernel := &moduleless{Host: h, lacks: map[string]string{"thin-pool": "dm_thin_pool"}}
	f := &fakeDisks{}
	for _, p := range []string{"/dev/nvme0n1", "/dev/nvme1n1"} {
		h.AddDisk(p, 10*gib)
		f.disks = append(f.disks, disk.Disk{Path: p, Transport: "nvme", Serial: p[5:10], Size: 10 * gib})
	}
	a := NewAgent(pool.NewManager(lvm.New(h, kernel, lvm.Options{}), nil), f, kernel, slog.New(slog.DiscardHandler))
	want(t, a, `{profiles: {thick: {mode: thick, disks: {serial: nvme0}}, thin: {disks: {serial: nvme1}}}, pools: {a: thick, b: thin}}`)

	check(t, a, told{"a", true, []string{"/dev/nvme0n1"}, nil, false}, told{"b", true, nil, nil, true})
	if err := a.Lacks(); err == nil || !a.Ready() {
		t.Errorf("lacks %v, ready %t", err, a.Ready())
	}
	text := a.Statuses()[1].Err
	for _, word := range []string{"modprobe dm_thin_pool", "modules-load.d", "kind: KernelModuleConfig, name: dm_thin_pool", "machine.kernel.modules: [{name: dm_thin_pool}]"} {
		if !strings.Contains(text, word) {
			t.Errorf("%q is not in %q", word, text)
		}
	}
	// The controller clips the text of a condition there (controller/pools, maxText).
	if len(text) > 500-32 {
		t.Errorf("%d bytes: %s", len(text), text)
	}

	kernel.lacks = nil
	check(t, a, told{"a", true, []string{"/dev/nvme0n1"}, nil, false}, told{"b", true, []string{"/dev/nvme1n1"}, nil, false})
	if err := a.Lacks(); err != nil {
		t.Error(err)
	}
	kernel.lacks = map[string]string{"linear": "dm_mod"}
	a.Reconcile(t.Context())
	if err := a.Lacks(); err == nil || !strings.Contains(err.Error(), "modprobe dm_mod") {
		t.Errorf("without device-mapper it lacks %v", err)
	}
}

func TestModuleEvent(t *testing.T) {
	for msg, want := range map[string]bool{
		"add@/module/dm_thin_pool\x00ACTION=add": true,
		"remove@/module/dm_thin_pool":            false,
		"add@/module/xfs":                        false,
	} {
		if got := moduleEvent([]byte(msg)); got != want {
			t.Errorf("%q: %t", msg, got)
		}
	}
}

func TestDiskEvent(t *testing.T) {
	for _, c := range []struct {
		msg  string
		want bool
	}{
		{"add@/x|DEVPATH=/devices/pci0/nvme/nvme0/nvme0n1|SUBSYSTEM=block|DEVTYPE=disk", true},
		{"add@/x|DEVPATH=/devices/virtual/block/dm-0|SUBSYSTEM=block|DEVTYPE=disk", false},
		{"add@/x|DEVPATH=/devices/pci0/x|SUBSYSTEM=block|DEVTYPE=partition", false},
		{"add@/x|SUBSYSTEM=net", false},
		{"", false},
	} {
		if got := diskEvent([]byte(strings.ReplaceAll(c.msg, "|", "\x00"))); got != c.want {
			t.Errorf("%q: %t", c.msg, got)
		}
	}
}

// A disk that a person adds to a group is seen soon, and one look is enough for one that
// is missing.
func TestOutdated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _, h := newTestAgent(t, "pools: {fast: nvme}", "/dev/nvme0n1")
		check(t, a, told{Pool: "fast", Wanted: true, Disks: []string{"/dev/nvme0n1"}})
		<-a.changed // what was wanted has been reached
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		a.dm = &eventless{Host: h}
		go func() {
			defer close(done)
			a.watchPools(ctx)
		}()
		time.Sleep(2 * pollPools)
		if len(a.changed) != 0 {
			t.Error("it looks although nothing has changed")
		}
		h.AddDisk("/dev/nvme1n1", 10*gib)
		client := lvm.New(h, h, lvm.Options{})
		var devs []lvm.DevicePath
		for _, path := range []string{"/dev/nvme0n1", "/dev/nvme1n1"} {
			dev, err := lvm.ParseDevicePath(path)
			if err != nil {
				t.Fatal(err)
			}
			devs = append(devs, dev)
		}
		vg, err := lvm.ParseVGName("lamina-fast")
		if err != nil {
			t.Fatal(err)
		}
		if err := client.VGExtend(t.Context(), lvm.Group{Name: vg, Devices: devs[:1]}, devs[1:], 16<<20); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * pollPools)
		if len(a.changed) != 1 {
			t.Error("it does not look")
		}
		<-a.changed
		time.Sleep(2 * pollPools)
		if len(a.changed) != 0 {
			t.Error("it looks again and again")
		}
		cancel()
		<-done
	})
}
