package driver_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/pool"
)

const passphrase = "open sesame 4711"

var secrets = map[string]string{"passphrase": passphrase}

// kinds are the ways in which a volume can be used.
var kinds = []struct {
	name    string
	change  func(*csi.CreateVolumeRequest)
	use     *csi.VolumeCapability
	secrets map[string]string
	context map[string]string
}{
	{"ext4", nil, mounted(multiWriter, "ext4"), nil, map[string]string{"fsType": "ext4"}},
	{"xfs", func(r *csi.CreateVolumeRequest) {
		capabilities(mounted(multiWriter, "xfs"))(r)
		sized(320*mib, 0)(r)
		params("mkfsOptions", " -i  size=512 ")(r)
	}, mounted(multiWriter, "xfs"), nil, map[string]string{"fsType": "xfs", "mkfsOptions": "-i size=512"}},
	{"btrfs", func(r *csi.CreateVolumeRequest) {
		params("csi.storage.k8s.io/fstype", "btrfs")(r)
		sized(128*mib, 0)(r)
	}, mounted(multiWriter, "btrfs"), nil, map[string]string{"fsType": "btrfs"}},
	{"block", blockVolume, block(multiWriter), nil, nil},
	{"encrypted ext4", encryptedVolume, mounted(multiWriter, ""), secrets, map[string]string{"fsType": "ext4", "encryption": "luks2"}},
	{"encrypted block", func(r *csi.CreateVolumeRequest) {
		blockVolume(r)
		encryptedVolume(r)
	}, block(multiWriter), secrets, map[string]string{"encryption": "luks2"}},
}

func TestLife(t *testing.T) {
	for _, k := range kinds {
		for name, make := range map[string]func(testing.TB) node{"thin": thin, "thick": thick} {
			t.Run(k.name+" "+name, func(t *testing.T) {
				n := make(t)
				r := request("v")
				if k.change != nil {
					k.change(r)
				}
				v := n.create(t, r)
				if diff := cmp.Diff(k.context, v.GetVolumeContext()); diff != "" {
					t.Errorf("volume context: %s", diff)
				}
				live(t, n, v, k.use, k.secrets)
				if strings.Contains(n.Log.String(), passphrase) {
					t.Error("the log holds the passphrase")
				}
			})
		}
	}
}

// live brings a volume through all that kubelet does with it.
func live(t *testing.T, n node, v *csi.Volume, use *csi.VolumeCapability, secrets map[string]string) {
	t.Helper()
	id, target := v.GetVolumeId(), n.path(t, "pods/a/mount")
	staging, err := n.stage(t, id, use, secrets)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.stage(t, id, use, secrets); err != nil {
		t.Errorf("stage again: %v", err)
	}
	for range 2 {
		if err := n.publish(t, id, target, use, false); err != nil {
			t.Fatal(err)
		}
	}
	wantError(t, n.publish(t, id, target, use, true), codes.AlreadyExists, "readonly=false")
	stats, err := n.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: target})
	if err != nil || stats.GetUsage()[0].GetTotal() == 0 {
		t.Errorf("stats %v, %v", stats, err)
	}
	expand(t, n, v, target, use)
	_, err = n.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
	wantError(t, err, codes.FailedPrecondition, id, target)
	health, err := n.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: id, StagingTargetPath: staging})
	if err != nil || len(health.GetVolumeHealth().GetHealthStatuses()) != 0 {
		t.Errorf("health %v, %v", health, err)
	}
	for range 2 {
		if _, err := n.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target}); err != nil {
			t.Fatal(err)
		}
		if _, err := n.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: staging}); err != nil {
			t.Fatal(err)
		}
		if _, err := n.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(target); !os.IsNotExist(err) {
		t.Errorf("target is left: %v", err)
	}
}

// expand doubles a volume in use. A thick block volume cannot: former content
// would show.
func expand(t *testing.T, n node, v *csi.Volume, target string, use *csi.VolumeCapability) {
	t.Helper()
	want := 2 * v.GetCapacityBytes()
	resp, err := n.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{
		VolumeId: v.GetVolumeId(), CapacityRange: capRange(want, 0), VolumeCapability: use,
	})
	if use.GetBlock() != nil && n.Pools.Statuses()[0].Mode == pool.Thick {
		wantError(t, err, codes.FailedPrecondition, "thick block volume", target)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	encrypted := v.GetVolumeContext()["encryption"] != ""
	if resp.GetCapacityBytes() != want || resp.GetNodeExpansionRequired() != (use.GetMount() != nil || encrypted) {
		t.Errorf("expanded: %v", resp)
	}
	got, err := n.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{
		VolumeId: v.GetVolumeId(), VolumePath: target, CapacityRange: capRange(want, 0), VolumeCapability: use,
	})
	if err != nil || got.GetCapacityBytes() != want {
		t.Errorf("node expanded: %v, %v", got, err)
	}
	stats, err := n.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: v.GetVolumeId(), VolumePath: target})
	if total := stats.GetUsage()[0].GetTotal(); err != nil || total <= v.GetCapacityBytes() {
		t.Errorf("%d bytes after the expansion from %d, %v", total, v.GetCapacityBytes(), err)
	}
	_, err = n.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{
		VolumeId: v.GetVolumeId(), VolumePath: target, CapacityRange: capRange(2*want, 0),
	})
	wantError(t, err, codes.OutOfRange, "ControllerExpandVolume first")
}

func TestWrongKey(t *testing.T) {
	n := thin(t)
	id := n.create(t, request("v", encryptedVolume)).GetVolumeId()
	use := mounted(writer, "")
	check := n.unchanged(t)
	for _, s := range []map[string]string{nil, {"passphrase": ""}, {"password": passphrase}} {
		_, err := n.stage(t, id, use, s)
		wantError(t, err, codes.InvalidArgument, `"passphrase"`, id)
	}
	check()
	staging, err := n.stage(t, id, use, secrets)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.System.Write(staging, "precious"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: staging}); err != nil {
		t.Fatal(err)
	}
	commands := len(n.Host.Commands())
	_, err = n.stage(t, id, use, map[string]string{"passphrase": "guess"})
	wantError(t, err, codes.InvalidArgument, "wrong encryption key")
	if ran := n.Host.Commands()[commands:]; len(ran) != 0 {
		t.Errorf("lvm ran: %v", ran)
	}
	if _, err := n.stage(t, id, use, secrets); err != nil {
		t.Fatal(err)
	}
	if got, err := n.System.Read(staging); got != "precious" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	for _, secret := range []string{passphrase, "guess"} {
		if strings.Contains(n.Log.String(), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
	if !strings.Contains(n.Log.String(), "***stripped***") {
		t.Error("the log does not hold the requests")
	}
}

// The table of NodePublishVolume in spec.md: which second target is allowed.
func TestSecondTarget(t *testing.T) {
	for m, allowed := range map[mode]bool{writer: false, singleWriter: false, multiWriter: true, reader: true} {
		t.Run(m.String(), func(t *testing.T) {
			n := thin(t)
			id := n.create(t, request("v")).GetVolumeId()
			if m == reader { // written once, then read
				staging, err := n.stage(t, id, mounted(writer, ""), nil)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := n.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: staging}); err != nil {
					t.Fatal(err)
				}
			}
			use, a, b := mounted(m, ""), n.path(t, "pods/a/mount"), n.path(t, "pods/b/mount")
			if _, err := n.stage(t, id, use, nil); err != nil {
				t.Fatal(err)
			}
			if err := n.publish(t, id, a, use, false); err != nil {
				t.Fatal(err)
			}
			if err := n.publish(t, id, b, use, false); allowed && err != nil {
				t.Error(err)
			} else if !allowed {
				wantError(t, err, codes.FailedPrecondition, a, m.String())
			}
			if _, err := n.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: a}); err != nil {
				t.Fatal(err)
			}
			if err := n.publish(t, id, b, use, false); err != nil {
				t.Error(err)
			}
		})
	}
}

// What a capability says must fit the volume.
func TestStageContradiction(t *testing.T) {
	n := thin(t)
	fs := n.create(t, request("fs")).GetVolumeId()
	raw := n.create(t, request("raw", blockVolume)).GetVolumeId()
	for name, tt := range map[string]struct {
		id    string
		use   *csi.VolumeCapability
		code  codes.Code
		words []string
	}{
		"block of a filesystem": {fs, block(writer), codes.FailedPrecondition, []string{"filesystem volume"}},
		"mount of a block":      {raw, mounted(writer, ""), codes.FailedPrecondition, []string{"block volume"}},
		"another filesystem":    {fs, mounted(writer, "xfs"), codes.FailedPrecondition, []string{"ext4", "xfs"}},
		"many nodes":            {fs, mounted(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, ""), codes.FailedPrecondition, []string{"one node"}},
		"mount flag":            {fs, mounted(writer, "", "x-systemd.automount"), codes.FailedPrecondition, []string{"x-systemd.automount"}},
		"none":                  {fs, nil, codes.InvalidArgument, []string{"capability"}},
		"read-only and new":     {fs, mounted(reader, ""), codes.InvalidArgument, []string{"never formatted"}},
	} {
		t.Run(name, func(t *testing.T) {
			n.System.Commands()
			_, err := n.stage(t, tt.id, tt.use, nil)
			wantError(t, err, tt.code, tt.words...)
			if ran := n.System.Commands(); slices.ContainsFunc(ran, func(c mount.Command) bool { return c.Name != "blkid" }) {
				t.Errorf("ran %v", ran)
			}
		})
	}
	check := n.unchanged(t)
	wantError(t, n.publish(t, fs, n.path(t, "pods/x"), mounted(writer, ""), false), codes.FailedPrecondition, "nothing is staged")
	_, err := n.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{
		VolumeId: fs, TargetPath: n.path(t, "pods/x"), VolumeCapability: mounted(writer, "")})
	wantError(t, err, codes.FailedPrecondition, "staging_target_path")
	check()
}

// A path at which another volume is mounted is not this volume's.
func TestStatsOfAnother(t *testing.T) {
	n := thin(t)
	var staged []string
	var ids []string
	for _, name := range []string{"a", "b"} {
		id := n.create(t, request(name)).GetVolumeId()
		path, err := n.stage(t, id, mounted(writer, ""), nil)
		if err != nil {
			t.Fatal(err)
		}
		ids, staged = append(ids, id), append(staged, path)
	}
	_, err := n.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: ids[0], VolumePath: staged[1]})
	wantError(t, err, codes.NotFound, ids[0], staged[1])
	_, err = n.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: ids[0], VolumePath: staged[1]})
	wantError(t, err, codes.NotFound, ids[0], staged[1])
	if _, err := n.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: ids[1], VolumePath: staged[1]}); err != nil {
		t.Error(err)
	}
}

// A pod must be able to leave a volume whose disk was pulled out.
func TestUnstageWithoutDisk(t *testing.T) {
	n := thin(t)
	id := n.create(t, request("v")).GetVolumeId()
	use, target := mounted(writer, ""), n.path(t, "pods/a/mount")
	staging, err := n.stage(t, id, use, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.publish(t, id, target, use, false); err != nil {
		t.Fatal(err)
	}
	n.Host.MissDisk("/dev/nvme0n1")
	_, err = n.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: id})
	wantError(t, err, codes.Unavailable)
	if _, err := n.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target}); err != nil {
		t.Error(err)
	}
	if _, err := n.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: id, StagingTargetPath: staging}); err != nil {
		t.Error(err)
	}
	_, err = n.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id})
	wantError(t, err, codes.Unavailable)
}

// Clones and restores hold what their source held, and work when it is gone.
func TestCopies(t *testing.T) {
	n := thin(t)
	src := n.create(t, request("src", capabilities(mounted(writer, "xfs")), size(512*mib))).GetVolumeId()
	use := mounted(writer, "")
	staging, err := n.stage(t, src, use, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.System.Write(staging, "precious"); err != nil {
		t.Fatal(err)
	}
	snap := n.snapshot(t, "snap", src)
	clone := request("clone", fromVolume(src), size(512*mib))
	restore := request("restore", fromSnapshot(snap.GetSnapshotId()), size(gib))
	ids := map[*csi.CreateVolumeRequest]string{}
	for _, r := range []*csi.CreateVolumeRequest{clone, restore} {
		v := n.create(t, r)
		ids[r] = v.GetVolumeId()
		if diff := cmp.Diff(r.GetVolumeContentSource(), v.GetContentSource(), protocmp.Transform()); diff != "" {
			t.Errorf("content source: %s", diff)
		}
		if v.GetVolumeContext()["fsType"] != "xfs" {
			t.Errorf("context %v: the copy holds xfs", v.GetVolumeContext())
		}
		path, err := n.stage(t, v.GetVolumeId(), use, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := n.System.Read(path); got != "precious" || err != nil {
			t.Errorf("%s holds %q, %v", r.GetName(), got, err)
		}
	}
	if _, err := n.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: src, StagingTargetPath: staging}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: src}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.DeleteSnapshot(t.Context(), &csi.DeleteSnapshotRequest{SnapshotId: snap.GetSnapshotId()}); err != nil {
		t.Fatal(err)
	}
	for r, id := range ids {
		if again := n.create(t, r); again.GetVolumeId() != id {
			t.Errorf("%s: second call gave %s after %s", r.GetName(), again.GetVolumeId(), filepath.Base(id))
		}
	}
}

// kubelet calls again after it restarted, and then has mounts of its own beside the
// target: a block volume's device for the pod, subPaths.
func TestPublishAgainBesideKubeletsMounts(t *testing.T) {
	for name, use := range map[string]*csi.VolumeCapability{"mounted": mounted(singleWriter, ""), "block": block(singleWriter)} {
		t.Run(name, func(t *testing.T) {
			n := thin(t)
			id := n.create(t, request("v", func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = []*csi.VolumeCapability{use} })).GetVolumeId()
			if _, err := n.stage(t, id, use, nil); err != nil {
				t.Fatal(err)
			}
			target, own := n.path(t, "pods/a/mount"), n.path(t, "pods/a/own")
			if err := n.publish(t, id, target, use, false); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(own, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := n.System.Config(n.KubeletDir).Mounts.Mount(target, own, "", []string{"bind"}); err != nil {
				t.Fatal(err)
			}
			if err := n.publish(t, id, target, use, false); err != nil {
				t.Errorf("the same target: %v", err)
			}
			wantError(t, n.publish(t, id, n.path(t, "pods/b/mount"), use, false), codes.FailedPrecondition, "one target only")
		})
	}
}
