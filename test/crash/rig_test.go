// Package crash kills the agent at every step of every operation on the in-memory
// host, and asks again, for the same or for something else.
package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lamina-csi/lamina/driver"
	"github.com/lamina-csi/lamina/driver/drivertest"
	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/mount/mounttest"
	"github.com/lamina-csi/lamina/node/pool"
	"github.com/lamina-csi/lamina/test/invariant"
)

const (
	mib  = 1 << 20
	disk = "/dev/nvme0n1"
)

// rig is a node in memory whose agent can be killed. Calls go to the driver without
// a socket: thousands of agents start here.
type rig struct {
	*driver.Driver
	t      testing.TB
	spec   pool.Spec
	host   *lvmtest.Host
	system *mounttest.System
	pools  *pool.Manager
	dir    string
	kept   map[string]keptData // by volume id

	steps   int // so far
	crashAt int // 0: never
	dead    bool
}

// keptData is what was acknowledged of a volume: it must never change.
type keptData struct {
	made int // which mkfs made it
	data string
}

func newRig(t testing.TB, mode pool.Mode, dir string) *rig {
	return newRigOf(t, mode, dir, drivertest.DiskSize)
}

func newRigOf(t testing.TB, mode pool.Mode, dir string, size int64) *rig {
	t.Helper()
	r := &rig{t: t, spec: drivertest.Spec("fast", mode), host: lvmtest.New(), dir: dir, kept: map[string]keptData{}}
	r.host.AddDisk(disk, size)
	r.system = mounttest.New(devices{r.host})
	r.host.OnStep(func(lvmtest.Step) error { return r.step() })
	r.system.Before, r.system.After = r.mountStep, r.mountStep
	r.start()
	return r
}

type devices struct{ host *lvmtest.Host }

func (d devices) Device(path string) (mounttest.Device, error) { return d.host.Device(path) }

// step counts, and kills the agent at its time: from then on all that it does fails.
func (r *rig) step() error {
	if r.steps++; r.steps == r.crashAt {
		r.dead = true
	}
	if r.dead {
		return lvmtest.ErrCrashed
	}
	return nil
}

func (r *rig) mountStep(cmd mount.Command) error {
	if r.dead {
		return lvmtest.ErrCrashed
	}
	// What only reads changes nothing where it is cut.
	if cmd.Name == "blkid" || cmd.Name == "cryptsetup" && cmd.Args[0] == "status" {
		return nil
	}
	return r.step()
}

// start is a new agent's start.
func (r *rig) start() {
	r.t.Helper()
	r.dead, r.crashAt = false, 0
	r.host.Restart()
	mounter := mount.New(r.system.Config(r.dir))
	r.pools = pool.NewManager(lvm.New(r.host, r.host, lvm.Options{}), mounter)
	dev, err := lvm.ParseDevicePath(disk)
	r.must(err)
	report, err := r.pools.Discover(context.Background())
	r.must(err)
	var blank []lvm.DevicePath
	if len(report.VGs) == 0 {
		blank = append(blank, dev)
	}
	r.must(r.pools.Ensure(context.Background(), r.spec, report, blank))
	r.Driver = driver.New(driver.Config{NodeID: drivertest.NodeID, Pools: r.pools, Mounter: mounter, CgroupRoot: r.dir})
}

// reboot loses what a power cut loses.
func (r *rig) reboot() {
	r.host.Reboot()
	r.system.Reboot()
	r.start()
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// check holds the node to the rules, and every volume to what was acknowledged of it.
func (r *rig) check(when string) {
	r.t.Helper()
	if err := invariant.Check(context.Background(), invariant.Memory(r.host, r.system)); err != nil {
		r.t.Errorf("%s:\n%v", when, err)
	}
	for id, want := range r.kept {
		if got, err := r.content(id); err != nil || got.Made != want.made || got.Data != want.data {
			r.t.Errorf("%s: %s holds %+v (%v), want %+v", when, id, got, err, want)
		}
	}
}

// content is what a volume's filesystem holds. It activates the volume.
func (r *rig) content(id string) (mounttest.Content, error) {
	parsed, err := pool.ParseID(id)
	if err != nil {
		return mounttest.Content{}, err
	}
	dev, err := r.pools.OpenDevice(context.Background(), parsed)
	if err != nil {
		return mounttest.Content{}, err
	}
	return r.system.Content(dev.Path)
}

// keep makes a volume's content something that must not change any more.
func (r *rig) keep(id string) {
	r.t.Helper()
	c, err := r.content(id)
	r.must(err)
	r.kept[id] = keptData{c.Made, c.Data}
}

// state is what LVM and the mount table hold, in words: two ways to one end must
// agree in it.
func (r *rig) state() string {
	r.t.Helper()
	report, err := lvm.New(r.host, r.host, lvm.Options{}).FullReport(context.Background())
	r.must(err)
	var lines []string
	for _, vg := range report.VGs {
		for _, lv := range vg.LVs {
			var tags []string
			for _, tag := range lv.Tags {
				if !strings.HasPrefix(tag.String(), "lamina.instant=") {
					tags = append(tags, tag.String())
				}
			}
			slices.Sort(tags)
			lines = append(lines, fmt.Sprint(lv.Name, " ", lv.Size, " ", lv.Origin, " ", tags))
		}
	}
	for _, m := range r.system.Mounted() {
		what := "device"
		if m.Below != "" {
			what = "mapping"
		}
		lines = append(lines, fmt.Sprint(what, " mounted at ", strings.TrimPrefix(m.Path, r.dir)))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// vg is the UUID of the only volume group.
func (r *rig) vg() string { return r.pools.Statuses()[0].VGUUID }

func capability(fs string) *csi.VolumeCapability {
	c := &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fs}},
	}
	if fs == "" {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	}
	return c
}

// volume is one as kubelet and the provisioner handle it. Its id is known before it
// is made.
type volume struct {
	*rig
	name, fs  string // fs "": block
	encrypted bool
	size      int64
	snapshot  string // id of what it is made from
	clone     string
	ctx       context.Context // of its calls
}

func (r *rig) volume(name, fs string) volume {
	size := map[string]int64{"xfs": 320 * mib, "btrfs": 128 * mib}[fs]
	return volume{rig: r, ctx: context.Background(), name: "pvc-00000000-0000-0000-0000-00000000000" + name, fs: fs, size: max(size, 48*mib)}
}

func (v volume) id() string { return v.vg() + "/" + v.name }

func (v volume) secrets() map[string]string {
	if v.encrypted {
		return map[string]string{driver.PassphraseKey: "correct horse"}
	}
	return nil
}

func (v volume) create() error {
	req := &csi.CreateVolumeRequest{
		Name: v.name, CapacityRange: &csi.CapacityRange{RequiredBytes: v.size}, VolumeCapabilities: []*csi.VolumeCapability{capability(v.fs)},
	}
	if v.encrypted {
		req.Parameters = map[string]string{"encryption": "luks2"}
	}
	if v.snapshot != "" {
		req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: v.snapshot}}}
	}
	if v.clone != "" {
		req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: v.clone}}}
	}
	resp, err := v.CreateVolume(v.ctx, req)
	if err == nil && resp.Volume.VolumeId != v.id() {
		err = fmt.Errorf("created %s, want %s", resp.Volume.VolumeId, v.id())
	}
	return err
}

func (v volume) remove() error {
	_, err := v.DeleteVolume(v.ctx, &csi.DeleteVolumeRequest{VolumeId: v.id()})
	return err
}

func (v volume) staging() string { return filepath.Join(v.dir, "staging-"+v.name) }
func (v volume) target() string  { return filepath.Join(v.dir, "pods", "target-"+v.name) }

func (v volume) stage() error {
	_, err := v.NodeStageVolume(v.ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.id(), StagingTargetPath: v.staging(), VolumeCapability: capability(v.fs), Secrets: v.secrets(),
	})
	return err
}

func (v volume) publish() error {
	if err := os.MkdirAll(filepath.Dir(v.target()), 0o700); err != nil {
		return err
	}
	_, err := v.NodePublishVolume(v.ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.id(), StagingTargetPath: v.staging(), TargetPath: v.target(), VolumeCapability: capability(v.fs),
	})
	return err
}

func (v volume) unpublish() error {
	_, err := v.NodeUnpublishVolume(v.ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.id(), TargetPath: v.target()})
	return err
}

func (v volume) unstage() error {
	_, err := v.NodeUnstageVolume(v.ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.id(), StagingTargetPath: v.staging()})
	return err
}

// expand is both halves of an expansion, of a volume that is staged.
func (v volume) expand() error {
	r := &csi.CapacityRange{RequiredBytes: 2 * v.size}
	_, err := v.ControllerExpandVolume(v.ctx, &csi.ControllerExpandVolumeRequest{VolumeId: v.id(), CapacityRange: r})
	if err != nil {
		return err
	}
	path := v.staging()
	if v.fs == "" {
		path = v.target()
	}
	_, err = v.NodeExpandVolume(v.ctx, &csi.NodeExpandVolumeRequest{VolumeId: v.id(), VolumePath: path, CapacityRange: r})
	return err
}

func (v volume) modify() error {
	_, err := v.ControllerModifyVolume(v.ctx, &csi.ControllerModifyVolumeRequest{
		VolumeId: v.id(), MutableParameters: map[string]string{"readIOPS": "100"},
	})
	return err
}

// fill stages a new volume and leaves data in it that must stay.
func (v volume) fill() {
	v.t.Helper()
	v.must(v.create())
	v.must(v.stage())
	if v.fs != "" && !v.encrypted {
		v.must(v.system.Write(v.staging(), "precious "+v.name))
		v.keep(v.id())
	}
}

const snapUID = "snapshot-00000000-0000-0000-0000-000000000001"

func (v volume) snap() error {
	_, err := v.CreateSnapshot(v.ctx, &csi.CreateSnapshotRequest{Name: snapUID, SourceVolumeId: v.id()})
	return err
}

func (r *rig) snapID() string {
	return r.vg() + "/" + strings.Replace(snapUID, "snapshot-", "snap-", 1)
}

func (r *rig) removeSnap() error {
	_, err := r.DeleteSnapshot(context.Background(), &csi.DeleteSnapshotRequest{SnapshotId: r.snapID()})
	return err
}

func (r *rig) group(volumes ...volume) (string, error) {
	req := &csi.CreateVolumeGroupSnapshotRequest{Name: "group"}
	for _, v := range volumes {
		req.SourceVolumeIds = append(req.SourceVolumeIds, v.id())
	}
	resp, err := r.CreateVolumeGroupSnapshot(context.Background(), req)
	return resp.GetGroupSnapshot().GetGroupSnapshotId(), err
}

// ifThere passes the errors that say that something does not exist.
func ifThere(err error) error {
	if errors.Is(err, pool.ErrNotFound) {
		return nil
	}
	return err
}
