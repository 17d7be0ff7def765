package driver_test

import (
	"errors"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/lamina-csi/lamina/node/mount"
)

// A volume whose first format was cut is not copied: the copy would say that it was
// never formatted, hold a file system, and be refused when it is staged.
func TestNoCopyOfHalfFormatted(t *testing.T) {
	n := thin(t)
	v := n.create(t, request("v"))
	n.System.After = func(cmd mount.Command) error {
		if cmd.Name == "mke2fs" {
			return errors.New("the agent's memory ran out")
		}
		return nil
	}
	if _, err := n.stage(t, v.VolumeId, mounted(writer, ""), nil); err == nil {
		t.Fatal("staged")
	}
	n.System.After = nil
	_, err := n.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v.VolumeId})
	wantError(t, err, codes.Aborted, "its first format has not ended")
	_, err = n.CreateVolume(t.Context(), request("clone", fromVolume(v.VolumeId)))
	wantError(t, err, codes.Aborted, "its first format has not ended")
	_, err = n.CreateVolumeGroupSnapshot(t.Context(), &csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: []string{v.VolumeId}})
	wantError(t, err, codes.Aborted, "its first format has not ended")
	if _, err := n.stage(t, v.VolumeId, mounted(writer, ""), nil); err != nil {
		t.Fatal(err)
	}
	n.snapshot(t, "s", v.VolumeId)
}
