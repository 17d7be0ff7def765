package driver

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/pool"
)

// NodeGetCapabilities implements csi.NodeServer.
func (d *Driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, c := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.NodeServiceCapability_RPC_GET_STORAGE_HEALTH,
	} {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: c}},
		})
	}
	return resp, nil
}

// NodeGetInfo implements csi.NodeServer.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{
		NodeId:             d.config.NodeID,
		MaxVolumesPerNode:  d.config.MaxVolumes,
		AccessibleTopology: d.topology(),
	}, nil
}

// NodeGetVolumeStats implements csi.NodeServer. It runs no process.
func (d *Driver) NodeGetVolumeStats(ctx context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	if req.GetVolumePath() == "" {
		return nil, invalid("volume_path is missing")
	}
	v, unlock, err := d.lockVolume(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	stats, err := d.mounter.Stats(ctx, req.GetVolumePath())
	if err != nil {
		return nil, absentFrom(err, v.ID, req.GetVolumePath())
	}
	if stats.Block != v.Block {
		return nil, status.Errorf(codes.NotFound, "volume %s is not at path %.200q: what is there has the other volume mode", v.ID, req.GetVolumePath())
	}
	if !v.Block {
		if _, err := d.filesystem(ctx, v, req.GetVolumePath()); err != nil {
			return nil, absentFrom(err, v.ID, req.GetVolumePath())
		}
	}
	bytes := &csi.VolumeUsage{Unit: csi.VolumeUsage_BYTES, Total: stats.Total}
	if !stats.Block {
		bytes.Used, bytes.Available = stats.Used, stats.Available
	}
	resp := &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{bytes}}
	if stats.Inodes > 0 {
		resp.Usage = append(resp.Usage, &csi.VolumeUsage{
			Unit: csi.VolumeUsage_INODES, Total: stats.Inodes, Used: stats.InodesUsed, Available: stats.InodesFree,
		})
	}
	return resp, nil
}

// filesystem asks about the volume's own filesystem at a path; another one there
// is mount.ErrConflict. A volume that has a filesystem mounted is active, so that
// no process runs; one that is inactive is left so.
func (d *Driver) filesystem(ctx context.Context, v pool.Volume, path string) (mount.Health, error) {
	if _, err := d.pools.Usage(v.ID); err != nil {
		return mount.Health{}, err
	}
	dev, err := d.pools.OpenDevice(ctx, v.ID)
	if err != nil {
		return mount.Health{}, err
	}
	device := dev.Path
	if encrypted(v) {
		name, err := mount.LUKSName(v.ID.LV.String())
		if err != nil {
			return mount.Health{}, err
		}
		device = mount.MappedDevice(name)
	}
	return d.mounter.Health(ctx, device, path)
}

// lockVolume finds the volume of a node call and keeps other calls off it.
func (d *Driver) lockVolume(ctx context.Context, text string) (v pool.Volume, unlock func(), err error) {
	id, err := parseID("volume_id", text)
	if err != nil {
		return v, nil, err
	}
	if unlock, err = d.volumes.lock(ctx, id); err != nil {
		return v, nil, err
	}
	if v, err = d.pools.GetVolume(id); err != nil {
		unlock()
		return v, nil, err
	}
	return v, unlock, nil
}

// NodeExpandVolume implements csi.NodeServer: what lies on the volume grows to the
// size that ControllerExpandVolume gave it.
func (d *Driver) NodeExpandVolume(ctx context.Context, req *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	if req.GetVolumePath() == "" {
		return nil, invalid("volume_path is missing")
	}
	required, limit, err := parseRange(req.GetCapacityRange())
	if err != nil {
		return nil, err
	}
	v, unlock, err := d.lockVolume(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if c := req.GetVolumeCapability(); c != nil {
		u, err := parseCapability(c)
		if err == nil {
			err = checkUsage(v, u)
		}
		if err != nil {
			return nil, asInvalid(err)
		}
	}
	switch {
	case required > v.Size:
		return nil, status.Errorf(codes.OutOfRange, "volume %s has %d bytes and %d are wanted: call ControllerExpandVolume first", v.ID, v.Size, required)
	case limit > 0 && v.Size > limit:
		return nil, status.Errorf(codes.OutOfRange, "volume %s has %d bytes, more than limit_bytes %d; volumes do not shrink", v.ID, v.Size, limit)
	}
	if err := d.grow(ctx, v, req.GetVolumePath()); err != nil {
		return nil, absentFrom(err, v.ID, req.GetVolumePath())
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: v.Size}, nil
}

// grow brings mapping and filesystem to the device's size. The path is judged
// first, before the volume could be activated.
func (d *Driver) grow(ctx context.Context, v pool.Volume, path string) error {
	if _, err := d.mounter.Stats(ctx, path); err != nil {
		return err
	}
	dev, err := d.pools.OpenDevice(ctx, v.ID)
	if err != nil {
		return err
	}
	r := mount.GrowRequest{Device: dev.Path}
	if encrypted(v) {
		if r.LUKSName, err = mount.LUKSName(v.ID.LV.String()); err != nil {
			return err
		}
	}
	if !v.Block {
		r.Path = path
	}
	return d.mounter.Grow(ctx, r)
}
