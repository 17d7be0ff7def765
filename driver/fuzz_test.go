package driver_test

import (
	"context"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lamina-csi/lamina/node/pool"
)

// allowed fails on what a bad request must never give.
func allowed(t *testing.T, n node, err error) {
	t.Helper()
	switch status.Code(err) {
	case codes.Internal, codes.Unknown, codes.Unimplemented, codes.DeadlineExceeded:
		t.Errorf("%v", err)
	}
}

// FuzzCreateVolume sends any request: it never panics, is never Internal, and what
// was made can be deleted.
func FuzzCreateVolume(f *testing.F) {
	n := thin(f)
	source := n.create(f, request("source"))
	snap := n.snapshot(f, "snap", source.GetVolumeId())
	for _, r := range []*csi.CreateVolumeRequest{
		request("v"), request("-y", blockVolume), request("@tag", encryptedVolume), {}, request("v", topology("node-1")),
		request("v", fromVolume(source.GetVolumeId())), request("v", fromSnapshot(snap.GetSnapshotId())),
		request("v", params("pool", "fast", "mkfsOptions", "-m 0 -E stride=16", "csi.storage.k8s.io/fstype", "ext4")),
		request("v", capabilities(mounted(reader, "xfs", "noatime"), mounted(multiWriter, "xfs")), sized(1<<40, 1<<41)),
	} {
		data, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := &csi.CreateVolumeRequest{}
		if proto.Unmarshal(data, r) != nil {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		resp, err := n.CreateVolume(ctx, r)
		allowed(t, n, err)
		if err != nil || resp.GetVolume().GetVolumeId() == source.GetVolumeId() {
			return
		}
		v := resp.GetVolume()
		if want := r.GetCapacityRange(); v.GetCapacityBytes() < want.GetRequiredBytes() ||
			want.GetLimitBytes() > 0 && v.GetCapacityBytes() > want.GetLimitBytes() {
			t.Errorf("%d bytes, wanted %v", v.GetCapacityBytes(), want)
		}
		if _, err := n.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v.GetVolumeId()}); err != nil {
			t.Error(err)
		}
	})
}

// FuzzModify sends any parameters: whatever is taken is a limit that can be read
// again, and what is refused changes nothing.
func FuzzModify(f *testing.F) {
	n := thin(f)
	id := n.create(f, request("v")).GetVolumeId()
	for _, kv := range [][2]string{{"readIOPS", "1000"}, {"writeIOPS", ""}, {"readBandwidth", "1.5Gi"}, {"writeBandwidth", "1e6"}, {"", "0"}, {"readIOPS", "-1"}} {
		f.Add(kv[0], kv[1])
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		key, value = string([]rune(key)), string([]rune(value))
		before := n.limits(t, id)
		err := n.modify(t, id, key, value)
		after := n.limits(t, id)
		if err != nil {
			if status.Code(err) != codes.InvalidArgument || after != before {
				t.Errorf("limits %q, were %q: %v", after, before, err)
			}
			return
		}
		l, err := pool.ParseLimits(after)
		if err != nil {
			t.Fatal(err)
		}
		named := map[string]int64{"readIOPS": l.ReadIOPS, "writeIOPS": l.WriteIOPS, "readBandwidth": l.ReadBandwidth, "writeBandwidth": l.WriteBandwidth}
		if n, limit := named[key]; limit && (n == 0) != (value == "") {
			t.Errorf("%s=%q gave %d", key, value, n)
		}
	})
}

// FuzzID sends any id to every call about one.
func FuzzID(f *testing.F) {
	n := thin(f)
	v := n.create(f, request("keep"))
	for _, id := range []string{"", "x", "-y", "@tag", "../../x", v.GetVolumeId(), v.GetVolumeId() + "x", v.GetVolumeId()[:39] + "thinpool"} {
		f.Add(id)
	}
	f.Fuzz(func(t *testing.T, id string) {
		if id == v.GetVolumeId() {
			return
		}
		for _, call := range idCalls(n) {
			// A string field that is not UTF-8 does not reach the driver.
			if err := call.do(t, string([]rune(id))); err != nil {
				allowed(t, n, err)
			}
		}
		if _, err := n.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: v.GetVolumeId()}); err != nil {
			t.Errorf("the volume is gone: %v", err)
		}
	})
}
