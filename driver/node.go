package driver

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/pool"
)

// NodeStageVolume implements csi.NodeServer.
func (d *Driver) NodeStageVolume(ctx context.Context, req *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	if req.GetStagingTargetPath() == "" {
		return nil, invalid("staging_target_path is missing")
	}
	u, err := parseCapability(req.GetVolumeCapability())
	if err != nil {
		return nil, asPrecondition(err)
	}
	id, err := parseID("volume_id", req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	unlock, err := d.volumes.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	v, err := d.pools.GetVolume(id)
	if err != nil {
		return nil, err
	}
	if err := checkUsage(v, u); err != nil {
		return nil, asPrecondition(err)
	}
	encryption, err := encryptionOf(v, req.GetSecrets())
	if err != nil {
		return nil, err
	}
	// Before the volume is activated, so that a bad path changes nothing.
	if err := d.checkPath(ctx, req.GetStagingTargetPath()); err != nil {
		return nil, err
	}
	dev, err := d.pools.OpenDevice(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := d.stage(ctx, dev, mount.StageRequest{
		StagingPath: req.GetStagingTargetPath(),
		MountFlags:  u.mountFlags,
		FSType:      fsTypeFor(v, u),
		ReadOnly:    u.readOnly,
		Encryption:  encryption,
	}); err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, nil
}

// stage completes the request by what is known of the volume.
func (d *Driver) stage(ctx context.Context, dev pool.Device, r mount.StageRequest) error {
	r.Device, r.WantUUID, r.Copied = dev.Path, dev.UUID, dev.Copied
	r.State = mount.State(dev.FS)
	r.MkfsOptions = strings.Fields(dev.Context[contextMkfs])
	r.Prezeroed = func(context.Context) (bool, error) { return d.pools.Prezeroed(dev.ID) }
	r.MarkFormatted = func(ctx context.Context, s mount.State) error {
		return d.pools.MarkFormatted(ctx, dev.ID, string(s))
	}
	if dev.Block {
		_, err := d.mounter.StageBlock(ctx, r)
		return err
	}
	return d.mounter.Stage(ctx, r)
}

// fsTypeFor is the filesystem that a volume must carry: what the caller says
// (checkUsage has compared it), what it was formatted with, or what its maker
// asked for.
func fsTypeFor(v pool.Volume, u usage) mount.FSType {
	if u.fsType != "" {
		return mount.FSType(u.fsType)
	}
	if t := formattedAs(v.FS, v.Context); t != "" {
		return t
	}
	return mount.Ext4
}

// encryptionOf finds the key of an encrypted volume; nil for others.
func encryptionOf(v pool.Volume, secrets map[string]string) (*mount.Encryption, error) {
	if !encrypted(v) {
		return nil, nil
	}
	key := secrets[PassphraseKey]
	if key == "" {
		return nil, invalid("volume %s is encrypted: the node-stage secret needs a key %q with its passphrase", v.ID, PassphraseKey)
	}
	name, err := mount.LUKSName(v.ID.LV.String())
	if err != nil {
		return nil, err
	}
	return &mount.Encryption{Name: name, Key: mount.Key(key)}, nil
}

// checkPath lets package mount judge a path before anything is done.
func (d *Driver) checkPath(ctx context.Context, path string) error {
	if _, err := d.mounter.Stats(ctx, path); err != nil && !errors.Is(err, mount.ErrNotMounted) {
		return err
	}
	return nil
}

// NodeUnstageVolume implements csi.NodeServer. It works while the volume's disks
// cannot be seen, so that a pod can leave a broken volume.
func (d *Driver) NodeUnstageVolume(ctx context.Context, req *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	if req.GetStagingTargetPath() == "" {
		return nil, invalid("staging_target_path is missing")
	}
	id, err := parseID("volume_id", req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	unlock, err := d.volumes.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	name, err := d.mappingToClose(id)
	if err != nil {
		return nil, err
	}
	if err := d.mounter.Unstage(ctx, req.GetStagingTargetPath(), name); err != nil {
		return nil, err
	}
	d.pools.Released(id)
	return &csi.NodeUnstageVolumeResponse{}, nil
}

// mappingToClose names the mapping of a volume that is encrypted, or that may be.
func (d *Driver) mappingToClose(id pool.ID) (string, error) {
	if v, err := d.pools.GetVolume(id); err == nil && !encrypted(v) {
		return "", nil
	}
	return mount.LUKSName(id.LV.String())
}

// NodePublishVolume implements csi.NodeServer.
func (d *Driver) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	if req.GetTargetPath() == "" {
		return nil, invalid("target_path is missing")
	}
	u, err := parseCapability(req.GetVolumeCapability())
	if err != nil {
		return nil, asPrecondition(err)
	}
	id, err := parseID("volume_id", req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if req.GetStagingTargetPath() == "" {
		return nil, status.Error(codes.FailedPrecondition, "staging_target_path is missing: call NodeStageVolume first")
	}
	unlock, err := d.volumes.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	v, err := d.pools.GetVolume(id)
	if err != nil {
		return nil, err
	}
	if err := checkUsage(v, u); err != nil {
		return nil, asPrecondition(err)
	}
	readOnly := req.GetReadonly() || u.readOnly
	if err := d.checkTarget(req, id, u.mode, readOnly); err != nil {
		return nil, err
	}
	if err := d.publish(ctx, v, req, u, readOnly); err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// publish shows a staged volume at its target.
func (d *Driver) publish(ctx context.Context, v pool.Volume, req *csi.NodePublishVolumeRequest, u usage, readOnly bool) error {
	if !v.Block {
		if err := d.limitTarget(v, req.GetTargetPath(), req.GetStagingTargetPath()); err != nil {
			return err
		}
		return d.mounter.Publish(ctx, mount.PublishRequest{
			StagingPath: req.GetStagingTargetPath(), Target: req.GetTargetPath(),
			ReadOnly: readOnly, Flags: u.mountFlags,
		})
	}
	if err := d.checkPath(ctx, req.GetTargetPath()); err != nil {
		return err
	}
	var device string
	if encrypted(v) {
		name, err := mount.LUKSName(v.ID.LV.String())
		if err != nil {
			return err
		}
		device = mount.MappedDevice(name)
	} else {
		dev, err := d.pools.OpenDevice(ctx, v.ID)
		if err != nil {
			return err
		}
		device = dev.Path
	}
	if err := d.limitTarget(v, req.GetTargetPath(), device); err != nil {
		return err
	}
	return d.mounter.PublishBlock(ctx, mount.PublishBlockRequest{Device: device, Target: req.GetTargetPath(), ReadOnly: readOnly})
}

// checkTarget holds the table of spec.md, NodePublishVolume, for plugins with
// SINGLE_NODE_MULTI_WRITER: which second target an access mode allows, and that
// one target keeps its arguments.
func (d *Driver) checkTarget(req *csi.NodePublishVolumeRequest, id pool.ID, mode csi.VolumeCapability_AccessMode_Mode, readOnly bool) error {
	mounted, err := d.mountedAt(id)
	if err != nil {
		return err
	}
	target := req.GetTargetPath()
	if was, ok := mounted[target]; ok {
		if was != readOnly {
			return status.Errorf(codes.AlreadyExists, "volume %s is published at %q with readonly=%t", id, target, was)
		}
		// Published already. Other mounts may be kubelet's own of this target: a block
		// volume's device for the pod, a subPath.
		return nil
	}
	for other := range mounted {
		switch {
		case other == req.GetStagingTargetPath(),
			mode == csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER,
			mode == csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
		default:
			return status.Errorf(codes.FailedPrecondition, "volume %s is published at %q, and access mode %s allows one target only", id, other, mode)
		}
	}
	return nil
}

// mountedAt is where a volume is staged and published, by the mount table: that
// outlives the agent. The value says whether read-only.
func (d *Driver) mountedAt(id pool.ID) (map[string]bool, error) {
	device, err := d.pools.ActiveDevice(id)
	if err != nil || device == "" {
		return nil, err
	}
	return d.mounter.MountedAt(device)
}

// refusePublished keeps a device from going away under a pod. A pod holds a block
// volume as a device number, and need not have it open: taken off the host and
// on again, that number may be another volume's.
func (d *Driver) refusePublished(id pool.ID, what string) error {
	mounted, err := d.mountedAt(id)
	if err != nil && !errors.Is(err, pool.ErrNotFound) {
		return err
	}
	if len(mounted) == 0 {
		return nil
	}
	return status.Errorf(codes.FailedPrecondition, "%s %s: it is mounted at %q", what, id, slices.Sorted(maps.Keys(mounted)))
}

// NodeUnpublishVolume implements csi.NodeServer. It works while the volume's disks
// cannot be seen.
func (d *Driver) NodeUnpublishVolume(ctx context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if req.GetVolumeId() == "" {
		return nil, invalid("volume_id is missing")
	}
	if req.GetTargetPath() == "" {
		return nil, invalid("target_path is missing")
	}
	id, err := parseID("volume_id", req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	unlock, err := d.volumes.lock(ctx, id)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := d.mounter.Unpublish(ctx, req.GetTargetPath()); err != nil {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}
