package driver_test

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

type idCall struct {
	name    string
	deletes bool
	do      func(t testing.TB, id string) error
}

// idCalls are the RPCs about one object that need to see it.
func idCalls(n node) []idCall {
	return []idCall{
		{"DeleteVolume", true, func(t testing.TB, id string) error {
			_, err := n.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
			return err
		}},
		{"DeleteSnapshot", true, func(t testing.TB, id string) error {
			_, err := n.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: id})
			return err
		}},
		{"DeleteVolumeGroupSnapshot", true, func(t testing.TB, id string) error {
			_, err := n.DeleteVolumeGroupSnapshot(t.Context(), &csi.DeleteVolumeGroupSnapshotRequest{GroupSnapshotId: id})
			return err
		}},
		{"ControllerGetVolume", false, func(t testing.TB, id string) error {
			_, err := n.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id})
			return err
		}},
		{"ControllerGetVolumeHealth", false, func(t testing.TB, id string) error {
			_, err := n.ControllerGetVolumeHealth(t.Context(), &csi.ControllerGetVolumeHealthRequest{VolumeId: id})
			return err
		}},
		{"GetSnapshot", false, func(t testing.TB, id string) error {
			_, err := n.GetSnapshot(t.Context(), &csi.GetSnapshotRequest{SnapshotId: id})
			return err
		}},
		{"GetVolumeGroupSnapshot", false, func(t testing.TB, id string) error {
			_, err := n.GetVolumeGroupSnapshot(t.Context(), &csi.GetVolumeGroupSnapshotRequest{GroupSnapshotId: id})
			return err
		}},
		{"CreateSnapshot", false, func(t testing.TB, id string) error {
			_, err := n.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: id})
			return err
		}},
		{"CreateVolumeGroupSnapshot", false, func(t testing.TB, id string) error {
			_, err := n.CreateVolumeGroupSnapshot(t.Context(), &csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: []string{id}})
			return err
		}},
		{"ControllerExpandVolume", false, func(t testing.TB, id string) error {
			_, err := n.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: capRange(gib, 0)})
			return err
		}},
		{"ControllerModifyVolume", false, func(t testing.TB, id string) error {
			_, err := n.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: map[string]string{"readIOPS": "1"}})
			return err
		}},
		{"ValidateVolumeCapabilities", false, func(t testing.TB, id string) error {
			_, err := n.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
				VolumeId: id, VolumeCapabilities: []*csi.VolumeCapability{mounted(writer, "")}})
			return err
		}},
		{"NodeStageVolume", false, func(t testing.TB, id string) error {
			_, err := n.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{
				VolumeId: id, StagingTargetPath: n.path(t, "staging/x"), VolumeCapability: mounted(writer, "")})
			return err
		}},
		{"NodePublishVolume", false, func(t testing.TB, id string) error {
			_, err := n.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{
				VolumeId: id, StagingTargetPath: n.path(t, "staging/x"), TargetPath: n.path(t, "pods/x"), VolumeCapability: mounted(writer, "")})
			return err
		}},
		{"NodeGetVolumeStats", false, func(t testing.TB, id string) error {
			_, err := n.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: n.path(t, "pods/x")})
			return err
		}},
		{"NodeExpandVolume", false, func(t testing.TB, id string) error {
			_, err := n.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: id, VolumePath: n.path(t, "pods/x")})
			return err
		}},
		{"NodeGetVolumeHealth", false, func(t testing.TB, id string) error {
			_, err := n.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: id})
			return err
		}},
	}
}
