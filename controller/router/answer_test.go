package router_test

import (
	"context"
	"math"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/lamina-csi/lamina/controller/fleettest"
	"github.com/lamina-csi/lamina/driver/link"
)

// liar is an agent that somebody has taken over: it answers what it likes. Its link
// is that of node b.
type liar struct {
	*fleettest.Agent
	csi.UnimplementedControllerServer
	csi.UnimplementedGroupControllerServer
	answer proto.Message
}

func (l *liar) CreateVolume(context.Context, *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	return proto.CloneOf(l.answer.(*csi.CreateVolumeResponse)), nil
}

func (l *liar) ControllerGetVolume(context.Context, *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	return proto.CloneOf(l.answer.(*csi.ControllerGetVolumeResponse)), nil
}

func (l *liar) CreateSnapshot(context.Context, *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	return proto.CloneOf(l.answer.(*csi.CreateSnapshotResponse)), nil
}

func (l *liar) GetSnapshot(context.Context, *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	return proto.CloneOf(l.answer.(*csi.GetSnapshotResponse)), nil
}

func (l *liar) ListSnapshots(context.Context, *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	return proto.CloneOf(l.answer.(*csi.ListSnapshotsResponse)), nil
}

func (l *liar) ListVolumes(context.Context, *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	return proto.CloneOf(l.answer.(*csi.ListVolumesResponse)), nil
}

func (l *liar) ControllerListVolumeHealth(context.Context, *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	return proto.CloneOf(l.answer.(*csi.ControllerListVolumeHealthResponse)), nil
}

func (l *liar) GetCapacity(context.Context, *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	return proto.CloneOf(l.answer.(*csi.GetCapacityResponse)), nil
}

func (l *liar) CreateVolumeGroupSnapshot(context.Context, *csi.CreateVolumeGroupSnapshotRequest) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	return proto.CloneOf(l.answer.(*csi.CreateVolumeGroupSnapshotResponse)), nil
}

func (l *liar) GetVolumeGroupSnapshot(context.Context, *csi.GetVolumeGroupSnapshotRequest) (*csi.GetVolumeGroupSnapshotResponse, error) {
	return proto.CloneOf(l.answer.(*csi.GetVolumeGroupSnapshotResponse)), nil
}

const (
	liarsVG = "LLLLLL-0000-0000-0000-0000-0000-LLLLLL"
	noVG    = "NNNNNN-0000-0000-0000-0000-0000-NNNNNN"
	pvcName = "pvc-01234567-89ab-cdef-0123-456789abcdef"
)

// newLiar links a liar as node b, beside an honest node a.
func newLiar(t *testing.T) (*liar, *controller, cluster) {
	c := newCluster(t, "a")
	l := &liar{Agent: fleettest.NewAgent(&link.PoolStatus{
		Name: "fast", Vg: "lamina-fast", VgUuid: liarsVG, Mode: "thin", Wanted: true, Disks: []string{"/dev/nvme0n1"}, Health: "ok",
	})}
	s := grpc.NewServer()
	link.RegisterPoolsServer(s, l.Agent)
	csi.RegisterControllerServer(s, l)
	csi.RegisterGroupControllerServer(s, l)
	c.Up(t, "b", s)
	k := c.start(t, noSettle)
	k.until(t, func() bool { return k.sees("b") })
	return l, k, c
}

// A node that says that its volume is another's, or lies elsewhere, gets no
// PersistentVolume of it: that would mount the other volume for a claim.
func TestLiarCreates(t *testing.T) {
	l, k, c := newLiar(t)
	victim := k.create(t, "a", request("victim", "a"))
	honest := func() *csi.Volume {
		return &csi.Volume{VolumeId: liarsVG + "/" + pvcName, CapacityBytes: 64 * mib, AccessibleTopology: []*csi.Topology{topology("b")}}
	}
	l.answer = &csi.CreateVolumeResponse{Volume: honest()}
	if got := k.create(t, "b", request(pvcName, "b")); got != liarsVG+"/"+pvcName {
		t.Errorf("an honest answer became %s", got)
	}
	for name, lie := range map[string]func(*csi.Volume){
		"another node's volume":       func(v *csi.Volume) { v.VolumeId = victim },
		"another node's volume there": func(v *csi.Volume) { v.VolumeId, v.AccessibleTopology = victim, []*csi.Topology{topology("a")} },
		"another node's volume group": func(v *csi.Volume) { v.VolumeId = c.node["a"].VolumeGroup() + "/" + pvcName },
		"a group of no node":          func(v *csi.Volume) { v.VolumeId = noVG + "/" + pvcName },
		"another volume of its own":   func(v *csi.Volume) { v.VolumeId = liarsVG + "/pvc-of-another" },
		"no id":                       func(v *csi.Volume) { v.VolumeId = "" },
		"an id with a path":           func(v *csi.Volume) { v.VolumeId = liarsVG + "/../" + pvcName },
		"a huge id":                   func(v *csi.Volume) { v.VolumeId = strings.Repeat("x", 1<<20) },
		"on another node":             func(v *csi.Volume) { v.AccessibleTopology = []*csi.Topology{topology("a")} },
		"on two nodes":                func(v *csi.Volume) { v.AccessibleTopology = []*csi.Topology{topology("b"), topology("a")} },
		"on all nodes":                func(v *csi.Volume) { v.AccessibleTopology = nil },
		"on more than the node":       func(v *csi.Volume) { v.AccessibleTopology[0].Segments["kubernetes.io/os"] = "linux" },
		"made from another":           func(v *csi.Volume) { v.ContentSource = fromVolume(victim) },
		"smaller":                     func(v *csi.Volume) { v.CapacityBytes = 1 },
		"negative":                    func(v *csi.Volume) { v.CapacityBytes = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			v := honest()
			lie(v)
			l.answer = &csi.CreateVolumeResponse{Volume: v}
			resp, err := k.CreateVolume(t.Context(), request(pvcName, "b"))
			wantError(t, err, codes.Internal, "node b", "refused")
			if resp != nil || len(err.Error()) > 1000 {
				t.Errorf("answer %v, error of %d bytes", resp, len(err.Error()))
			}
		})
	}
	t.Run("nothing", func(t *testing.T) {
		l.answer = &csi.CreateVolumeResponse{}
		_, err := k.CreateVolume(t.Context(), request(pvcName, "b"))
		wantError(t, err, codes.Internal, "refused")
	})
}

func fromVolume(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
}

// What a node says of volumes, snapshots and groups that are not its own reaches
// nobody.
func TestLiarTells(t *testing.T) {
	l, k, _ := newLiar(t)
	victim := k.create(t, "a", request("victim", "a"))
	taken := k.snapshot(t, "taken", victim)
	own, ownSnap := liarsVG+"/"+pvcName, liarsVG+"/snap-1"
	there := []*csi.Topology{topology("b")}
	ctx := t.Context()
	snap := func(id, volume string) *csi.Snapshot {
		return &csi.Snapshot{SnapshotId: id, SourceVolumeId: volume, ReadyToUse: true}
	}
	group := func(id string, list ...*csi.Snapshot) *csi.VolumeGroupSnapshot {
		return &csi.VolumeGroupSnapshot{GroupSnapshotId: id, Snapshots: list, ReadyToUse: true}
	}
	create := func() (err error) {
		_, err = k.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: own})
		return err
	}
	get := func() (err error) {
		_, err = k.GetSnapshot(ctx, &csi.GetSnapshotRequest{SnapshotId: ownSnap})
		return err
	}
	volume := func() (err error) {
		_, err = k.ControllerGetVolume(ctx, &csi.ControllerGetVolumeRequest{VolumeId: own})
		return err
	}
	volumes := func() (err error) { _, err = k.ListVolumes(ctx, &csi.ListVolumesRequest{}); return err }
	snapshots := func() (err error) {
		_, err = k.ListSnapshots(ctx, &csi.ListSnapshotsRequest{SourceVolumeId: own})
		return err
	}
	health := func() (err error) {
		_, err = k.ControllerListVolumeHealth(ctx, &csi.ControllerListVolumeHealthRequest{})
		return err
	}
	makeGroup := func() (err error) {
		_, err = k.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: []string{own}})
		return err
	}
	getGroup := func() (err error) {
		_, err = k.GetVolumeGroupSnapshot(ctx, &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: liarsVG + "/g-1", SnapshotIds: []string{ownSnap}})
		return err
	}
	volumeList := func(v *csi.Volume) *csi.ListVolumesResponse {
		return &csi.ListVolumesResponse{Entries: []*csi.ListVolumesResponse_Entry{{Volume: v}}}
	}
	snapshotList := func(s *csi.Snapshot) *csi.ListSnapshotsResponse {
		return &csi.ListSnapshotsResponse{Entries: []*csi.ListSnapshotsResponse_Entry{{Snapshot: s}}}
	}
	for _, tt := range []struct {
		name   string
		call   func() error
		answer proto.Message
		ok     bool
	}{
		{"snapshot", create, &csi.CreateSnapshotResponse{Snapshot: snap(ownSnap, own)}, true},
		{"another node's snapshot", create, &csi.CreateSnapshotResponse{Snapshot: snap(taken, victim)}, false},
		{"another node's snapshot as of its own volume", create, &csi.CreateSnapshotResponse{Snapshot: snap(taken, own)}, false},
		{"snapshot of another volume", create, &csi.CreateSnapshotResponse{Snapshot: snap(ownSnap, liarsVG+"/pvc-2")}, false},
		{"no snapshot", create, &csi.CreateSnapshotResponse{}, false},
		{"get a snapshot", get, &csi.GetSnapshotResponse{Snapshot: snap(ownSnap, own)}, true},
		{"get another snapshot", get, &csi.GetSnapshotResponse{Snapshot: snap(liarsVG+"/snap-2", own)}, false},
		{"get another node's", get, &csi.GetSnapshotResponse{Snapshot: snap(taken, victim)}, false},
		{"get a volume", volume, &csi.ControllerGetVolumeResponse{Volume: &csi.Volume{VolumeId: own, AccessibleTopology: there}}, true},
		{"get another node's volume", volume, &csi.ControllerGetVolumeResponse{Volume: &csi.Volume{VolumeId: victim, AccessibleTopology: there}}, false},
		{"get a volume elsewhere", volume, &csi.ControllerGetVolumeResponse{Volume: &csi.Volume{VolumeId: own, AccessibleTopology: []*csi.Topology{topology("a")}}}, false},
		{"list volumes", volumes, volumeList(&csi.Volume{VolumeId: own, AccessibleTopology: there}), true},
		{"list another node's volume", volumes, volumeList(&csi.Volume{VolumeId: victim, AccessibleTopology: there}), false},
		{"list nothing as a volume", volumes, volumeList(nil), false},
		{"list snapshots", snapshots, snapshotList(snap(ownSnap, own)), true},
		{"list another node's snapshot", snapshots, snapshotList(snap(taken, victim)), false},
		{"list another volume's snapshot", snapshots, snapshotList(snap(ownSnap, liarsVG+"/pvc-2")), false},
		{"health", health, &csi.ControllerListVolumeHealthResponse{Entries: []*csi.VolumeHealth{{VolumeId: own}}}, true},
		{"health of another node's", health, &csi.ControllerListVolumeHealthResponse{Entries: []*csi.VolumeHealth{{VolumeId: victim}}}, false},
		{"group", makeGroup, &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: group(liarsVG+"/g-1", snap(ownSnap, own))}, true},
		{"group with another node's snapshot", makeGroup, &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: group(liarsVG+"/g-1", snap(ownSnap, own), snap(taken, victim))}, false},
		{"group with another volume", makeGroup, &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: group(liarsVG+"/g-1", snap(ownSnap, liarsVG+"/pvc-2"))}, false},
		{"group without an id", makeGroup, &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: group("", snap(ownSnap, own))}, false},
		{"get a group", getGroup, &csi.GetVolumeGroupSnapshotResponse{GroupSnapshot: group(liarsVG+"/g-1", snap(ownSnap, own))}, true},
		{"get a group of others", getGroup, &csi.GetVolumeGroupSnapshotResponse{GroupSnapshot: group(liarsVG+"/g-1", snap(taken, victim))}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l.answer = tt.answer
			err := tt.call()
			if tt.ok && err != nil {
				t.Errorf("an honest answer is refused: %v", err)
			} else if !tt.ok {
				wantError(t, err, codes.Internal, "node b", "refused")
			}
		})
	}
}

// A node that claims too much room takes none of the others', and does not make
// the sum overflow.
func TestLiarsCapacity(t *testing.T) {
	l, k, c := newLiar(t)
	real := c.node["a"].Pools.Statuses()[0].Free
	for lie, want := range map[int64]int64{math.MinInt64: real, -1: real, math.MaxInt64: math.MaxInt64} {
		l.answer = &csi.GetCapacityResponse{AvailableCapacity: lie}
		resp, err := k.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: map[string]string{"pool": "fast"}})
		if err != nil || resp.GetAvailableCapacity() != want {
			t.Errorf("%d became %d, want %d (%v)", lie, resp.GetAvailableCapacity(), want, err)
		}
	}
}
