package driver_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/driver/drivertest"
	"github.com/lamina-csi/lamina/node/pool"
)

const (
	mib = int64(1) << 20
	gib = int64(1) << 30
)

type mode = csi.VolumeCapability_AccessMode_Mode

const (
	writer       = csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	singleWriter = csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	multiWriter  = csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	reader       = csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
)

func mounted(m mode, fsType string, flags ...string) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: m},
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fsType, MountFlags: flags}},
	}
}

func block(m mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: m},
		AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
	}
}

func capRange(required, limit int64) *csi.CapacityRange {
	return &csi.CapacityRange{RequiredBytes: required, LimitBytes: limit}
}

// node is a node in memory with shorthands.
type node struct{ *drivertest.Node }

func thin(t testing.TB) node  { return node{drivertest.New(t, drivertest.Spec("fast", pool.Thin))} }
func thick(t testing.TB) node { return node{drivertest.New(t, drivertest.Spec("slow", pool.Thick))} }

// request is one that works; change makes it another.
func request(name string, change ...func(*csi.CreateVolumeRequest)) *csi.CreateVolumeRequest {
	r := &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      capRange(64*mib, 0),
		VolumeCapabilities: []*csi.VolumeCapability{mounted(writer, "")},
	}
	for _, f := range change {
		f(r)
	}
	return r
}

func blockVolume(r *csi.CreateVolumeRequest) {
	r.VolumeCapabilities = []*csi.VolumeCapability{block(writer)}
}

func encryptedVolume(r *csi.CreateVolumeRequest) {
	r.Parameters = map[string]string{"encryption": "luks2"}
}

func size(n int64) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) { r.CapacityRange = capRange(n, 0) }
}

func fromVolume(id string) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) {
		r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id},
		}}
	}
}

func fromSnapshot(id string) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) {
		r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id},
		}}
	}
}

func (n node) create(t testing.TB, r *csi.CreateVolumeRequest) *csi.Volume {
	t.Helper()
	resp, err := n.CreateVolume(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetVolume()
}

func (n node) snapshot(t testing.TB, name, volume string) *csi.Snapshot {
	t.Helper()
	resp, err := n.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: volume})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetSnapshot()
}

// path is one below kubelet's directory; its parent is made.
func (n node) path(t testing.TB, name string) string {
	t.Helper()
	p := filepath.Join(n.KubeletDir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o750); err != nil {
		t.Fatal(err)
	}
	return p
}

func (n node) stage(t testing.TB, volume string, c *csi.VolumeCapability, secrets map[string]string) (string, error) {
	t.Helper()
	path := n.path(t, "staging/"+filepath.Base(volume))
	_, err := n.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{
		VolumeId: volume, StagingTargetPath: path, VolumeCapability: c, Secrets: secrets,
	})
	return path, err
}

func (n node) publish(t testing.TB, volume, target string, c *csi.VolumeCapability, readOnly bool) error {
	t.Helper()
	_, err := n.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: volume, StagingTargetPath: n.path(t, "staging/"+filepath.Base(volume)),
		TargetPath: target, VolumeCapability: c, Readonly: readOnly,
	})
	return err
}

// wantError holds an error to its code and to the words that a person needs.
func wantError(t testing.TB, err error, code codes.Code, words ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("code %s, want %s: %v", status.Code(err), code, err)
	}
	for _, w := range words {
		if !strings.Contains(fmt.Sprint(status.Convert(err).Message()), w) {
			t.Errorf("message %q does not say %q", status.Convert(err).Message(), w)
		}
	}
}

// unchanged fails if LVM ran or a mount was made since.
func (n node) unchanged(t testing.TB) (check func()) {
	t.Helper()
	n.System.Commands()
	commands, steps := len(n.Host.Commands()), n.Host.Steps()
	return func() {
		t.Helper()
		if got := n.Host.Commands()[commands:]; len(got) > 0 {
			t.Errorf("lvm ran: %v", got)
		}
		if got := n.Host.Steps() - steps; got > 0 {
			t.Errorf("%d changes of the host", got)
		}
		for _, c := range n.System.Commands() {
			if c.Name != "blkid" && (c.Name != "cryptsetup" || len(c.Args) == 0 || c.Args[0] != "status") {
				t.Errorf("ran %s %v", c.Name, c.Args)
			}
		}
	}
}
