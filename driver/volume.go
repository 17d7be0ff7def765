package driver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/pool"
)

// CreateVolume implements csi.ControllerServer.
func (d *Driver) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	create, w, err := d.parseCreate(req)
	if err != nil {
		return nil, err
	}
	v, err := d.createVolume(ctx, create)
	if err != nil {
		return nil, err
	}
	if w.fsType == "" && !w.block {
		// The source's filesystem was taken when the volume was made; the source may
		// be gone now.
		create.Context[contextFSType] = v.Context[contextFSType]
	}
	if !maps.Equal(v.Context, create.Context) {
		return nil, fmt.Errorf("create %.80q: %w: it was made with %v, not with %v", create.Name, pool.ErrConflict, v.Context, create.Context)
	}
	// A volume that was there already takes the limits too: they may be changed, so
	// they do not make it another (CreateVolume errors, "Volume already exists").
	if len(w.limits) > 0 && v.Limits != create.Limits.String() {
		if err := d.modify(ctx, v.ID, w.limits); err != nil {
			return nil, err
		}
	}
	out := d.volume(v)
	out.ContentSource = req.GetVolumeContentSource()
	return &csi.CreateVolumeResponse{Volume: out}, nil
}

func (d *Driver) createVolume(ctx context.Context, create pool.CreateVolume) (pool.Volume, error) {
	if create.Source != nil && !create.Source.Snapshot {
		unlock, err := d.lockSources(ctx, create.Source.ID)
		if err != nil {
			return pool.Volume{}, err
		}
		defer unlock()
	}
	return d.pools.CreateVolume(ctx, create)
}

// parseCreate checks a request and says it in the terms of package pool. It
// changes nothing.
func (d *Driver) parseCreate(req *csi.CreateVolumeRequest) (create pool.CreateVolume, w wish, err error) {
	if err := validateName("name", req.GetName()); err != nil {
		return create, w, err
	}
	u, err := parseCapabilities(req.GetVolumeCapabilities())
	if err != nil {
		return create, w, asInvalid(err)
	}
	if w, err = parseWish(u, req.GetParameters()); err != nil {
		return create, w, err
	}
	if w.limits, err = parseLimits(req.GetMutableParameters()); err != nil {
		return create, w, err
	}
	required, limit, err := parseRange(req.GetCapacityRange())
	if err != nil {
		return create, w, err
	}
	if err := d.checkReachable(req.GetAccessibilityRequirements()); err != nil {
		return create, w, err
	}
	source, err := d.parseSource(req.GetVolumeContentSource(), &w)
	if err != nil {
		return create, w, err
	}
	if err := w.checkSize(required, limit); err != nil {
		return create, w, err
	}
	if w.pool, err = choosePool(w.pool, d.pools.Statuses()); err != nil {
		return create, w, err
	}
	create = pool.CreateVolume{
		Name: req.GetName(), Pool: w.pool, Required: required, Limit: limit,
		Block: w.block, FS: pool.FSNew, Source: source, Claim: w.claim, Context: w.context(), Limits: w.limits.apply(pool.Limits{}),
	}
	if w.block && !w.encrypted {
		create.FS = pool.FSRaw
	}
	return create, w, nil
}

// parseSource reads the content source and compares it with what is wished. A
// source that is gone passes: the volume may have been made from it already,
// which package pool finds out.
func (d *Driver) parseSource(src *csi.VolumeContentSource, w *wish) (*pool.Source, error) {
	if src == nil {
		return nil, nil
	}
	s := pool.Source{Snapshot: src.GetSnapshot() != nil}
	what, text := "source volume_id", src.GetVolume().GetVolumeId()
	if s.Snapshot {
		what, text = "source snapshot_id", src.GetSnapshot().GetSnapshotId()
	}
	var err error
	if s.ID, err = parseID(what, text); err != nil {
		return nil, err
	}
	block, fs, context, err := d.describeSource(s)
	if errors.Is(err, pool.ErrNotFound) {
		return &s, nil
	}
	if err != nil {
		return nil, err
	}
	has, formatted := context[contextEncryption] != "", formattedAs(fs, context)
	switch {
	case block != w.block:
		return nil, invalid("source %s and the new volume must both be block or both be mount", s.ID)
	case has && !w.encrypted:
		return nil, invalid("source %s is encrypted and the new volume is not; use a StorageClass with encryption: %s", s.ID, luks2)
	case !has && w.encrypted:
		return nil, invalid("source %s is not encrypted; a copy of it cannot be; use a StorageClass without encryption", s.ID)
	case formatted != "" && w.fsType != "" && w.fs != formatted:
		return nil, invalid("source %s holds %s; the new volume cannot be %s", s.ID, formatted, w.fs)
	case formatted != "" && w.fs != formatted:
		w.fs = formatted
		if err := mount.ValidateMkfsOptions(w.fs, strings.Fields(w.mkfs)); err != nil {
			return nil, invalid("parameter %s: source %s holds %s: %v", paramMkfs, s.ID, formatted, err)
		}
	}
	return &s, nil
}

func (d *Driver) describeSource(s pool.Source) (block bool, fs string, context map[string]string, err error) {
	if s.Snapshot {
		snap, err := d.pools.GetSnapshot(s.ID)
		return snap.Block, snap.FS, snap.Context, err
	}
	v, err := d.pools.GetVolume(s.ID)
	return v.Block, v.FS, v.Context, err
}

// formattedAs is the filesystem that a volume has or will get; "" for block.
func formattedAs(fs string, context map[string]string) mount.FSType {
	if fs == pool.FSRaw {
		return ""
	}
	if fs == pool.FSNew {
		return mount.FSType(context[contextFSType])
	}
	return mount.FSType(fs)
}

// DeleteVolume implements csi.ControllerServer.
func (d *Driver) DeleteVolume(ctx context.Context, req *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	id, gone, err := parseIDToDelete("volume_id", req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if gone {
		return &csi.DeleteVolumeResponse{}, nil
	}
	unlock, err := d.volumes.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := d.refusePublished(id, "delete"); err != nil {
		return nil, err
	}
	if err := d.pools.DeleteVolume(ctx, id); err != nil {
		return nil, err
	}
	return &csi.DeleteVolumeResponse{}, nil
}

// ControllerExpandVolume implements csi.ControllerServer.
func (d *Driver) ControllerExpandVolume(ctx context.Context, req *csi.ControllerExpandVolumeRequest) (*csi.ControllerExpandVolumeResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	if req.GetCapacityRange() == nil {
		return nil, invalid("capacity_range is missing")
	}
	required, limit, err := parseRange(req.GetCapacityRange())
	if err != nil {
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
	if c := req.GetVolumeCapability(); c != nil {
		u, err := parseCapability(c)
		if err == nil {
			err = checkUsage(v, u)
		}
		if err != nil {
			return nil, asInvalid(err)
		}
	}
	if limit > 0 && v.Size > limit {
		return nil, status.Errorf(codes.OutOfRange, "volume %s has %d bytes, more than limit_bytes %d; volumes do not shrink", id, v.Size, limit)
	}
	if v, err = d.expand(ctx, v, required, limit); err != nil {
		return nil, err
	}
	return &csi.ControllerExpandVolumeResponse{
		CapacityBytes: v.Size,
		// A block volume's device has grown already; a mapping over it has not.
		NodeExpansionRequired: !v.Block || encrypted(v),
	}, nil
}

// expand makes a volume larger. A thick block volume is taken off the host for it.
func (d *Driver) expand(ctx context.Context, v pool.Volume, required, limit int64) (pool.Volume, error) {
	if v.Thick && v.Block && required > v.Size {
		unlock, err := d.volumes.lock(ctx, v.ID)
		if err != nil {
			return v, err
		}
		defer unlock()
		if err := d.refusePublished(v.ID, "a thick block volume grows only while no pod has it: expand"); err != nil {
			return v, err
		}
	}
	return d.pools.ExpandVolume(ctx, v.ID, required, limit)
}

// ControllerGetVolume implements csi.ControllerServer.
func (d *Driver) ControllerGetVolume(_ context.Context, req *csi.ControllerGetVolumeRequest) (*csi.ControllerGetVolumeResponse, error) {
	id, err := parseID("volume_id", req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	v, err := d.pools.GetVolume(id)
	if err != nil {
		return nil, err
	}
	return &csi.ControllerGetVolumeResponse{
		Volume: d.volume(v),
		Status: &csi.ControllerGetVolumeResponse_VolumeStatus{},
	}, nil
}

// ListVolumes implements csi.ControllerServer.
func (d *Driver) ListVolumes(_ context.Context, req *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	list, err := d.pools.ListVolumes()
	if err != nil {
		return nil, err
	}
	part, next, err := page(list, func(v pool.Volume) string { return v.ID.String() }, req.GetMaxEntries(), req.GetStartingToken())
	if err != nil {
		return nil, err
	}
	resp := &csi.ListVolumesResponse{NextToken: next}
	for _, v := range part {
		resp.Entries = append(resp.Entries, &csi.ListVolumesResponse_Entry{Volume: d.volume(v)})
	}
	return resp, nil
}

func (d *Driver) volume(v pool.Volume) *csi.Volume {
	return &csi.Volume{
		VolumeId:           v.ID.String(),
		CapacityBytes:      v.Size,
		VolumeContext:      v.Context,
		AccessibleTopology: []*csi.Topology{d.topology()},
	}
}

func encrypted(v pool.Volume) bool { return v.Context[contextEncryption] != "" }

// checkUsage compares a capability with a volume that exists.
func checkUsage(v pool.Volume, u usage) error {
	has := formattedAs(v.FS, v.Context)
	switch {
	case v.Block && !u.block:
		return unsupported("volume %s is a block volume and cannot be mounted", v.ID)
	case !v.Block && u.block:
		return unsupported("volume %s is a filesystem volume and has no block access", v.ID)
	case !u.block && u.fsType != "" && has != "" && string(has) != u.fsType:
		return unsupported("volume %s holds %s, not %s", v.ID, has, u.fsType)
	}
	return nil
}
