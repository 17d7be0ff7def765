package driver_test

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// TestProcessBudget counts the lvm processes of each operation on a thin pool.
func TestProcessBudget(t *testing.T) {
	n := thin(t)
	use := mounted(multiWriter, "")
	budget := func(operation string, want int, do func() error) {
		t.Helper()
		before := len(n.Host.Commands())
		if err := do(); err != nil {
			t.Fatalf("%s: %v", operation, err)
		}
		if ran := n.Host.Commands()[before:]; len(ran) != want {
			t.Errorf("%s cost %d lvm processes, want %d: %v", operation, len(ran), want, ran)
		}
	}
	var v *csi.Volume
	var snap *csi.Snapshot
	staging, target := "", n.path(t, "pods/a/mount")
	create := func(name string, change ...func(*csi.CreateVolumeRequest)) func() error {
		return func() error {
			resp, err := n.CreateVolume(t.Context(), request(name, change...))
			v = resp.GetVolume()
			return err
		}
	}
	expand := func() error {
		_, err := n.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: v.GetVolumeId(), CapacityRange: capRange(128*mib, 0)})
		return err
	}
	stage := func() (err error) { staging, err = n.stage(t, v.GetVolumeId(), use, nil); return err }
	publish := func() error { return n.publish(t, v.GetVolumeId(), target, use, false) }
	stats := func() error {
		_, err := n.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: v.GetVolumeId(), VolumePath: target})
		return err
	}
	unpublish := func() error {
		_, err := n.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: v.GetVolumeId(), TargetPath: target})
		return err
	}
	unstage := func() error {
		_, err := n.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: v.GetVolumeId(), StagingTargetPath: staging})
		return err
	}
	remove := func() error {
		_, err := n.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: v.GetVolumeId()})
		return err
	}

	budget("create", 1, create("v"))
	budget("create again", 0, create("v"))
	budget("first stage of a filesystem", 1, stage)
	budget("stage again", 0, stage)
	budget("publish", 0, publish)
	budget("stats", 0, stats)
	budget("capacity", 0, func() error {
		_, err := n.GetCapacity(t.Context(), &csi.GetCapacityRequest{})
		return err
	})
	budget("list", 0, func() error {
		_, err := n.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
		return err
	})
	budget("health", 0, func() error {
		_, err := n.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{})
		return err
	})
	budget("expand", 1, expand)
	budget("node expand", 0, func() error {
		_, err := n.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: v.GetVolumeId(), VolumePath: target})
		return err
	})
	budget("snapshot", 1, func() error {
		resp, err := n.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v.GetVolumeId()})
		snap = resp.GetSnapshot()
		return err
	})
	budget("unpublish", 0, unpublish)
	budget("unstage", 0, unstage)
	budget("later stage", 0, stage)
	budget("unstage", 0, unstage)
	n.Host.Reboot()
	n.System.Reboot()
	budget("first stage after a reboot", 1, stage)
	budget("unstage", 0, unstage)

	source := v.GetVolumeId()
	budget("clone", 1, create("clone", fromVolume(source), size(128*mib)))
	budget("larger clone", 2, create("larger clone", fromVolume(source), size(256*mib)))
	budget("restore", 1, create("restore", fromSnapshot(snap.GetSnapshotId()), size(128*mib)))
	budget("larger restore", 2, create("larger restore", fromSnapshot(snap.GetSnapshotId()), size(256*mib)))
	budget("delete", 1, remove)
	budget("delete again", 0, remove)
	budget("delete a snapshot", 1, func() error {
		_, err := n.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: snap.GetSnapshotId()})
		return err
	})
	budget("create with limits", 1, create("limited", mutable("readIOPS", "1")))
	budget("stage", 1, stage)
	n.AddPod(t, podA)
	target = n.target(t, podA, use)
	modify := func(kv ...string) func() error {
		return func() error { return n.modify(t, v.GetVolumeId(), kv...) }
	}
	budget("publish with limits", 0, publish)
	budget("modify", 1, modify("readIOPS", "2", "writeIOPS", "3"))
	budget("modify again", 0, modify("readIOPS", "2", "writeIOPS", "3"))
	budget("take limits away", 1, modify("readIOPS", "", "writeIOPS", ""))
	budget("create a block volume", 1, create("raw", blockVolume))
	use = block(multiWriter)
	budget("first stage of a block volume", 0, stage)
}
