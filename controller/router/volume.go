package router

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// DeleteVolume implements csi.ControllerServer.
func (r *Router) DeleteVolume(ctx context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	t, gone, err := r.findToDelete(volume(req.GetVolumeId()))
	if gone || err != nil {
		return &csi.DeleteVolumeResponse{}, err
	}
	return send(ctx, t, t.controller().DeleteVolume, req)
}

// ControllerExpandVolume implements csi.ControllerServer.
func (r *Router) ControllerExpandVolume(ctx context.Context, req *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	t, err := r.findToChange(volume(req.GetVolumeId()))
	if err != nil {
		return nil, err
	}
	return send(ctx, t, t.controller().ControllerExpandVolume, req)
}

// ControllerModifyVolume implements csi.ControllerServer.
func (r *Router) ControllerModifyVolume(ctx context.Context, req *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	t, err := r.findToChange(volume(req.GetVolumeId()))
	if err != nil {
		return nil, err
	}
	return send(ctx, t, t.controller().ControllerModifyVolume, req)
}

// ControllerGetVolume implements csi.ControllerServer.
func (r *Router) ControllerGetVolume(ctx context.Context, req *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	t, err := r.find(volume(req.GetVolumeId()))
	if err != nil {
		return nil, err
	}
	resp, err := send(ctx, t, t.controller().ControllerGetVolume, req)
	if err == nil {
		err = t.checkVolume(resp.GetVolume(), req.GetVolumeId())
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// ControllerGetVolumeHealth implements csi.ControllerServer.
func (r *Router) ControllerGetVolumeHealth(ctx context.Context, req *csi.ControllerGetVolumeHealthRequest) (*csi.ControllerGetVolumeHealthResponse, error) {
	t, err := r.find(volume(req.GetVolumeId()))
	if err != nil {
		return nil, err
	}
	return send(ctx, t, t.controller().ControllerGetVolumeHealth, req)
}

// ValidateVolumeCapabilities implements csi.ControllerServer.
func (r *Router) ValidateVolumeCapabilities(ctx context.Context, req *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	t, err := r.find(volume(req.GetVolumeId()))
	if err != nil {
		return nil, err
	}
	return send(ctx, t, t.controller().ValidateVolumeCapabilities, req)
}

// CreateSnapshot implements csi.ControllerServer. A snapshot lies in the volume
// group of its source, so a repeated call always goes to the same node.
func (r *Router) CreateSnapshot(ctx context.Context, req *csi.CreateSnapshotRequest) (*csi.CreateSnapshotResponse, error) {
	if req.GetName() == "" {
		return nil, errNoName
	}
	t, err := r.findToChange(object{"volume", "source_volume_id", req.GetSourceVolumeId()})
	if err != nil {
		return nil, err
	}
	resp, err := send(ctx, t, t.controller().CreateSnapshot, req)
	if err == nil {
		err = t.checkSnapshot(resp.GetSnapshot(), "", req.GetSourceVolumeId())
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}

var errNoName = status.Error(codes.InvalidArgument, "name is missing")

// DeleteSnapshot implements csi.ControllerServer.
func (r *Router) DeleteSnapshot(ctx context.Context, req *csi.DeleteSnapshotRequest) (*csi.DeleteSnapshotResponse, error) {
	t, gone, err := r.findToDelete(snapshot(req.GetSnapshotId()))
	if gone || err != nil {
		return &csi.DeleteSnapshotResponse{}, err
	}
	return send(ctx, t, t.controller().DeleteSnapshot, req)
}

// GetSnapshot implements csi.ControllerServer.
func (r *Router) GetSnapshot(ctx context.Context, req *csi.GetSnapshotRequest) (*csi.GetSnapshotResponse, error) {
	t, err := r.find(snapshot(req.GetSnapshotId()))
	if err != nil {
		return nil, err
	}
	resp, err := send(ctx, t, t.controller().GetSnapshot, req)
	if err == nil {
		err = t.checkSnapshot(resp.GetSnapshot(), req.GetSnapshotId(), "")
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}
