package router_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// acrossRequest is for a group of two volumes on node a and one on node b.
func (k *controller) acrossRequest(t *testing.T) *csi.CreateVolumeGroupSnapshotRequest {
	return &csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: []string{
		k.create(t, "a", request("v1", "a")), k.create(t, "b", request("v2", "b")), k.create(t, "a", request("v3", "a")),
	}}
}

// snapshots counts those on all nodes.
func (c cluster) snapshots(t *testing.T) (n int) {
	t.Helper()
	for _, node := range c.node {
		list, err := node.Pools.ListSnapshots()
		if err != nil {
			t.Fatal(err)
		}
		n += len(list)
	}
	return n
}

func members(g *csi.VolumeGroupSnapshot) (snapshots, sources []string) {
	for _, s := range g.GetSnapshots() {
		snapshots = append(snapshots, s.GetSnapshotId())
		sources = append(sources, s.GetSourceVolumeId())
	}
	slices.Sort(sources)
	return snapshots, sources
}

func TestGroupAcross(t *testing.T) {
	c := newCluster(t, "a", "b")
	k := c.start(t)
	req := k.acrossRequest(t)
	made, err := k.CreateVolumeGroupSnapshot(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := k.CreateVolumeGroupSnapshot(t.Context(), req)
	equal(t, "again", nil, err)
	equal(t, "again", made, again)
	g := made.GetGroupSnapshot()
	snapshots, sources := members(g)
	want := slices.Sorted(slices.Values(req.GetSourceVolumeIds()))
	equal(t, "sources", want, sources)
	equal(t, "ready", true, g.GetReadyToUse())
	equal(t, "snapshots", 3, c.snapshots(t))

	got, err := k.GetVolumeGroupSnapshot(t.Context(), &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: g.GetGroupSnapshotId(), SnapshotIds: snapshots})
	equal(t, "get", nil, err)
	equal(t, "get", g, got.GetGroupSnapshot())

	other := &csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: req.GetSourceVolumeIds()[:2]}
	_, err = k.CreateVolumeGroupSnapshot(t.Context(), other)
	wantError(t, err, codes.AlreadyExists, "g")

	for range 2 {
		_, err = k.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: g.GetGroupSnapshotId(), SnapshotIds: snapshots})
		equal(t, "delete", nil, err)
	}
	equal(t, "snapshots after the delete", 0, c.snapshots(t))
}

// One node is away: nothing is made on the other.
func TestGroupAcrossAway(t *testing.T) {
	c := newCluster(t, "a", "b")
	k := c.start(t)
	req := k.acrossRequest(t)
	k.unlink(t, c.node["b"])
	_, err := k.CreateVolumeGroupSnapshot(t.Context(), req)
	wantError(t, err, codes.Unavailable, "node b")
	equal(t, "snapshots", 0, c.snapshots(t))
}

// The controller loses the answer to each call to a node in turn, or the call itself,
// and ends. The next one makes the group whole, of one attempt, and nothing else.
func TestGroupAcrossSurvivesEveryCall(t *testing.T) {
	for _, done := range []bool{false, true} {
		for fail := 0; ; fail++ {
			calls := 0
			t.Run(fmt.Sprintf("call %d done %v", fail, done), func(t *testing.T) { calls = testAcrossFailure(t, fail, done) })
			if t.Failed() || fail >= calls {
				if fail == 0 {
					t.Error("no call was counted")
				}
				break
			}
		}
	}
}

// testAcrossFailure returns how many calls a whole creation made.
func testAcrossFailure(t *testing.T, fail int, done bool) (calls int) {
	c := newCluster(t, "a", "b")
	k := c.start(t)
	req := k.acrossRequest(t)
	var mu sync.Mutex
	for _, n := range c.node {
		n.Around(func(_ context.Context, _ string, call func() error) error {
			mu.Lock()
			mine := calls
			calls++
			mu.Unlock()
			if mine != fail {
				return call()
			}
			if done {
				_ = call() // the answer is lost, whatever it is
			}
			return status.Error(codes.Unavailable, "lost")
		})
	}
	_, err := k.CreateVolumeGroupSnapshot(t.Context(), req)
	if failed := fail < calls; failed == (err == nil) {
		t.Errorf("%d calls, error %v", calls, err)
	}
	k.stop()
	for _, n := range c.node {
		n.Around(nil)
	}

	k = c.start(t)
	made, err := k.CreateVolumeGroupSnapshot(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	snapshots, sources := members(made.GetGroupSnapshot())
	equal(t, "sources", slices.Sorted(slices.Values(req.GetSourceVolumeIds())), sources)
	equal(t, "ready", true, made.GetGroupSnapshot().GetReadyToUse())
	equal(t, "snapshots", 3, c.snapshots(t))
	_, err = k.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{
		GroupSnapshotId: made.GetGroupSnapshot().GetGroupSnapshotId(), SnapshotIds: snapshots,
	})
	equal(t, "delete", nil, err)
	equal(t, "snapshots after the delete", 0, c.snapshots(t))
	return calls
}
