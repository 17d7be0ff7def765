package main

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lamina-csi/lamina/test/agent"
)

// processes counts the lvm processes of each operation, as design §5 sets them.
func (b *bench) processes(ctx context.Context) error {
	b.table.section("lvm processes per operation")
	count := func(what string, want int, do func() error) error {
		before, err := b.agent.Commands()
		if err != nil {
			return err
		}
		if err := do(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		after, err := b.agent.Commands()
		if err != nil {
			return err
		}
		n := len(after) - len(before)
		b.table.judge(what, fmt.Sprint(want), fmt.Sprint(n), n == want)
		return nil
	}
	var v, clone, restore, larger agent.Volume
	var s *csi.Snapshot
	name := b.name()
	restored := func(to *agent.Volume, size int64) func() error {
		return func() (err error) { *to, err = b.agent.Create(ctx, "fast", b.name(), "ext4", size, s); return err }
	}
	for _, step := range []struct {
		what string
		want int
		do   func() error
	}{
		{"create an empty volume", 1, func() (err error) { v, err = b.agent.Create(ctx, "fast", name, "ext4", gib, nil); return err }},
		{"first stage of a file system (it records the format)", 1, func() error { return v.Stage(ctx) }},
		{"publish", 0, func() error { return v.Publish(ctx) }},
		{"stats of a volume", 0, func() error {
			_, err := b.agent.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: v.VolumeId, VolumePath: v.Target()})
			return err
		}},
		{"capacity of the pool", 0, func() error {
			_, err := b.agent.GetCapacity(ctx, &csi.GetCapacityRequest{Parameters: map[string]string{"pool": "fast"}})
			return err
		}},
		{"expand, with its file system", 1, func() error { return v.Expand(ctx, 2*gib) }},
		{"unpublish, unstage", 0, func() error { return v.Unmount(ctx) }},
		{"later stage and publish", 0, func() error { return v.Mount(ctx) }},
		{"unpublish, unstage", 0, func() error { return v.Unmount(ctx) }},
		{"snapshot", 1, func() (err error) { s, err = v.Snapshot(ctx, "snapshot-of-"+name); return err }},
		{"clone of equal size", 1, func() (err error) { clone, err = b.clone(ctx, v, b.name(), 2*gib); return err }},
		{"restore of equal size", 1, restored(&restore, 2*gib)},
		{"restore that is larger", 2, restored(&larger, 3*gib)},
		{"delete a snapshot", 1, func() error {
			_, err := b.agent.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: s.SnapshotId})
			return err
		}},
		{"delete a volume", 1, func() error { return v.Delete(ctx) }},
	} {
		if err := count(step.what, step.want, step.do); err != nil {
			return err
		}
	}
	return b.removeAll([]string{clone.Name, restore.Name, larger.Name})
}

// clone makes a volume from another.
func (b *bench) clone(ctx context.Context, from agent.Volume, name string, size int64) (agent.Volume, error) {
	resp, err := b.agent.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: size},
		VolumeCapabilities: []*csi.VolumeCapability{agent.Capability(from.FS)}, Parameters: map[string]string{"pool": "fast"},
		VolumeContentSource: &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: from.VolumeId},
		}},
	})
	return agent.Volume{Volume: resp.GetVolume(), Name: name, FS: from.FS}, err
}
