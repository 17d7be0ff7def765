package agent

import (
	"context"
	"maps"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// Volume is a volume as kubelet handles it.
type Volume struct {
	*csi.Volume
	Name string
	FS   string // ext4, xfs, btrfs; "" for a raw block volume

	Secrets map[string]string // of an encrypted volume

	agent *Agent
}

// Capability is what a volume of that file system is asked for.
func Capability(fs string) *csi.VolumeCapability {
	c := &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: fs}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
	if fs == "" {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
	}
	return c
}

// CreateWith makes a volume with parameters of a StorageClass beside the pool.
func (a *Agent) CreateWith(ctx context.Context, pool, name, fs string, size int64, parameters map[string]string) (Volume, error) {
	all := map[string]string{"pool": pool}
	maps.Copy(all, parameters)
	resp, err := a.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{Capability(fs)},
		Parameters:         all,
	})
	return Volume{Volume: resp.GetVolume(), Name: name, FS: fs, agent: a}, err
}

// Create makes a volume of size bytes in a pool, from a snapshot if there is one.
func (a *Agent) Create(ctx context.Context, pool, name, fs string, size int64, snap *csi.Snapshot) (Volume, error) {
	req := &csi.CreateVolumeRequest{
		Name:               name,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{Capability(fs)},
		Parameters:         map[string]string{"pool": pool},
	}
	if snap != nil {
		req.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snap.SnapshotId},
		}}
	}
	resp, err := a.CreateVolume(ctx, req)
	return Volume{Volume: resp.GetVolume(), Name: name, FS: fs, agent: a}, err
}

// Found is a volume that an earlier agent made, for calls to this one.
func (a *Agent) Found(v Volume) Volume {
	v.agent = a
	return v
}

// DropSnapshot deletes a snapshot.
func (a *Agent) DropSnapshot(ctx context.Context, s *csi.Snapshot) error {
	_, err := a.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: s.SnapshotId})
	return err
}

// Staging is where kubelet stages the volume.
func (v Volume) Staging() string {
	return filepath.Join(v.agent.KubeletDir, "plugins", "kubernetes.io", "csi", "lamina.dev", v.Name, "globalmount")
}

// Target is where kubelet publishes it for its pod.
func (v Volume) Target() string {
	return filepath.Join(v.agent.KubeletDir, "pods", v.Name, "volumes", "mount")
}

// Stage makes the staging directory, as kubelet does, and stages the volume.
func (v Volume) Stage(ctx context.Context) error {
	if err := os.MkdirAll(v.Staging(), 0o750); err != nil {
		return err
	}
	_, err := v.agent.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: v.VolumeId, StagingTargetPath: v.Staging(), VolumeCapability: Capability(v.FS), VolumeContext: v.VolumeContext,
		Secrets: v.Secrets,
	})
	return err
}

// Publish makes the target's parent, as kubelet does, and publishes the volume.
func (v Volume) Publish(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(v.Target()), 0o750); err != nil {
		return err
	}
	_, err := v.agent.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.VolumeId, StagingTargetPath: v.Staging(), TargetPath: v.Target(),
		VolumeCapability: Capability(v.FS), VolumeContext: v.VolumeContext,
	})
	return err
}

// Mount stages and publishes.
func (v Volume) Mount(ctx context.Context) error {
	if err := v.Stage(ctx); err != nil {
		return err
	}
	return v.Publish(ctx)
}

// Unmount unpublishes and unstages.
func (v Volume) Unmount(ctx context.Context) error {
	if _, err := v.agent.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.VolumeId, TargetPath: v.Target()}); err != nil {
		return err
	}
	_, err := v.agent.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v.VolumeId, StagingTargetPath: v.Staging()})
	return err
}

// Snapshot snapshots the volume.
func (v Volume) Snapshot(ctx context.Context, name string) (*csi.Snapshot, error) {
	resp, err := v.agent.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: v.VolumeId})
	return resp.GetSnapshot(), err
}

// Expand expands the volume and its file system, which is mounted.
func (v Volume) Expand(ctx context.Context, size int64) error {
	r := &csi.CapacityRange{RequiredBytes: size}
	if _, err := v.agent.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: v.VolumeId, CapacityRange: r, VolumeCapability: Capability(v.FS),
	}); err != nil {
		return err
	}
	return v.ExpandNode(ctx, size)
}

// ExpandNode makes the mounted file system as large as its volume.
func (v Volume) ExpandNode(ctx context.Context, size int64) error {
	_, err := v.agent.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: v.VolumeId, VolumePath: v.Target(), StagingTargetPath: v.Staging(),
		CapacityRange: &csi.CapacityRange{RequiredBytes: size}, VolumeCapability: Capability(v.FS),
	})
	return err
}

// Delete deletes the volume.
func (v Volume) Delete(ctx context.Context) error {
	_, err := v.agent.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.VolumeId})
	return err
}
