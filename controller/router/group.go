package router

import (
	"context"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/driver/link"
)

func groupSnapshot(id string) object { return object{"group snapshot", "group_snapshot_id", id} }

// CreateVolumeGroupSnapshot implements csi.GroupControllerServer.
func (r *Router) CreateVolumeGroupSnapshot(ctx context.Context, req *csi.CreateVolumeGroupSnapshotRequest) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	if req.GetName() == "" {
		return nil, errNoName
	}
	if len(req.GetSourceVolumeIds()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "source_volume_ids are missing")
	}
	var targets []target
	for _, id := range req.GetSourceVolumeIds() {
		t, err := r.findToChange(object{"volume", "source_volume_id", id})
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	parts := partsOf(object{"group snapshot", "name", req.GetName()}, targets)
	if len(parts) > 1 {
		return r.createAcross(ctx, req, parts)
	}
	resp, err := send(ctx, parts[0].target, parts[0].groups().CreateVolumeGroupSnapshot, req)
	if err == nil {
		err = parts[0].checkGroup(resp.GetGroupSnapshot(), req.GetSourceVolumeIds())
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// DeleteVolumeGroupSnapshot implements csi.GroupControllerServer. Nothing is
// deleted before all of the group is in reach.
func (r *Router) DeleteVolumeGroupSnapshot(ctx context.Context, req *csi.DeleteVolumeGroupSnapshotRequest) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
	parts, err := r.members(req.GetGroupSnapshotId(), req.GetSnapshotIds(), r.findToChange, r.findToDelete)
	if status.Code(err) == codes.NotFound {
		return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	err = eachPart(parts, func(p part) error {
		ctx, ids := p.members(ctx, req.GetSnapshotIds())
		_, err := send(ctx, p.target, p.groups().DeleteVolumeGroupSnapshot, &csi.DeleteVolumeGroupSnapshotRequest{
			GroupSnapshotId: req.GetGroupSnapshotId(), SnapshotIds: ids, Secrets: req.GetSecrets(),
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
}

// GetVolumeGroupSnapshot implements csi.GroupControllerServer.
func (r *Router) GetVolumeGroupSnapshot(ctx context.Context, req *csi.GetVolumeGroupSnapshotRequest) (*csi.GetVolumeGroupSnapshotResponse, error) {
	parts, err := r.members(req.GetGroupSnapshotId(), req.GetSnapshotIds(), r.find, r.findToRead)
	if err != nil {
		return nil, err
	}
	var all merged
	err = eachPart(parts, func(p part) error {
		ctx, ids := p.members(ctx, req.GetSnapshotIds())
		resp, err := send(ctx, p.target, p.groups().GetVolumeGroupSnapshot, &csi.GetVolumeGroupSnapshotRequest{
			GroupSnapshotId: req.GetGroupSnapshotId(), SnapshotIds: ids, Secrets: req.GetSecrets(),
		})
		if err == nil {
			err = p.checkGroup(resp.GetGroupSnapshot(), nil)
		}
		if err == nil {
			err = all.add(p.target, resp.GetGroupSnapshot())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &csi.GetVolumeGroupSnapshotResponse{GroupSnapshot: all.group()}, nil
}

// members finds the nodes on which the snapshots of a group lie, by find; those
// that were given up with their node are left out. Without a list, all are taken
// to be where the group's id says, by findGroup: nobody can give up what is not
// named.
func (r *Router) members(group string, snapshots []string, findGroup func(object) (target, error), find func(object) (target, bool, error)) ([]part, error) {
	about := groupSnapshot(group)
	if _, err := about.vgOf(); err != nil {
		return nil, err
	}
	if len(snapshots) == 0 {
		t, err := findGroup(about)
		return []part{{target: t}}, err
	}
	var targets []target
	for _, id := range snapshots {
		if _, _, ok := splitID(id); !ok {
			return nil, status.Errorf(codes.InvalidArgument, "%s: snapshot_id %.80q is not <VG UUID>/<LV name>", about, id)
		}
		t, gone, err := find(snapshot(id))
		if err != nil {
			return nil, err
		}
		if !gone {
			targets = append(targets, t)
		}
	}
	return partsOf(about, targets), nil
}

// findToRead is find in the form of findToDelete.
func (r *Router) findToRead(o object) (t target, gone bool, err error) {
	t, err = r.find(o)
	return t, false, err
}

// members are those of this part among all that the caller listed.
func (p part) members(ctx context.Context, listed []string) (context.Context, []string) {
	if len(p.ids) < len(listed) && len(p.ids) > 0 {
		return metadata.AppendToOutgoingContext(ctx, link.TotalKey, strconv.Itoa(len(listed))), p.ids
	}
	return ctx, listed
}
