package driver_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/lamina-csi/lamina/driver/drivertest"
	"github.com/lamina-csi/lamina/node/pool"
)

func newRegistry(t *testing.T, c prometheus.Collector) *prometheus.Registry {
	t.Helper()
	r := prometheus.NewRegistry()
	if err := r.Register(c); err != nil {
		t.Fatal(err)
	}
	return r
}

// What an agent declares depends on whether a pool of it can do snapshots.
func TestCapabilities(t *testing.T) {
	common := []string{"CREATE_DELETE_VOLUME", "EXPAND_VOLUME", "GET_CAPACITY", "GET_VOLUME", "GET_VOLUME_HEALTH",
		"LIST_VOLUMES", "LIST_VOLUME_HEALTH", "MODIFY_VOLUME", "SINGLE_NODE_MULTI_WRITER"}
	thin := append([]string{"CLONE_VOLUME", "CREATE_DELETE_SNAPSHOT", "GET_SNAPSHOT", "LIST_SNAPSHOTS"}, common...)
	slices.Sort(thin)
	for name, tt := range map[string]struct {
		specs []pool.Spec
		want  []string
		group bool
	}{
		"thin":  {[]pool.Spec{drivertest.Spec("a", pool.Thin)}, thin, true},
		"mixed": {[]pool.Spec{drivertest.Spec("a", pool.Thin), drivertest.Spec("b", pool.Thick)}, thin, true},
		"thick": {[]pool.Spec{drivertest.Spec("a", pool.Thick)}, common, false},
		"none":  {nil, thin, true},
	} {
		t.Run(name, func(t *testing.T) {
			n := drivertest.New(t, tt.specs...)
			resp, err := n.ControllerGetCapabilities(t.Context(), &csi.ControllerGetCapabilitiesRequest{})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, c := range resp.GetCapabilities() {
				got = append(got, c.GetRpc().GetType().String())
			}
			slices.Sort(got)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			plugin, err := n.GetPluginCapabilities(t.Context(), &csi.GetPluginCapabilitiesRequest{})
			if err != nil || strings.Contains(fmt.Sprint(plugin), "GROUP_CONTROLLER_SERVICE") != tt.group {
				t.Errorf("plugin: %v, %v", plugin, err)
			}
			group, err := n.GroupControllerGetCapabilities(t.Context(), &csi.GroupControllerGetCapabilitiesRequest{})
			if err != nil || (len(group.GetCapabilities()) == 1) != tt.group {
				t.Errorf("group: %v, %v", group, err)
			}
		})
	}
}

func TestPoolChoice(t *testing.T) {
	two := node{drivertest.New(t, drivertest.Spec("fast", pool.Thin), drivertest.Spec("slow", pool.Thick))}
	_, err := two.CreateVolume(t.Context(), request("v"))
	wantError(t, err, codes.InvalidArgument, "pool is missing", "fast, slow")
	two.create(t, request("v", params("pool", "slow")))
	_, err = two.CreateVolume(t.Context(), request("v", params("pool", "fast")))
	wantError(t, err, codes.AlreadyExists, "slow")

	none := node{drivertest.New(t)}
	_, err = none.CreateVolume(t.Context(), request("v"))
	wantError(t, err, codes.ResourceExhausted, "no pool")

	one := thick(t)
	v := one.create(t, request("v")).GetVolumeId()
	_, err = one.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v})
	wantError(t, err, codes.InvalidArgument, "thick")
	_, err = one.CreateVolume(t.Context(), request("c", fromVolume(v)))
	wantError(t, err, codes.InvalidArgument, "thick")
}

func TestSnapshotParameters(t *testing.T) {
	n := thin(t)
	v := n.create(t, request("v")).GetVolumeId()
	check := n.unchanged(t)
	_, err := n.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v, Parameters: map[string]string{"expire": "1d"}})
	wantError(t, err, codes.InvalidArgument, `"expire"`)
	_, err = n.CreateVolumeGroupSnapshot(t.Context(), &csi.CreateVolumeGroupSnapshotRequest{Name: "s", SourceVolumeIds: []string{v}, Parameters: map[string]string{"x": "y"}})
	wantError(t, err, codes.InvalidArgument, `"x"`)
	_, err = n.CreateVolumeGroupSnapshot(t.Context(), &csi.CreateVolumeGroupSnapshotRequest{Name: "s"})
	wantError(t, err, codes.InvalidArgument, "source_volume_ids")
	check()
	if _, err := n.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v,
		Parameters: map[string]string{"csi.storage.k8s.io/volumesnapshot/name": "mine"}}); err != nil {
		t.Error(err)
	}
	other := n.create(t, request("other")).GetVolumeId()
	_, err = n.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: other})
	wantError(t, err, codes.AlreadyExists, `"s"`, v)
}

// Pages hold every volume once, in order, and entries that go meanwhile disturb
// nothing.
func TestPaging(t *testing.T) {
	n := thin(t)
	want := map[string]bool{}
	for i := range 7 {
		want[n.create(t, request(fmt.Sprint("v", i))).GetVolumeId()] = true
	}
	var got []string
	token := ""
	for pages := 0; ; pages++ {
		resp, err := n.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: 3, StartingToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range resp.GetEntries() {
			got = append(got, e.GetVolume().GetVolumeId())
		}
		if token = resp.GetNextToken(); token == "" {
			if pages != 2 {
				t.Errorf("%d pages", pages+1)
			}
			break
		}
		// The token's own volume goes.
		if _, err := n.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: token}); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != len(want) || !slices.IsSorted(got) {
		t.Errorf("got %v", got)
	}
	for _, id := range got {
		if !want[id] {
			t.Errorf("got %s", id)
		}
	}
	for _, bad := range []string{"x", "3", got[0] + "/", "invalid-token"} {
		_, err := n.ListVolumes(t.Context(), &csi.ListVolumesRequest{StartingToken: bad})
		wantError(t, err, codes.Aborted, bad)
		_, err = n.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{StartingToken: bad})
		wantError(t, err, codes.Aborted, bad)
		_, err = n.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{StartingToken: bad})
		wantError(t, err, codes.Aborted, bad)
	}
	_, err := n.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: -1})
	wantError(t, err, codes.InvalidArgument, "-1")
}

// What GetCapacity promises, CreateVolume gives; one extent more it refuses.
func TestCapacity(t *testing.T) {
	for name, make := range map[string]func(testing.TB) node{"thin": thin, "thick": thick} {
		t.Run(name, func(t *testing.T) {
			n := make(t)
			xfs := []*csi.VolumeCapability{mounted(writer, "xfs")}
			get := func(r *csi.GetCapacityRequest) *csi.GetCapacityResponse {
				t.Helper()
				resp, err := n.GetCapacity(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				return resp
			}
			c := get(&csi.GetCapacityRequest{VolumeCapabilities: xfs})
			largest, smallest := c.GetMaximumVolumeSize().GetValue(), c.GetMinimumVolumeSize().GetValue()
			if smallest != 300*mib || largest < drivertest.DiskSize/2 || c.GetAvailableCapacity() < largest {
				t.Errorf("capacity %v", c)
			}
			_, err := n.CreateVolume(t.Context(), request("v", size(largest+4*mib)))
			wantError(t, err, codes.ResourceExhausted)
			n.create(t, request("small", capabilities(xfs...), sized(smallest, smallest)))
			n.create(t, request("large", size(get(&csi.GetCapacityRequest{}).GetMaximumVolumeSize().GetValue()), blockVolume))
			if c := get(&csi.GetCapacityRequest{VolumeCapabilities: xfs}); c.GetAvailableCapacity() != 0 || c.GetMaximumVolumeSize().GetValue() != 0 {
				t.Errorf("capacity of a full pool: %v", c)
			}
			for what, r := range map[string]*csi.GetCapacityRequest{
				"another node":  {AccessibleTopology: &csi.Topology{Segments: map[string]string{"topology.lamina.dev/node": "n"}}},
				"another pool":  {Parameters: map[string]string{"pool": "none"}},
				"impossible":    {VolumeCapabilities: []*csi.VolumeCapability{mounted(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, "")}},
				"no filesystem": {VolumeCapabilities: []*csi.VolumeCapability{mounted(writer, "ntfs")}},
			} {
				if c := get(r); c.GetAvailableCapacity() != 0 || c.GetMaximumVolumeSize() == nil || c.GetMaximumVolumeSize().GetValue() != 0 {
					t.Errorf("%s: %v", what, c)
				}
			}
			_, err = n.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: map[string]string{"pol": "x"}})
			wantError(t, err, codes.InvalidArgument, `"pol"`)
		})
	}
}

func TestGroup(t *testing.T) {
	n := thin(t)
	a, b := n.create(t, request("a")).GetVolumeId(), n.create(t, request("b")).GetVolumeId()
	r := &csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: []string{a, b}}
	var g *csi.VolumeGroupSnapshot
	for range 2 {
		resp, err := n.CreateVolumeGroupSnapshot(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if g != nil && g.GetGroupSnapshotId() != resp.GetGroupSnapshot().GetGroupSnapshotId() {
			t.Errorf("second call gave %v after %v", resp, g)
		}
		g = resp.GetGroupSnapshot()
	}
	if len(g.GetSnapshots()) != 2 || !g.GetReadyToUse() {
		t.Fatalf("group %v", g)
	}
	_, err := n.CreateVolumeGroupSnapshot(t.Context(), &csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: []string{a}})
	wantError(t, err, codes.AlreadyExists, `"g"`)
	member := g.GetSnapshots()[0]
	_, err = n.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: member.GetSnapshotId()})
	wantError(t, err, codes.InvalidArgument, g.GetGroupSnapshotId())
	_, err = n.GetVolumeGroupSnapshot(t.Context(), &csi.GetVolumeGroupSnapshotRequest{
		GroupSnapshotId: g.GetGroupSnapshotId(), SnapshotIds: []string{member.GetSnapshotId()}})
	wantError(t, err, codes.InvalidArgument, "snapshot_ids", g.GetGroupSnapshotId())
	_, err = n.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{
		GroupSnapshotId: g.GetGroupSnapshotId(), SnapshotIds: []string{member.GetSnapshotId()}})
	wantError(t, err, codes.InvalidArgument, "snapshot_ids")
	n.create(t, request("restore", fromSnapshot(member.GetSnapshotId())))
	for range 2 {
		if _, err := n.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: g.GetGroupSnapshotId()}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = n.GetVolumeGroupSnapshot(t.Context(), &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: g.GetGroupSnapshotId()})
	wantError(t, err, codes.NotFound, g.GetGroupSnapshotId())
	list, err := n.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{})
	if err != nil || len(list.GetEntries()) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}

func TestValidateCapabilities(t *testing.T) {
	n := thin(t)
	id := n.create(t, request("v")).GetVolumeId()
	for name, tt := range map[string]struct {
		use    *csi.VolumeCapability
		params map[string]string
		word   string // "": confirmed
	}{
		"same":       {mounted(writer, "ext4"), map[string]string{"pool": "fast"}, ""},
		"read-only":  {mounted(reader, ""), nil, ""},
		"block":      {block(writer), nil, "filesystem volume"},
		"filesystem": {mounted(writer, "xfs"), nil, "ext4"},
		"many":       {mounted(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, ""), nil, "one node"},
		"parameter":  {mounted(writer, ""), map[string]string{"tier": "gold"}, `"tier"`},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := n.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
				VolumeId: id, VolumeCapabilities: []*csi.VolumeCapability{tt.use}, Parameters: tt.params})
			if err != nil || (resp.GetConfirmed() != nil) != (tt.word == "") || !strings.Contains(resp.GetMessage(), tt.word) {
				t.Errorf("%v, %v", resp, err)
			}
		})
	}
}

// A missing disk is told of the pool and of every volume on it.
func TestHealth(t *testing.T) {
	n := thin(t)
	id := n.create(t, request("v")).GetVolumeId()
	if s, err := n.NodeGetStorageHealth(t.Context(), &csi.NodeGetStorageHealthRequest{}); err != nil || len(s.GetBackendHealth()) != 0 {
		t.Errorf("%v, %v", s, err)
	}
	if l, err := n.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{}); err != nil || len(l.GetEntries()) != 0 {
		t.Errorf("%v, %v", l, err)
	}
	if h, err := n.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: id}); err != nil || h.GetVolumeHealth().GetVolumeId() != id {
		t.Errorf("%v, %v", h, err)
	}
	n.Host.FailDisk("/dev/nvme0n1")
	s, err := n.NodeGetStorageHealth(t.Context(), &csi.NodeGetStorageHealthRequest{})
	if err != nil || len(s.GetBackendHealth()) != 1 || s.GetBackendHealth()[0].GetReason() != "PoolError" || !strings.Contains(s.GetBackendHealth()[0].GetMessage(), "fast") {
		t.Errorf("%v, %v", s, err)
	}
	_, err = n.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: id})
	if err == nil || errors.Is(err, pool.ErrNotFound) {
		t.Errorf("health of what cannot be read: %v", err)
	}
}
