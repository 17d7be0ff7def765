package driver_test

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

// Names that LVM could not have, or would take for something else, are fine as
// CSI names: LV names are derived.
var oddNames = []string{
	"-y", "@tag", "../../x", "snapshot-1", "a_tdata", "pvmove0", "lvol0_pmspare", "a b", "a\tb", "größe", "数据", "🙂",
	"v-", "$(reboot)", "--config=x", "#2d", strings.Repeat("x", 128), strings.Repeat("ü", 64),
}

func TestOddNames(t *testing.T) {
	n := thin(t)
	ids := map[string]string{}
	for _, name := range oddNames {
		v := n.create(t, request(name))
		s := n.snapshot(t, name, v.GetVolumeId())
		for what, id := range map[string]string{"volume": v.GetVolumeId(), "snapshot": s.GetSnapshotId()} {
			if other := ids[id]; other != "" {
				t.Errorf("%s %q and %s have the id %s", what, name, other, id)
			}
			ids[id] = what + " " + name
		}
		if again := n.create(t, request(name)); again.GetVolumeId() != v.GetVolumeId() {
			t.Errorf("%q: second call gave %s after %s", name, again.GetVolumeId(), v.GetVolumeId())
		}
		if again := n.snapshot(t, name, v.GetVolumeId()); again.GetSnapshotId() != s.GetSnapshotId() {
			t.Errorf("%q: second call gave %s after %s", name, again.GetSnapshotId(), s.GetSnapshotId())
		}
	}
	if list, err := n.ListVolumes(t.Context(), &csi.ListVolumesRequest{}); err != nil || len(list.GetEntries()) != len(oddNames) {
		t.Errorf("%d volumes, %v", len(list.GetEntries()), err)
	}
}

func TestBadNames(t *testing.T) {
	n := thin(t)
	v := n.create(t, request("source")).GetVolumeId()
	for name, word := range map[string]string{
		"":                       "name is missing",
		strings.Repeat("x", 300): "300 bytes",
		strings.Repeat("ü", 65):  "130 bytes",
		"a\x00b":                 "U+0000",
		"a\x7fb":                 "U+007F",
		"a\u0085b":               "U+0085",
		"\x1b[31m":               "U+001B",
	} {
		check := n.unchanged(t)
		_, err := n.CreateVolume(t.Context(), request(name))
		wantError(t, err, codes.InvalidArgument, word)
		_, err = n.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: v})
		wantError(t, err, codes.InvalidArgument, word)
		_, err = n.CreateVolumeGroupSnapshot(t.Context(), &csi.CreateVolumeGroupSnapshotRequest{Name: name, SourceVolumeIds: []string{v}})
		wantError(t, err, codes.InvalidArgument, word)
		check()
	}
}

func params(kv ...string) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) {
		r.Parameters = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			r.Parameters[kv[i]] = kv[i+1]
		}
	}
}

func mutable(kv ...string) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) {
		params(kv...)(r)
		r.Parameters, r.MutableParameters = nil, r.Parameters
	}
}

func capabilities(list ...*csi.VolumeCapability) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) { r.VolumeCapabilities = list }
}

func sized(required, limit int64) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) { r.CapacityRange = capRange(required, limit) }
}

func topology(node string) func(*csi.CreateVolumeRequest) {
	return func(r *csi.CreateVolumeRequest) {
		r.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: []*csi.Topology{
			{Segments: map[string]string{"topology.lamina.dev/node": node}},
		}}
	}
}

func TestBadCreate(t *testing.T) {
	n := thin(t)
	plain := n.create(t, request("plain")).GetVolumeId()
	secret := n.create(t, request("secret", encryptedVolume)).GetVolumeId()
	raw := n.create(t, request("raw", blockVolume)).GetVolumeId()
	xfs := n.create(t, request("xfs", capabilities(mounted(writer, "xfs")), sized(512*mib, 0))).GetVolumeId()
	vg := filepath.Dir(plain)
	const other = "AAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG/pvc-1"
	group := mounted(writer, "")
	group.GetMount().VolumeMountGroup = "1000"

	tests := []struct {
		name   string
		change func(*csi.CreateVolumeRequest)
		code   codes.Code
		words  []string
	}{
		{"no capability", capabilities(), codes.InvalidArgument, []string{"capabilities are missing"}},
		{"nil capability", capabilities(&csi.VolumeCapability{}), codes.InvalidArgument, []string{"access type"}},
		{"no access mode", capabilities(mounted(0, "")), codes.InvalidArgument, []string{"access mode"}},
		{"block and mount", capabilities(mounted(writer, ""), block(writer)), codes.InvalidArgument, []string{"contradict", "block"}},
		{"two filesystems", capabilities(mounted(writer, "xfs"), mounted(reader, "ext4")), codes.InvalidArgument, []string{"contradict", "xfs", "ext4"}},
		{"many writers", capabilities(mounted(csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER, "")), codes.InvalidArgument, []string{"MULTI_NODE_MULTI_WRITER", "one node"}},
		{"one writer of many nodes", capabilities(block(csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER)), codes.InvalidArgument, []string{"MULTI_NODE_SINGLE_WRITER"}},
		{"access mode of the future", capabilities(mounted(99, "")), codes.InvalidArgument, []string{"99"}},
		{"filesystem", capabilities(mounted(writer, "ntfs")), codes.InvalidArgument, []string{"ntfs", "ext4, xfs, btrfs"}},
		{"mount flag", capabilities(mounted(writer, "", "loop=/etc/shadow")), codes.InvalidArgument, []string{"loop=/etc/shadow"}},
		{"volume mount group", capabilities(group), codes.InvalidArgument, []string{"volume_mount_group"}},

		{"unknown parameter", params("pool", "fast", "Pool", "x"), codes.InvalidArgument, []string{`"Pool"`, "mkfsOptions"}},
		{"pool's name", params("pool", "../fast"), codes.InvalidArgument, []string{"../fast"}},
		{"empty pool", params("pool", ""), codes.InvalidArgument, []string{"pool"}},
		{"no such pool", params("pool", "slow"), codes.ResourceExhausted, []string{`"slow"`, "fast"}},
		{"encryption", params("encryption", "rot13"), codes.InvalidArgument, []string{"rot13", "luks2"}},
		{"mkfs options", params("mkfsOptions", "-F -U clear"), codes.InvalidArgument, []string{"mkfsOptions", "-F"}},
		{"mkfs options of xfs", params("mkfsOptions", "-i size=512"), codes.InvalidArgument, []string{"mkfsOptions", "ext4"}},
		{"fstype", params("csi.storage.k8s.io/fstype", "zfs"), codes.InvalidArgument, []string{"zfs"}},
		{"two fstypes", func(r *csi.CreateVolumeRequest) {
			params("csi.storage.k8s.io/fstype", "ext4")(r)
			capabilities(mounted(writer, "xfs"))(r)
		}, codes.InvalidArgument, []string{"ext4", "xfs"}},
		{"mutable parameters", mutable("readIops", "1"), codes.InvalidArgument, []string{`"readIops"`, "readIOPS"}},
		{"limit", mutable("readBandwidth", "0"), codes.InvalidArgument, []string{"readBandwidth", `"0"`}},

		{"negative", sized(-1, 0), codes.InvalidArgument, []string{"-1"}},
		{"negative limit", sized(0, -5), codes.InvalidArgument, []string{"-5"}},
		{"limit below", sized(2*gib, gib), codes.InvalidArgument, []string{"limit_bytes"}},
		{"overflow", sized(math.MaxInt64, 0), codes.OutOfRange, []string{"9223372036854775807"}},
		{"overflow with limit", sized(math.MaxInt64, math.MaxInt64), codes.OutOfRange, nil},
		{"no extent between", sized(64*mib+1, 64*mib+2), codes.OutOfRange, []string{"multiples of 4194304"}},
		{"tiny limit", sized(0, 1), codes.OutOfRange, []string{"limit_bytes 1", "8 MiB"}},
		{"too small for xfs", func(r *csi.CreateVolumeRequest) {
			capabilities(mounted(writer, "xfs"))(r)
			sized(100*mib, 0)(r)
		}, codes.OutOfRange, []string{"104857600", "xfs", "300 MiB"}},
		{"too small for LUKS2", func(r *csi.CreateVolumeRequest) {
			capabilities(block(writer))(r)
			encryptedVolume(r)
			sized(16*mib, 0)(r)
		}, codes.OutOfRange, []string{"encrypted block", "32 MiB"}},
		{"more than there is", sized(10<<40, 0), codes.ResourceExhausted, []string{"can be promised"}},

		{"another node", topology("node-2"), codes.ResourceExhausted, []string{"node-1"}},
		{"no node", func(r *csi.CreateVolumeRequest) {
			r.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: []*csi.Topology{{}, nil}}
		}, codes.ResourceExhausted, []string{"topology.lamina.dev/node"}},

		{"malformed source", fromVolume("../x"), codes.NotFound, []string{"../x"}},
		{"malformed snapshot", fromSnapshot("snapshot-1"), codes.NotFound, []string{"snapshot-1"}},
		{"no source id", fromVolume(""), codes.InvalidArgument, []string{"source volume_id"}},
		{"no such source", fromVolume(vg + "/pvc-none"), codes.NotFound, []string{"pvc-none"}},
		{"source of another VG", fromVolume(other), codes.Unavailable, []string{"AAAAAA", "disk missing"}},
		{"volume as snapshot", fromSnapshot(plain), codes.FailedPrecondition, []string{plain}},
		{"plain from encrypted", fromVolume(secret), codes.InvalidArgument, []string{"is encrypted", secret}},
		{"encrypted from plain", func(r *csi.CreateVolumeRequest) {
			encryptedVolume(r)
			fromVolume(plain)(r)
		}, codes.InvalidArgument, []string{"not encrypted", plain}},
		{"mount from block", fromVolume(raw), codes.InvalidArgument, []string{"block", raw}},
		{"ext4 from xfs", func(r *csi.CreateVolumeRequest) {
			capabilities(mounted(writer, "ext4"))(r)
			fromVolume(xfs)(r)
		}, codes.InvalidArgument, []string{"xfs", "ext4"}},
		{"smaller than its source", func(r *csi.CreateVolumeRequest) {
			fromVolume(plain)(r)
			sized(16*mib, 32*mib)(r)
		}, codes.OutOfRange, []string{"67108864"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			check := n.unchanged(t)
			_, err := n.CreateVolume(t.Context(), request("new", tt.change))
			wantError(t, err, tt.code, tt.words...)
			check()
		})
	}
}

// A name that is taken by a volume made otherwise is AlreadyExists, and the
// volume stays as it is.
func TestConflict(t *testing.T) {
	n := thin(t)
	v := n.create(t, request("v", sized(64*mib, 64*mib)))
	for name, change := range map[string]func(*csi.CreateVolumeRequest){
		"size":       sized(128*mib, 0),
		"limit":      sized(0, 32*mib),
		"mode":       blockVolume,
		"filesystem": capabilities(mounted(writer, "btrfs")),
		"encryption": encryptedVolume,
		"mkfs":       params("mkfsOptions", "-m 0"),
		"source":     fromVolume(n.create(t, request("source")).GetVolumeId()),
	} {
		t.Run(name, func(t *testing.T) {
			check := n.unchanged(t)
			r := request("v", change)
			if name == "filesystem" {
				r.CapacityRange = nil
			}
			_, err := n.CreateVolume(t.Context(), r)
			wantError(t, err, codes.AlreadyExists, `"v"`)
			check()
		})
	}
	if again := n.create(t, request("v")); again.GetVolumeId() != v.GetVolumeId() {
		t.Errorf("got %s, want %s", again.GetVolumeId(), v.GetVolumeId())
	}
}

// Ids that were never given out: gone where something is deleted, NotFound
// elsewhere. Ids of a volume group that is not seen: Unavailable everywhere.
func TestBadIDs(t *testing.T) {
	n := thin(t)
	vg := filepath.Dir(n.create(t, request("v")).GetVolumeId())
	const elsewhere = "AAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG/"
	malformed := []string{"-y", "@tag", "../../x", "snapshot-1", "a_tdata", "größe", strings.Repeat("x", 300),
		vg, vg + "/", vg + "/-y", vg + "/@tag", vg + "/../x", vg + "/snapshot-1", vg + "/a_tdata", vg + "/a/b", vg + "/pvc-1 ",
		strings.ToLower(elsewhere) + "x/y", "lamina-fast/pvc-1"}
	for _, call := range idCalls(n) {
		t.Run(call.name, func(t *testing.T) {
			check := n.unchanged(t)
			for _, id := range malformed {
				err := call.do(t, id)
				if call.deletes && err != nil {
					t.Errorf("%.40q: %v", id, err)
				} else if !call.deletes {
					wantError(t, err, codes.NotFound)
				}
			}
			wantError(t, call.do(t, ""), codes.InvalidArgument, "missing")
			err := call.do(t, vg+"/pvc-none")
			if call.deletes && err != nil {
				t.Error(err)
			} else if !call.deletes {
				wantError(t, err, codes.NotFound, "pvc-none")
			}
			wantError(t, call.do(t, elsewhere+"pvc-1"), codes.Unavailable, "AAAAAA", "disk missing")
			check()
		})
	}
}

func TestBadExpand(t *testing.T) {
	n := thin(t)
	id := n.create(t, request("v", size(128*mib))).GetVolumeId()
	for name, tt := range map[string]struct {
		r     *csi.CapacityRange
		c     *csi.VolumeCapability
		code  codes.Code
		words []string
	}{
		"none":       {nil, nil, codes.InvalidArgument, []string{"capacity_range"}},
		"zero":       {capRange(0, 0), nil, codes.InvalidArgument, []string{id}},
		"negative":   {capRange(-4, 0), nil, codes.InvalidArgument, []string{"-4"}},
		"limit":      {capRange(gib, mib), nil, codes.InvalidArgument, []string{"limit_bytes"}},
		"overflow":   {capRange(math.MaxInt64, 0), nil, codes.OutOfRange, []string{"9223372036854775807"}},
		"shrink":     {capRange(mib, 64*mib), nil, codes.OutOfRange, []string{"do not shrink"}},
		"no room":    {capRange(10<<40, 0), nil, codes.ResourceExhausted, []string{id}},
		"block":      {capRange(gib, 0), block(writer), codes.InvalidArgument, []string{"filesystem volume"}},
		"filesystem": {capRange(gib, 0), mounted(writer, "btrfs"), codes.InvalidArgument, []string{"ext4", "btrfs"}},
	} {
		t.Run(name, func(t *testing.T) {
			check := n.unchanged(t)
			_, err := n.ControllerExpandVolume(t.Context(), &csi.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: tt.r, VolumeCapability: tt.c})
			wantError(t, err, tt.code, tt.words...)
			check()
		})
	}
}

func TestBadPaths(t *testing.T) {
	n := thin(t)
	fs := n.create(t, request("fs")).GetVolumeId()
	raw := n.create(t, request("raw", blockVolume)).GetVolumeId()
	for id, c := range map[string]*csi.VolumeCapability{fs: mounted(multiWriter, ""), raw: block(multiWriter)} {
		if _, err := n.stage(t, id, c, nil); err != nil {
			t.Fatal(err)
		}
	}
	outside := t.TempDir()
	for name, to := range map[string]string{"link": outside, "dir/link": outside} {
		if err := os.Symlink(to, n.path(t, name)); err != nil {
			t.Fatal(err)
		}
	}
	unstaged := n.create(t, request("unstaged")).GetVolumeId()
	for _, bad := range []string{
		"relative", "/etc", outside, n.KubeletDir, n.KubeletDir + "/../x", n.KubeletDir + "/a/../../x",
		n.KubeletDir + "/link", n.KubeletDir + "/dir/link/x", n.KubeletDir + "/a b", n.KubeletDir + "//x",
	} {
		t.Run(bad, func(t *testing.T) {
			check := n.unchanged(t)
			wantError(t, n.publish(t, fs, bad, mounted(multiWriter, ""), false), codes.InvalidArgument, bad)
			wantError(t, n.publish(t, raw, bad, block(multiWriter), false), codes.InvalidArgument, bad)
			_, err := n.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: fs, TargetPath: bad})
			wantError(t, err, codes.InvalidArgument, bad)
			_, err = n.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{VolumeId: unstaged, StagingTargetPath: bad, VolumeCapability: mounted(writer, "")})
			wantError(t, err, codes.InvalidArgument, bad)
			_, err = n.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: fs, StagingTargetPath: bad})
			wantError(t, err, codes.InvalidArgument, bad)
			// The specification wants NotFound of these two.
			_, err = n.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: fs, VolumePath: bad})
			wantError(t, err, codes.NotFound, bad)
			_, err = n.NodeExpandVolume(t.Context(), &csi.NodeExpandVolumeRequest{VolumeId: fs, VolumePath: bad})
			wantError(t, err, codes.NotFound, bad)
			check()
		})
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside kubelet's directory: %v %v", left, err)
	}
}
