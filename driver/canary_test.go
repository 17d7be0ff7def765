package driver_test

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lamina-csi/lamina/driver"
)

// canary is a passphrase that no text may hold. It has characters that logs and
// errors write otherwise, so its parts are looked for too.
const canary = "cana\"ry-7f3a %s \n\\bird-9c1e"

// holds reports what a text holds of the canary: it, its quoted forms, its parts.
func holds(text string) string {
	for _, part := range []string{canary, fmt.Sprintf("%q", canary), fmt.Sprintf("%x", canary), fmt.Sprint([]byte(canary)), "ry-7f3a", "bird-9c1e"} {
		if strings.Contains(text, part) {
			return part
		}
	}
	return ""
}

// Every call gets the canary in its secrets, whether it has a use for them or not,
// in calls that succeed and in calls that fail. No command, error, log line or
// metric shows it.
func TestSecretsStaySecret(t *testing.T) {
	n := thin(t)
	var agent *driver.Driver
	n.Serve(t, func(c *driver.Config) {
		c.Endpoint += "2"
		c.Running = func() []driver.RunningCommand { return nil }
	})
	agent = n.Driver
	ctx := t.Context()
	secret := map[string]string{"passphrase": canary, canary: canary}
	var errs []error
	try := func(_ any, err error) { errs = append(errs, err) }

	create := request("v", encryptedVolume)
	create.Secrets = secret
	v := n.create(t, create).GetVolumeId()
	use := mounted(writer, "")
	staging, err := n.stage(t, v, use, secret)
	if err != nil {
		t.Fatal(err)
	}
	target := n.path(t, "target")
	stage := func(id, path string, c *csi.VolumeCapability) (*csi.NodeStageVolumeResponse, error) {
		return n.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: id, StagingTargetPath: path, VolumeCapability: c, Secrets: secret})
	}
	publish := func(path string) (*csi.NodePublishVolumeResponse, error) {
		return n.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
			VolumeId: v, StagingTargetPath: staging, TargetPath: path, VolumeCapability: use, Secrets: secret})
	}
	for range 2 { // with its volume, and then without
		try(stage(v, staging, use))
		try(stage(v, "/etc", use))
		try(stage(v, staging, mounted(writer, "xfs")))
		try(publish(target))
		try(publish("/etc"))
		try(n.CreateVolume(ctx, &csi.CreateVolumeRequest{Name: "bad", Secrets: secret}))
		try(n.CreateSnapshot(ctx, &csi.CreateSnapshotRequest{Name: "s", SourceVolumeId: v, Secrets: secret}))
		try(n.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: []string{v}, Secrets: secret}))
		try(n.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{VolumeId: v, CapacityRange: capRange(128*mib, 0), Secrets: secret}))
		try(n.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{VolumeId: v, VolumePath: target, CapacityRange: capRange(128*mib, 0), Secrets: secret}))
		try(n.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{VolumeId: v, MutableParameters: map[string]string{"x": "y"}, Secrets: secret}))
		try(n.ValidateVolumeCapabilities(ctx, &csi.ValidateVolumeCapabilitiesRequest{VolumeId: v, VolumeCapabilities: []*csi.VolumeCapability{use}, Secrets: secret}))
		try(n.ListSnapshots(ctx, &csi.ListSnapshotsRequest{Secrets: secret}))
		try(n.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: v, Secrets: secret}))
		try(n.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v, TargetPath: target}))
		try(n.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: v, StagingTargetPath: staging}))
		try(n.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v, Secrets: secret}))
	}

	failed := 0
	for _, err := range errs {
		if err != nil {
			failed++
		}
		if part := holds(fmt.Sprintf("%v %+v %#v", err, err, err)); part != "" {
			t.Errorf("an error shows %q: %v", part, err)
		}
	}
	if failed < 10 || failed > len(errs)-10 {
		t.Errorf("%d of %d calls failed; both kinds are wanted", failed, len(errs))
	}
	keys := 0
	for _, c := range n.System.Commands() {
		if c.Name == "cryptsetup" && slices.Contains(c.Args, "--key-file") {
			keys++
		}
		if part := holds(fmt.Sprintf("%v %+v %#v %q", c, c, c, c.Args)); part != "" {
			t.Errorf("%s shows %q", c.Name, part)
		}
	}
	if keys < 2 {
		t.Errorf("%d commands had a use for the passphrase", keys)
	}
	for _, c := range n.Host.Commands() {
		if part := holds(fmt.Sprintf("%+v", c)); part != "" {
			t.Errorf("lvm %s shows %q", c.Name, part)
		}
	}
	if part := holds(n.Log.String()); part != "" {
		t.Errorf("the log shows %q", part)
	}
	if !strings.Contains(n.Log.String(), "***stripped***") {
		t.Error("the log does not hold the requests")
	}
	w := httptest.NewRecorder()
	agent.HTTPHandler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if part := holds(w.Body.String()); part != "" || !strings.Contains(w.Body.String(), "NodeStageVolume") {
		t.Errorf("the metrics show %q:\n%s", part, w.Body)
	}
}
