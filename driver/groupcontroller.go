package driver

import (
	"context"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/node/pool"
)

// GroupControllerGetCapabilities implements csi.GroupControllerServer.
func (d *Driver) GroupControllerGetCapabilities(context.Context, *csi.GroupControllerGetCapabilitiesRequest) (*csi.GroupControllerGetCapabilitiesResponse, error) {
	resp := &csi.GroupControllerGetCapabilitiesResponse{}
	if d.thin() {
		resp.Capabilities = []*csi.GroupControllerServiceCapability{{
			Type: &csi.GroupControllerServiceCapability_Rpc{Rpc: &csi.GroupControllerServiceCapability_RPC{
				Type: csi.GroupControllerServiceCapability_RPC_CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT,
			}},
		}}
	}
	return resp, nil
}

// CreateVolumeGroupSnapshot implements csi.GroupControllerServer. All sources are
// on this node. Of a group that lies on others too, the controller makes this
// node's part in two steps, which it tells apart by metadata.
func (d *Driver) CreateVolumeGroupSnapshot(ctx context.Context, req *csi.CreateVolumeGroupSnapshotRequest) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	if err := validateName("name", req.GetName()); err != nil {
		return nil, err
	}
	if err := checkKeys("group snapshot parameter", req.GetParameters(), groupParameters); err != nil {
		return nil, err
	}
	if len(req.GetSourceVolumeIds()) == 0 {
		return nil, invalid("source_volume_ids are missing")
	}
	sources, err := parseIDs("source_volume_id", req.GetSourceVolumeIds())
	if err != nil {
		return nil, err
	}
	part := pool.GroupPart{Name: req.GetName(), Sources: sources}
	if instant := metadata.ValueFromIncomingContext(ctx, link.SnapshotKey); len(instant) == 1 {
		part.Instant = instant[0]
		if err := d.pools.SnapshotHeld(ctx, part); err != nil {
			return nil, err
		}
		return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: &csi.VolumeGroupSnapshot{}}, nil
	}
	create := d.createGroup
	if instant := metadata.ValueFromIncomingContext(ctx, link.CommitKey); len(instant) == 1 {
		part.Instant = instant[0]
		create = d.pools.CommitGroup
	}
	g, err := create(ctx, part)
	if err != nil {
		return nil, err
	}
	return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: group(g)}, nil
}

// createGroup makes a group that lies on this node alone.
func (d *Driver) createGroup(ctx context.Context, part pool.GroupPart) (pool.Group, error) {
	unlock, err := d.lockSources(ctx, part.Sources...)
	if err != nil {
		return pool.Group{}, err
	}
	defer unlock()
	return d.pools.CreateGroup(ctx, part.Name, part.Sources)
}

// DeleteVolumeGroupSnapshot implements csi.GroupControllerServer. What a call that
// was cut short has left of a group goes too.
func (d *Driver) DeleteVolumeGroupSnapshot(ctx context.Context, req *csi.DeleteVolumeGroupSnapshotRequest) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
	id, gone, err := parseIDToDelete("group_snapshot_id", req.GetGroupSnapshotId())
	if err != nil {
		return nil, err
	}
	if gone {
		return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
	}
	want, err := members(ctx, req.GetSnapshotIds())
	if err != nil {
		return nil, err
	}
	if err := d.pools.DeleteGroup(ctx, id, want); err != nil {
		return nil, err
	}
	return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
}

// GetVolumeGroupSnapshot implements csi.GroupControllerServer.
func (d *Driver) GetVolumeGroupSnapshot(ctx context.Context, req *csi.GetVolumeGroupSnapshotRequest) (*csi.GetVolumeGroupSnapshotResponse, error) {
	id, err := parseID("group_snapshot_id", req.GetGroupSnapshotId())
	if err != nil {
		return nil, err
	}
	want, err := members(ctx, req.GetSnapshotIds())
	if err != nil {
		return nil, err
	}
	g, err := d.pools.GetGroup(id, want)
	if err != nil {
		return nil, err
	}
	return &csi.GetVolumeGroupSnapshotResponse{GroupSnapshot: group(g)}, nil
}

// members is what the caller takes the group to be.
func members(ctx context.Context, snapshots []string) (pool.Members, error) {
	ids, err := parseIDs("snapshot_id", snapshots)
	if err != nil {
		return pool.Members{}, err
	}
	want := pool.Members{Here: ids}
	if total := metadata.ValueFromIncomingContext(ctx, link.TotalKey); len(total) == 1 {
		if want.Total, err = strconv.Atoi(total[0]); err != nil || want.Total < len(ids) {
			return want, invalid("%s: %.40q is no number of snapshots", link.TotalKey, total[0])
		}
	}
	return want, nil
}

func group(g pool.Group) *csi.VolumeGroupSnapshot {
	out := &csi.VolumeGroupSnapshot{
		GroupSnapshotId: g.ID.String(),
		CreationTime:    timestamppb.New(g.Created),
		ReadyToUse:      true,
	}
	for _, s := range g.Snapshots {
		out.Snapshots = append(out.Snapshots, snapshot(s))
	}
	return out
}
