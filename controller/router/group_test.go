package router_test

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

func TestGroupOnOneNode(t *testing.T) {
	c := newCluster(t, "a", "b")
	k := c.start(t)
	req := &csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: []string{
		k.create(t, "b", request("v1", "b")), k.create(t, "b", request("v2", "b")),
	}}
	made, err := k.CreateVolumeGroupSnapshot(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := k.CreateVolumeGroupSnapshot(t.Context(), req)
	equal(t, "again", made, again)
	equal(t, "again", nil, err)
	g := made.GetGroupSnapshot()
	var members []string
	for _, s := range g.GetSnapshots() {
		members = append(members, s.GetSnapshotId())
	}
	got, err := k.GetVolumeGroupSnapshot(t.Context(), &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: g.GetGroupSnapshotId(), SnapshotIds: members})
	equal(t, "get", g, got.GetGroupSnapshot())
	equal(t, "get", nil, err)
	_, err = k.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: g.GetGroupSnapshotId(), SnapshotIds: members[:1]})
	wantError(t, err, codes.InvalidArgument, "node b")
	for range 2 {
		_, err = k.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: g.GetGroupSnapshotId(), SnapshotIds: members})
		equal(t, "delete", nil, err)
	}
	_, err = k.GetVolumeGroupSnapshot(t.Context(), &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: g.GetGroupSnapshotId()})
	wantError(t, err, codes.NotFound, "node b")
}
