package invariant_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lamina-csi/lamina/driver/drivertest"
	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/node/pool"
	"github.com/lamina-csi/lamina/test/invariant"
)

// node has a volume that is staged, with data, and a thick pool beside it.
type node struct {
	*drivertest.Node
	t       *testing.T
	id      pool.ID
	dm      string // device-mapper's name of the volume
	staging string
	group   lvm.Group
	view    invariant.Node
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{Node: drivertest.New(t, drivertest.Spec("fast", pool.Thin)), t: t}
	capability := &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
	}
	resp, err := n.CreateVolume(t.Context(), &csi.CreateVolumeRequest{
		Name: "a", VolumeCapabilities: []*csi.VolumeCapability{capability}, CapacityRange: &csi.CapacityRange{RequiredBytes: 64 << 20},
	})
	n.must(err)
	n.staging = filepath.Join(n.KubeletDir, "staging")
	_, err = n.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{
		VolumeId: resp.Volume.VolumeId, StagingTargetPath: n.staging, VolumeCapability: capability,
	})
	n.must(err)
	n.must(n.System.Write(n.staging, "precious"))
	n.id, err = pool.ParseID(resp.Volume.VolumeId)
	n.must(err)
	n.group.Name, err = lvm.ParseVGName("lamina-fast")
	n.must(err)
	disk, err := lvm.ParseDevicePath("/dev/nvme0n1")
	n.must(err)
	n.group.Devices = []lvm.DevicePath{disk}
	n.dm = lvm.DMName(n.group.Name, n.id.LV, "")
	n.view = invariant.Memory(n.Host, n.System)
	n.must(invariant.Check(t.Context(), n.view))
	return n
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) tags(add, del string) {
	n.t.Helper()
	parse := func(s string) []lvm.Tag {
		if s == "" {
			return nil
		}
		tag, err := lvm.ParseTag(s)
		n.must(err)
		return []lvm.Tag{tag}
	}
	n.must(n.view.Client.LVChangeTags(n.t.Context(), n.group, n.id.LV, parse(add), parse(del)))
}

func (n *node) tpool() string {
	name, err := lvm.ParseLVName(pool.ThinPoolLV)
	n.must(err)
	return lvm.DMName(n.group.Name, name, "tpool")
}

// Each violation that is planted is found.
func TestCheckFindsViolations(t *testing.T) {
	cases := map[string]struct {
		plant func(*node)
		want  string
		fake  bool // it is only shown, and gone when the test ends
	}{
		"no state":          {func(n *node) { n.tags("", "lamina.state=ready") }, "without the tag lamina.state", false},
		"no kind":           {func(n *node) { n.tags("", "lamina.kind=volume") }, "no kind", false},
		"unknown tag":       {func(n *node) { n.tags("lamina.colour=red", "") }, "unknown tag lamina.colour=red", false},
		"bad value":         {func(n *node) { n.tags("lamina.fs=zfs", "lamina.fs=ext4") }, "tag lamina.fs=zfs", false},
		"tag twice":         {func(n *node) { n.tags("lamina.size=1", "") }, "two tags lamina.size", false},
		"another's name":    {func(n *node) { n.tags("lamina.name=b", "lamina.name=a") }, "it would be named v-", false},
		"suspended":         {func(n *node) { n.must(n.Host.Suspend(n.dm)) }, "is suspended", false},
		"pool suspended":    {func(n *node) { n.must(n.Host.Suspend(n.tpool())) }, "tpool is suspended", false},
		"device too small":  {extendMetadata, "LVM's metadata says 134217728", false},
		"transaction":       {func(n *node) { n.must(n.Host.Message(n.tpool(), "set_transaction_id 1 2")) }, "the kernel is at transaction 2, LVM at 1", false},
		"thin device":       {func(n *node) { n.must(n.Host.Message(n.tpool(), "create_thin 99")) }, "the kernel has the thin devices [1 99], LVM [1]", false},
		"data":              {func(n *node) { n.must(n.Host.Zero("/dev/mapper/"+n.dm, 0, 4096)) }, "does not hold what was written", false},
		"frozen":            {func(n *node) { n.must(n.System.Config(n.KubeletDir).Kernel.Freeze(n.staging)) }, "is frozen", false},
		"mounted twice":     {mountAgain, "two mounts lie at", false},
		"device is gone":    {func(n *node) { n.must(n.deactivate()) }, "no such device is there", false},
		"unknown device":    {unknownDevice, "belongs to no logical volume", true},
		"metadata snapshot": {metadataSnapshot, "a metadata snapshot was left behind", true},
		"lvm and disk":      {otherReport, "the disk says", true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			c.plant(n)
			if err := invariant.Check(t.Context(), n.view); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if !c.fake {
				n.After.Leaves(c.want)
			}
		})
	}
}

func extendMetadata(n *node) {
	_, err := n.Host.Run(n.t.Context(), lvm.Command{Name: "lvextend", Args: []string{
		"--devices", "/dev/nvme0n1", "--driverloaded", "n", "--size", "134217728b", "--", n.group.Name.String() + "/" + n.id.LV.String(),
	}})
	n.must(err)
}

func mountAgain(n *node) {
	info, err := n.Host.Info(n.dm)
	n.must(err)
	n.must(n.System.Config(n.KubeletDir).Mounts.Mount(info.Path(), n.staging, "ext4", nil))
}

// deactivate takes the volume away below its mount, which no kernel would do.
func (n *node) deactivate() error {
	return n.view.Client.LVDeactivate(n.t.Context(), n.group, n.id.LV)
}

func unknownDevice(n *node) {
	real := n.view.Devices
	n.view.Devices = func() ([]lvm.DeviceInfo, error) {
		list, err := real()
		return append(list, lvm.DeviceInfo{Name: "ghost", UUID: list[0].UUID[:len("LVM-")+32] + strings.Repeat("x", 32)}), err
	}
}

// changedHost shows a host otherwise than it is.
type changedHost struct {
	lvm.Kernel
	lvm.Runner
	status, report *strings.Replacer
}

func (h changedHost) Status(name string) ([]lvm.Target, error) {
	list, err := h.Kernel.Status(name)
	list = slices.Clone(list)
	for i := range list {
		list[i].Params = h.status.Replace(list[i].Params)
	}
	return list, err
}

func (h changedHost) Run(ctx context.Context, cmd lvm.Command) (lvm.Result, error) {
	res, err := h.Runner.Run(ctx, cmd)
	res.Stdout = []byte(h.report.Replace(string(res.Stdout)))
	return res, err
}

func (n *node) show(status, report *strings.Replacer) {
	h := changedHost{n.Host, n.Host, status, report}
	n.view.Client = lvm.New(h, h, lvm.Options{})
}

func metadataSnapshot(n *node) {
	n.show(strings.NewReplacer(" - rw ", " 7 rw "), strings.NewReplacer())
}

func otherReport(n *node) { n.show(strings.NewReplacer(), strings.NewReplacer("67108864", "71303168")) }

// A finding that a test announces must be there: a leftover that is gone is noticed.
func TestLeaves(t *testing.T) {
	var f failures
	f.run(func(t testing.TB) {
		n := drivertest.New(t)
		n.After.Leaves("no such finding")
	})
	if !strings.Contains(f.text.String(), `nothing is wrong that says "no such finding"`) {
		t.Errorf("it failed with %q", f.text.String())
	}
}

// failures is a test that only collects how it fails.
type failures struct {
	testing.TB
	text    strings.Builder
	cleanup []func()
}

func (f *failures) run(test func(testing.TB)) {
	test(f)
	for _, c := range slices.Backward(f.cleanup) {
		c()
	}
}

func (f *failures) Helper()                   {}
func (f *failures) Failed() bool              { return false }
func (f *failures) Cleanup(c func())          { f.cleanup = append(f.cleanup, c) }
func (f *failures) Errorf(s string, a ...any) { fmt.Fprintf(&f.text, s, a...) }
