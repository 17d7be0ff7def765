package driver

import (
	"context"
	"errors"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lamina-csi/lamina/node/pool"
)

// ControllerGetCapabilities implements csi.ControllerServer. There is no
// ControllerPublish: a volume is where its node is (CSIDriver attachRequired
// false).
func (d *Driver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	list := []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_LIST_VOLUMES,
		csi.ControllerServiceCapability_RPC_GET_CAPACITY,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_GET_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.ControllerServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_LIST_VOLUME_HEALTH,
		csi.ControllerServiceCapability_RPC_MODIFY_VOLUME,
	}
	if d.thin() {
		list = append(list,
			csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
			csi.ControllerServiceCapability_RPC_LIST_SNAPSHOTS,
			csi.ControllerServiceCapability_RPC_GET_SNAPSHOT,
			csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		)
	}
	resp := &csi.ControllerGetCapabilitiesResponse{}
	for _, c := range list {
		resp.Capabilities = append(resp.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: c}},
		})
	}
	return resp, nil
}

// GetCapacity implements csi.ControllerServer. What it promises, CreateVolume with
// the same parameters gives.
func (d *Driver) GetCapacity(_ context.Context, req *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	var u usage
	if len(req.GetVolumeCapabilities()) > 0 {
		var err error
		u, err = parseCapabilities(req.GetVolumeCapabilities())
		if _, no := errors.AsType[errUnsupported](err); no {
			return &csi.GetCapacityResponse{MaximumVolumeSize: wrapperspb.Int64(0)}, nil
		}
		if err != nil {
			return nil, err
		}
	}
	w, err := parseWish(u, req.GetParameters())
	if err != nil {
		return nil, err
	}
	if t := req.GetAccessibleTopology(); t != nil && !d.here(t) {
		return &csi.GetCapacityResponse{MaximumVolumeSize: wrapperspb.Int64(0)}, nil
	}
	return d.capacity(w)
}

func (d *Driver) capacity(w wish) (*csi.GetCapacityResponse, error) {
	resp := &csi.GetCapacityResponse{}
	if w.pool == "" {
		all := d.pools.Statuses()
		if len(all) != 1 {
			// CreateVolume would want to know which: no size of a single volume is
			// promised.
			for _, s := range all {
				resp.AvailableCapacity += s.Free
			}
			return resp, nil
		}
		w.pool = all[0].Name
	}
	c, err := d.pools.Capacity(w.pool)
	if errors.Is(err, pool.ErrNotFound) {
		resp.MaximumVolumeSize = wrapperspb.Int64(0)
		return resp, nil
	}
	if err != nil {
		return nil, err
	}
	least := max(c.Smallest, w.minSize())
	if c.Smallest > 0 {
		least = (least + c.Smallest - 1) / c.Smallest * c.Smallest
	}
	resp.AvailableCapacity = c.Available
	resp.MaximumVolumeSize = wrapperspb.Int64(c.Largest)
	resp.MinimumVolumeSize = wrapperspb.Int64(least)
	if c.Largest < least {
		resp.AvailableCapacity, resp.MaximumVolumeSize = 0, wrapperspb.Int64(0)
	}
	return resp, nil
}

// ValidateVolumeCapabilities implements csi.ControllerServer.
func (d *Driver) ValidateVolumeCapabilities(_ context.Context, req *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	u, err := parseCapabilities(req.GetVolumeCapabilities())
	no, contradicts := errors.AsType[errUnsupported](err)
	if err != nil && !contradicts {
		return nil, err
	}
	id, err := parseID("volume_id", req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	v, err := d.pools.GetVolume(id)
	if err != nil {
		return nil, err
	}
	if contradicts {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: no.text}, nil
	}
	if err := checkUsage(v, u); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: err.Error()}, nil
	}
	if _, err := parseWish(u, req.GetParameters()); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: status.Convert(err).Message()}, nil
	}
	if _, err := parseLimits(req.GetMutableParameters()); err != nil {
		return &csi.ValidateVolumeCapabilitiesResponse{Message: status.Convert(err).Message()}, nil
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeContext:      req.GetVolumeContext(),
		VolumeCapabilities: req.GetVolumeCapabilities(),
		Parameters:         req.GetParameters(),
		MutableParameters:  req.GetMutableParameters(),
	}}, nil
}

// page cuts max entries out of a list that is sorted by id, after the one that
// the token names. A token is an id: an entry that was deleted meanwhile neither
// hides nor repeats another.
func page[T any](list []T, id func(T) string, maxEntries int32, token string) (part []T, next string, err error) {
	if maxEntries < 0 {
		return nil, "", invalid("max_entries %d is negative", maxEntries)
	}
	if token != "" {
		if _, err := pool.ParseID(token); err != nil {
			return nil, "", status.Errorf(codes.Aborted, "starting_token %.200q is not one of ours; start again without a token", token)
		}
	}
	for i := range list {
		if token != "" && id(list[i]) <= token {
			continue
		}
		if maxEntries > 0 && len(part) == int(maxEntries) {
			return part, id(part[len(part)-1]), nil
		}
		part = append(part, list[i])
	}
	return part, "", nil
}
