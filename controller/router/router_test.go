package router_test

import (
	"context"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lamina-csi/lamina/controller/fleettest"
	"github.com/lamina-csi/lamina/controller/router"
)

// services is what both a node and a controller serve.
type services interface {
	csi.ControllerClient
	csi.GroupControllerClient
}

// idCall is an RPC about one object.
type idCall struct {
	name    string
	changes bool
	do      func(ctx context.Context, s services, id string) (proto.Message, error)
}

var idCalls = []idCall{
	{"ControllerGetVolume", false, func(ctx context.Context, s services, id string) (proto.Message, error) {
		return s.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: id})
	}},
	{"ControllerGetVolumeHealth", false, func(ctx context.Context, s services, id string) (proto.Message, error) {
		return s.ControllerGetVolumeHealth(ctx, &csi.ControllerGetVolumeHealthRequest{VolumeId: id})
	}},
	{"ValidateVolumeCapabilities", false, func(ctx context.Context, s services, id string) (proto.Message, error) {
		return s.ValidateVolumeCapabilities(ctx, &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: id, VolumeCapabilities: request("").GetVolumeCapabilities(), VolumeContext: map[string]string{"fsType": "ext4"}})
	}},
	{"ControllerModifyVolume", true, func(ctx context.Context, s services, id string) (proto.Message, error) {
		return s.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: map[string]string{"a": "b"}})
	}},
	{"ControllerExpandVolume", true, func(ctx context.Context, s services, id string) (proto.Message, error) {
		return s.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csi.CapacityRange{RequiredBytes: 128 * mib}})
	}},
	{"CreateSnapshot", true, func(ctx context.Context, s services, id string) (proto.Message, error) {
		return s.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: id})
	}},
	{"CreateVolumeGroupSnapshot", true, func(ctx context.Context, s services, id string) (proto.Message, error) {
		return s.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: []string{id}})
	}},
	{"GetSnapshot", false, func(ctx context.Context, s services, id string) (proto.Message, error) {
		return s.GetSnapshot(ctx, &csi.GetSnapshotRequest{SnapshotId: id})
	}},
	{"GetVolumeGroupSnapshot", false, func(ctx context.Context, s services, id string) (proto.Message, error) {
		return s.GetVolumeGroupSnapshot(ctx, &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: id})
	}},
	{"ListSnapshots", false, func(ctx context.Context, s services, id string) (proto.Message, error) {
		return s.ListSnapshots(ctx, &csi.ListSnapshotsRequest{SnapshotId: id})
	}},
	{"ListSnapshots of a volume", false, func(ctx context.Context, s services, id string) (proto.Message, error) {
		return s.ListSnapshots(ctx, &csi.ListSnapshotsRequest{SourceVolumeId: id})
	}},
	{"DeleteVolumeGroupSnapshot", true, func(ctx context.Context, s services, id string) (proto.Message, error) {
		return s.DeleteVolumeGroupSnapshot(ctx, &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: id})
	}},
	{"DeleteSnapshot", true, func(ctx context.Context, s services, id string) (proto.Message, error) {
		return s.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: id})
	}},
	{"DeleteVolume", true, func(ctx context.Context, s services, id string) (proto.Message, error) {
		return s.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	}},
}

// What the router answers is what the node that has the object answers itself; an
// error names the node as well.
func TestAnswersAsTheNode(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	k := c.start(t)
	b := c.node["b"]
	vg := b.VolumeGroup()
	id := k.create(t, "b", request("v", "b"))
	snap := k.snapshot(t, "s0", id)
	group, err := k.CreateVolumeGroupSnapshot(t.Context(), &csi.CreateVolumeGroupSnapshotRequest{Name: "g0", SourceVolumeIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{
		id, snap, group.GetGroupSnapshot().GetGroupSnapshotId(),
		vg + "/pvc-01234567-89ab-cdef-0123-456789abcdef", vg + "/thinpool", vg + "/-y", vg + "/", vg, "", "/", "x", "x/y", "@tag", vg + "/a/b",
	}
	for _, call := range idCalls {
		if call.name == "DeleteVolume" {
			ids = append(ids[1:], id) // snapshots first
		}
		for _, id := range ids {
			want, wantErr := call.do(t.Context(), b, id)
			got, err := call.do(t.Context(), k, id)
			if strings.HasPrefix(call.name, "Delete") { // in that order the second finds nothing
				want, wantErr = call.do(t.Context(), b, id)
			}
			if status.Code(wantErr) == codes.Unimplemented && (id == vg+"/" || !strings.HasPrefix(id, vg+"/")) {
				continue // no node is asked
			}
			if status.Code(err) != status.Code(wantErr) {
				t.Errorf("%s of %q: got %v, the node says %v", call.name, id, err, wantErr)
			}
			if err == nil {
				equal(t, call.name+" of "+id, want, got)
			} else if strings.HasPrefix(id, vg+"/") && id != vg+"/" {
				wantError(t, err, status.Code(err), "node b", status.Convert(wantErr).Message())
			}
		}
	}
	equal(t, "volumes", nil, c.volumes(t))
}

// A node that is away is named at once, with what was asked for; nothing is said
// to be gone or done.
func TestNodeAway(t *testing.T) {
	c := newCluster(t, "a", "b")
	k := c.start(t, func(c *router.Config) { c.NodeHint = func(string) string { return "hinted" } })
	id := k.create(t, "b", request("v", "b"))
	k.unlink(t, c.node["b"])
	for _, call := range idCalls {
		_, err := call.do(t.Context(), k, id)
		wantError(t, err, codes.Unavailable, id, "node b cannot be reached")
		_, err = call.do(t.Context(), k, unknownVG+"/pvc-1")
		wantError(t, err, codes.Unavailable, unknownVG+"/pvc-1", "no linked node has volume group "+unknownVG, "node hinted")
	}
	_, err := k.GetCapacity(t.Context(), &csi.GetCapacityRequest{AccessibleTopology: topology("b")})
	wantError(t, err, codes.Unavailable, "node b")
	for what, err := range map[string]error{
		"ListVolumes":                errOf(k.ListVolumes(t.Context(), &csi.ListVolumesRequest{})),
		"ListSnapshots":              errOf(k.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{})),
		"ControllerListVolumeHealth": errOf(k.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{})),
	} {
		t.Log(what)
		wantError(t, err, codes.Unavailable, "list of", "node b")
	}
	equal(t, "volumes", []string{id}, c.volumes(t))
}

func errOf[A any](_ A, err error) error { return err }

// The link ends while the node works on a call.
func TestLinkEndsDuringCall(t *testing.T) {
	c := newCluster(t, "a")
	k := c.start(t)
	id := k.create(t, "a", request("v"))
	a := c.node["a"]
	a.Around(func(ctx context.Context, _ string, _ func() error) error {
		go a.Unlink()
		<-ctx.Done()
		return ctx.Err()
	})
	_, err := k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
	wantError(t, err, codes.Unavailable, "node a", id)
}

// A disk is carried to another node.
func TestMovedVolume(t *testing.T) {
	c := newCluster(t, "a")
	k := c.start(t)
	id := k.create(t, "a", request("v"))
	k.unlink(t, c.node["a"])
	b := c.AddTwin(t, "b", c.node["a"])
	k.link(t, b)
	resp, err := k.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "topology", []*csi.Topology{topology("b")}, resp.GetVolume().GetAccessibleTopology())
	if _, err := k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
		t.Error(err)
	}
	equal(t, "volumes", nil, c.volumes(t))
}

// A disk is shared, or copied: which of two nodes is meant, only a person knows.
func TestDoubledVolumeGroup(t *testing.T) {
	c := newCluster(t, "a", "z")
	k := c.start(t)
	id := k.create(t, "a", request("v", "a"))
	vg := c.node["a"].VolumeGroup()
	b := c.AddTwin(t, "b", c.node["a"])
	k.link(t, b)
	before := c.volumes(t)
	for _, call := range idCalls {
		_, err := call.do(t.Context(), k, id)
		if call.changes {
			wantError(t, err, codes.FailedPrecondition, id, "nodes a and b", vg)
		} else if status.Code(err) == codes.FailedPrecondition && strings.Contains(err.Error(), "same time") {
			t.Errorf("%s changes nothing and is refused: %v", call.name, err)
		}
	}
	clone := request("clone")
	clone.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id},
	}}
	_, err := k.CreateVolume(t.Context(), clone)
	wantError(t, err, codes.FailedPrecondition, id, "nodes a and b", vg)
	for _, r := range []*csi.CreateVolumeRequest{request("x", "a"), request("x", "b"), request("x", "a", "b")} {
		_, err := k.CreateVolume(t.Context(), r)
		wantError(t, err, codes.FailedPrecondition, "volume x", "nodes a and b", vg)
	}
	equal(t, "volumes", before, c.volumes(t))
	k.create(t, "z", request("x", "a", "b", "z"))

	k.unlink(t, b)
	if _, err := k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
		t.Error(err)
	}
}

// What was given up with its node is deleted in name only, and only if the node
// cannot be asked.
func TestForgotten(t *testing.T) {
	c := newCluster(t, "a", "b")
	all := func(c *router.Config) { c.Forgotten = func(string) bool { return true } }
	k := c.start(t, all)
	onA, onB := k.create(t, "a", request("on a", "a")), k.create(t, "b", request("on b", "b"))
	k.unlink(t, c.node["a"])
	for _, id := range []string{onA, unknownVG + "/pvc-1", onB} {
		if _, err := k.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: id}); (err != nil) != (id == onB) {
			t.Errorf("delete snapshot %s: %v", id, err)
		}
		if _, err := k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
			t.Errorf("delete volume %s: %v", id, err)
		}
		_, err := k.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: id})
		if id != onB {
			wantError(t, err, codes.Unavailable, id)
		}
	}
	equal(t, "volumes", []string{onA}, c.volumes(t))
	if log := k.log.String(); !strings.Contains(log, onA) || !strings.Contains(log, "nothing was touched") {
		t.Errorf("no word in the log:\n%s", log)
	}
	_, err := k.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: onA})
	wantError(t, err, codes.Unavailable, onA)
}

// The controller promises what its nodes do.
func TestCapabilities(t *testing.T) {
	c := newCluster(t, "a")
	k := c.start(t)
	a := c.node["a"]
	ctx := t.Context()
	same := func(what string, want, got proto.Message, err1, err2 error) {
		t.Helper()
		equal(t, what, want, got)
		equal(t, what, nil, err1)
		equal(t, what, nil, err2)
	}
	info1, err1 := a.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	info2, err2 := k.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	same("info", info1, info2, err1, err2)
	caps1, err1 := a.GetPluginCapabilities(ctx, &csi.GetPluginCapabilitiesRequest{})
	caps2, err2 := k.GetPluginCapabilities(ctx, &csi.GetPluginCapabilitiesRequest{})
	same("plugin", caps1, caps2, err1, err2)
	ctrl1, err1 := a.ControllerGetCapabilities(ctx, &csi.ControllerGetCapabilitiesRequest{})
	ctrl2, err2 := k.ControllerGetCapabilities(ctx, &csi.ControllerGetCapabilitiesRequest{})
	same("controller", ctrl1, ctrl2, err1, err2)
	group1, err1 := a.GroupControllerGetCapabilities(ctx, &csi.GroupControllerGetCapabilitiesRequest{})
	group2, err2 := k.GroupControllerGetCapabilities(ctx, &csi.GroupControllerGetCapabilitiesRequest{})
	same("group controller", group1, group2, err1, err2)
	probe1, err1 := a.Probe(ctx, &csi.ProbeRequest{})
	probe2, err2 := k.Probe(ctx, &csi.ProbeRequest{})
	same("probe", probe1, probe2, err1, err2)
}

// Secrets go to the node and nowhere else; a panic ends one call only.
func TestLog(t *testing.T) {
	c := newCluster(t, "a")
	k := c.start(t, func(c *router.Config) { c.Forgotten = func(string) bool { panic("at the disco") } })
	r := request("v")
	r.Secrets = map[string]string{"passphrase": "swordfish"}
	k.create(t, "a", r)
	_, err := k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: unknownVG + "/pvc-1", Secrets: r.Secrets})
	wantError(t, err, codes.Internal, "DeleteVolume panicked")
	k.create(t, "a", r)
	log := k.log.String()
	if strings.Contains(log, "swordfish") {
		t.Errorf("the secret is in the log:\n%s", log)
	}
	for _, word := range []string{"at the disco", `"method":"CreateVolume"`, "stripped"} {
		if !strings.Contains(log, word) {
			t.Errorf("%q is not in the log:\n%s", word, log)
		}
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(k.router)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]uint64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			calls[f.GetName()+" "+m.GetLabel()[1].GetValue()+" "+m.GetLabel()[0].GetValue()] = m.GetHistogram().GetSampleCount()
		}
	}
	equal(t, "calls", map[string]uint64{
		"lamina_controller_csi_request_duration_seconds CreateVolume OK":       2,
		"lamina_controller_csi_request_duration_seconds DeleteVolume Internal": 1,
		"lamina_controller_node_request_duration_seconds CreateVolume OK":      2,
	}, calls)
}

var _ services = (*fleettest.Node)(nil)
