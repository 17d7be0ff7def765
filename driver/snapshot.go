package driver

import (
	"context"
	"errors"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lamina-csi/lamina/node/pool"
)

// CreateSnapshot implements csi.ControllerServer.
func (d *Driver) CreateSnapshot(ctx context.Context, req *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if err := validateName("name", req.GetName()); err != nil {
		return nil, err
	}
	if err := checkKeys("snapshot parameter", req.GetParameters(), snapshotParameters); err != nil {
		return nil, err
	}
	source, err := parseID("source_volume_id", req.GetSourceVolumeId())
	if err != nil {
		return nil, err
	}
	if err := d.checkReachable(req.GetAccessibilityRequirements()); err != nil {
		return nil, err
	}
	unlock, err := d.lockSources(ctx, source)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := d.pools.CreateSnapshot(ctx, req.GetName(), source)
	if err != nil {
		return nil, err
	}
	return &csi.CreateSnapshotResponse{Snapshot: snapshot(s)}, nil
}

// DeleteSnapshot implements csi.ControllerServer.
func (d *Driver) DeleteSnapshot(ctx context.Context, req *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	id, gone, err := parseIDToDelete("snapshot_id", req.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	if gone {
		return &csi.DeleteSnapshotResponse{}, nil
	}
	if err := d.pools.DeleteSnapshot(ctx, id); err != nil {
		return nil, err
	}
	return &csi.DeleteSnapshotResponse{}, nil
}

// GetSnapshot implements csi.ControllerServer.
func (d *Driver) GetSnapshot(_ context.Context, req *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	id, err := parseID("snapshot_id", req.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	s, err := d.pools.GetSnapshot(id)
	if err != nil {
		return nil, err
	}
	return &csi.GetSnapshotResponse{Snapshot: snapshot(s)}, nil
}

// ListSnapshots implements csi.ControllerServer. A filter that nothing matches
// gives an empty list; a snapshot whose disks cannot be seen is an error.
func (d *Driver) ListSnapshots(_ context.Context, req *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	list, err := d.findSnapshots(req.GetSnapshotId())
	if err != nil {
		return nil, err
	}
	if source := req.GetSourceVolumeId(); source != "" {
		list = slices.DeleteFunc(list, func(s pool.Snapshot) bool { return s.Source.String() != source })
	}
	part, next, err := page(list, func(s pool.Snapshot) string { return s.ID.String() }, req.GetMaxEntries(), req.GetStartingToken())
	if err != nil {
		return nil, err
	}
	resp := &csi.ListSnapshotsResponse{NextToken: next}
	for _, s := range part {
		resp.Entries = append(resp.Entries, &csi.ListSnapshotsResponse_Entry{Snapshot: snapshot(s)})
	}
	return resp, nil
}

func (d *Driver) findSnapshots(id string) ([]pool.Snapshot, error) {
	if id == "" {
		return d.pools.ListSnapshots()
	}
	parsed, err := pool.ParseID(id)
	if err != nil {
		return nil, nil
	}
	s, err := d.pools.GetSnapshot(parsed)
	// A volume's id is no snapshot's.
	if errors.Is(err, pool.ErrNotFound) || errors.Is(err, pool.ErrForeign) {
		return nil, nil
	}
	return []pool.Snapshot{s}, err
}

func snapshot(s pool.Snapshot) *csi.Snapshot {
	out := &csi.Snapshot{
		SnapshotId:     s.ID.String(),
		SourceVolumeId: s.Source.String(),
		SizeBytes:      s.Size,
		CreationTime:   timestamppb.New(s.Created),
		ReadyToUse:     true,
	}
	if s.Group != (pool.ID{}) {
		out.GroupSnapshotId = s.Group.String()
	}
	return out
}
