package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/pool"
)

// finding is something wrong with a volume or a pool. Reason is one CamelCase
// word (spec.md, VolumeHealthEntry).
type finding struct {
	status       csi.VolumeHealthErrorType
	reason, text string
}

// poolFindings says what a pool's state means to the volumes in it. A pool that
// only takes no new volumes is well for those that it has.
func poolFindings(s pool.Status) []finding {
	say := func(status csi.VolumeHealthErrorType, reason string) []finding {
		return []finding{{status, reason, fmt.Sprintf("pool %s: %s", s.Name, s.Text)}}
	}
	switch s.Health {
	case pool.HealthDegraded:
		return say(csi.VolumeHealthErrorType_DEGRADED, "RaidDegraded")
	case pool.HealthMissingDisk:
		return say(csi.VolumeHealthErrorType_DEGRADED, "PhysicalVolumeMissing")
	case pool.HealthStuck:
		return say(csi.VolumeHealthErrorType_DEGRADED, "LVMCommandStuck")
	case pool.HealthReadOnly:
		return say(csi.VolumeHealthErrorType_DEGRADED, "ThinPoolReadOnly")
	case pool.HealthError:
		return say(csi.VolumeHealthErrorType_INACCESSIBLE, "PoolError")
	case pool.HealthFull:
		if s.Mode == pool.Thin && s.Used*100 >= s.Size*nearlyFull {
			return say(csi.VolumeHealthErrorType_DEGRADED, "ThinPoolFull")
		}
	}
	return nil
}

// nearlyFull is the use of a thin pool's data, in percent, from which its volumes
// soon cannot write.
const nearlyFull = 90

// volumeFindings is what pool and kernel say of a volume.
func (d *Driver) volumeFindings(v pool.Volume, all []pool.Status) []finding {
	var out []finding
	for _, s := range all {
		if s.VGUUID == v.ID.VG {
			out = append(out, poolFindings(s)...)
		}
	}
	// A volume that is not active has no state in the kernel: nothing is known
	// against it.
	if u, err := d.pools.Usage(v.ID); err == nil && u.Failed {
		out = append(out, finding{csi.VolumeHealthErrorType_INACCESSIBLE, "ThinVolumeFailed", "the thin pool has failed and gives no access to the volume"})
	}
	return out
}

func volumeHealth(id pool.ID, list []finding) *csi.VolumeHealth {
	h := &csi.VolumeHealth{VolumeId: id.String()}
	for _, f := range list {
		h.HealthStatuses = append(h.HealthStatuses, &csi.VolumeHealth_VolumeHealthEntry{
			Status: f.status, Reason: f.reason, Message: f.text,
		})
	}
	return h
}

// ControllerGetVolumeHealth implements csi.ControllerServer.
func (d *Driver) ControllerGetVolumeHealth(_ context.Context, req *csi.ControllerGetVolumeHealthRequest) (*csi.ControllerGetVolumeHealthResponse, error) {
	id, err := parseID("volume_id", req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	v, err := d.pools.GetVolume(id)
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeHealthResponse{VolumeHealth: volumeHealth(id, d.volumeFindings(v, d.pools.Statuses()))}, nil
}

// ControllerListVolumeHealth implements csi.ControllerServer: only volumes with
// something wrong are listed.
func (d *Driver) ControllerListVolumeHealth(_ context.Context, req *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	volumes, err := d.pools.ListVolumes()
	if err != nil {
		return nil, err
	}
	all := d.pools.Statuses()
	var sick []*csi.VolumeHealth
	for _, v := range volumes {
		if list := d.volumeFindings(v, all); len(list) > 0 {
			sick = append(sick, volumeHealth(v.ID, list))
		}
	}
	part, next, err := page(sick, (*csi.VolumeHealth).GetVolumeId, req.GetMaxEntries(), req.GetStartingToken())
	if err != nil {
		return nil, err
	}
	return &csi.ControllerListVolumeHealthResponse{Entries: part, NextToken: next}, nil
}

// NodeGetVolumeHealth implements csi.NodeServer: what the controller's call tells,
// and the state of the mounted filesystem.
func (d *Driver) NodeGetVolumeHealth(ctx context.Context, req *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	v, unlock, err := d.lockVolume(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	list := d.volumeFindings(v, d.pools.Statuses())
	path := req.GetStagingTargetPath()
	if path == "" {
		path = req.GetVolumePublishPath()
	}
	if path != "" && !v.Block {
		found, err := d.filesystemFindings(ctx, v, path)
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: volumeHealth(v.ID, list)}, nil
}

// filesystemFindings looks at a mounted filesystem. The caller may name a path at
// which publishing never succeeded: nothing there is no finding.
func (d *Driver) filesystemFindings(ctx context.Context, v pool.Volume, path string) ([]finding, error) {
	_, err := d.mounter.Stats(ctx, path)
	if err == nil {
		var h mount.Health
		if h, err = d.filesystem(ctx, v, path); err == nil {
			return healthFindings(h), nil
		}
	}
	switch {
	case errors.Is(err, mount.ErrCorrupted):
		return []finding{{csi.VolumeHealthErrorType_INACCESSIBLE, "FilesystemShutdown", err.Error()}}, nil
	case errors.Is(err, mount.ErrNotMounted), errors.Is(err, pool.ErrUnavailable):
		return nil, nil
	}
	return nil, err
}

func healthFindings(h mount.Health) []finding {
	var out []finding
	if h.EmergencyReadOnly {
		out = append(out, finding{csi.VolumeHealthErrorType_INACCESSIBLE, "FilesystemReadOnly", "the filesystem met an error and takes no more writes"})
	}
	if h.Errors > 0 {
		out = append(out, finding{csi.VolumeHealthErrorType_DEGRADED, "FilesystemErrors", fmt.Sprintf("the filesystem has recorded %d errors; check it (e2fsck) while it is not in use", h.Errors)})
	}
	return out
}

// NodeGetStorageHealth implements csi.NodeServer: one entry for each thing that is
// wrong, of all the pools that it is wrong with.
func (d *Driver) NodeGetStorageHealth(context.Context, *csi.NodeGetStorageHealthRequest) (*csi.NodeGetStorageHealthResponse, error) {
	resp := &csi.NodeGetStorageHealthResponse{}
	for _, s := range d.pools.Statuses() {
		for _, f := range poolFindings(s) {
			status := csi.StorageHealthErrorType_STORAGE_DEGRADED
			if f.status == csi.VolumeHealthErrorType_INACCESSIBLE {
				status = csi.StorageHealthErrorType_STORAGE_UNREACHABLE
			}
			at := slices.IndexFunc(resp.BackendHealth, func(b *csi.NodeGetStorageHealthResponse_StorageBackendHealth) bool {
				return b.GetStatus() == status && b.GetReason() == f.reason
			})
			if at >= 0 {
				resp.BackendHealth[at].Message += "; " + f.text
				continue
			}
			resp.BackendHealth = append(resp.BackendHealth, &csi.NodeGetStorageHealthResponse_StorageBackendHealth{
				Status: status, Reason: f.reason, Message: f.text,
			})
		}
	}
	return resp, nil
}
