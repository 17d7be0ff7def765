package driver_test

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

func TestModifyRefuses(t *testing.T) {
	n := thin(t)
	id := n.create(t, request("v", mutable("readIOPS", "100"))).GetVolumeId()
	unchanged := n.unchanged(t)
	for _, c := range []struct {
		kv    []string
		words []string
	}{
		{nil, []string{"mutable_parameters", "readIOPS"}},
		{[]string{"iops", "1"}, []string{`"iops"`, "readIOPS, writeIOPS, readBandwidth, writeBandwidth"}},
		{[]string{"writeIOPS", "5", "pool", "fast"}, []string{`"pool"`}},
		{[]string{"writeIOPS", "5", "readIOPS", "0"}, []string{"readIOPS", `"0"`}},
		{[]string{"readIOPS", "-1"}, []string{"readIOPS", `"-1"`}},
		{[]string{"readIOPS", "+1"}, []string{`"+1"`}},
		{[]string{"readIOPS", "1k"}, []string{`"1k"`, "whole number"}},
		{[]string{"readIOPS", "1.5"}, []string{`"1.5"`}},
		{[]string{"writeIOPS", "4294967295"}, []string{"writeIOPS", "4294967294"}},
		{[]string{"writeIOPS", "99999999999999999999999"}, []string{"too large"}},
		{[]string{"readBandwidth", "0"}, []string{"readBandwidth", "empty"}},
		{[]string{"readBandwidth", "0Mi"}, []string{"0Mi"}},
		{[]string{"readBandwidth", "-1Mi"}, []string{"-1Mi"}},
		{[]string{"readBandwidth", "100 Mi"}, []string{"100 Mi", "100Mi"}},
		{[]string{"readBandwidth", "100Mi/s"}, []string{"100Mi/s"}},
		{[]string{"readBandwidth", "8Ei"}, []string{"8Ei", "too large"}},
		{[]string{"readBandwidth", "1e99"}, []string{"too large"}},
		{[]string{"writeBandwidth", "100m"}, []string{"100m"}},
		{[]string{"writeBandwidth", "0.5"}, []string{"whole number of bytes"}},
		{[]string{"writeBandwidth", strings.Repeat("9", 500)}, []string{"writeBandwidth"}},
		{[]string{"writeBandwidth", "max"}, []string{"max"}},
	} {
		wantError(t, n.modify(t, id, c.kv...), codes.InvalidArgument, c.words...)
	}
	wantError(t, n.modify(t, "", "readIOPS", "1"), codes.InvalidArgument, "volume_id")
	unchanged()
	if got := n.limits(t, id); got != "riops:100" {
		t.Errorf("limits %q", got)
	}
}

// Bytes a second are Kubernetes quantities.
func TestBandwidth(t *testing.T) {
	n := thin(t)
	id := n.create(t, request("v")).GetVolumeId()
	for text, want := range map[string]int64{
		"1": 1, "104857600": 100 * mib, "100Mi": 100 * mib, "1.5Gi": 3 * gib / 2, "100M": 100e6, "5k": 5000, "1e6": 1e6, "2E3": 2000, "1E": 1e18,
		"7Ei": 7 << 60, "9223372036854775807": math.MaxInt64, "0.001k": 1,
	} {
		if err := n.modify(t, id, "readBandwidth", text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if got := n.limits(t, id); got != fmt.Sprintf("rbps:%d", want) {
			t.Errorf("%s: limits %q, want %d", text, got, want)
		}
	}
}

// What is not named stays; what external-resizer adds is passed over.
func TestModifyKeepsWhatIsNotNamed(t *testing.T) {
	n := thin(t)
	id := n.create(t, request("v", mutable("readIOPS", "1", "writeIOPS", "2", "readBandwidth", "3", "writeBandwidth", "4"))).GetVolumeId()
	if err := n.modify(t, id, "writeIOPS", "20", "readBandwidth", "", "csi.storage.k8s.io/pvc/name", "claim", "csi.storage.k8s.io/pvc/namespace", "ns",
		"csi.storage.k8s.io/pv/name", "pv"); err != nil {
		t.Fatal(err)
	}
	if got := n.limits(t, id); got != "wbps:4/riops:1/wiops:20" {
		t.Errorf("limits %q", got)
	}
}

// Limits are a volume's own: copies have those of their own request.
func TestLimitsOfCopies(t *testing.T) {
	n := thin(t)
	id := n.create(t, request("v", mutable("readIOPS", "1"))).GetVolumeId()
	snap := n.snapshot(t, "s", id).GetSnapshotId()
	for name, c := range map[string]struct {
		change []func(*csi.CreateVolumeRequest)
		want   string
	}{
		"clone":            {[]func(*csi.CreateVolumeRequest){fromVolume(id)}, ""},
		"restore":          {[]func(*csi.CreateVolumeRequest){fromSnapshot(snap)}, ""},
		"clone of its own": {[]func(*csi.CreateVolumeRequest){fromVolume(id), mutable("writeIOPS", "5")}, "wiops:5"},
		"larger restore":   {[]func(*csi.CreateVolumeRequest){fromSnapshot(snap), size(128 * mib), mutable("writeIOPS", "6")}, "wiops:6"},
	} {
		if got := n.limits(t, n.create(t, request(name, c.change...)).GetVolumeId()); got != c.want {
			t.Errorf("%s: limits %q, want %q", name, got, c.want)
		}
	}
}

// A repeated CreateVolume changes what it names and is no conflict.
func TestCreateAgainWithLimits(t *testing.T) {
	n := thin(t)
	for _, c := range []struct {
		kv   []string
		want string
	}{
		{[]string{"readIOPS", "1"}, "riops:1"},
		{nil, "riops:1"},
		{[]string{"readIOPS", "2", "writeIOPS", "3"}, "riops:2/wiops:3"},
		{[]string{"readIOPS", "2"}, "riops:2/wiops:3"},
	} {
		if got := n.limits(t, n.create(t, request("v", mutable(c.kv...))).GetVolumeId()); got != c.want {
			t.Errorf("%v: limits %q, want %q", c.kv, got, c.want)
		}
	}
}

func TestValidateLimits(t *testing.T) {
	n := thin(t)
	id := n.create(t, request("v")).GetVolumeId()
	for value, want := range map[string]bool{"5": true, "": true, "x": false} {
		resp, err := n.ValidateVolumeCapabilities(t.Context(), &csi.ValidateVolumeCapabilitiesRequest{
			VolumeId: id, VolumeCapabilities: []*csi.VolumeCapability{mounted(writer, "")}, MutableParameters: map[string]string{"readIOPS": value}})
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.GetConfirmed() != nil; got != want {
			t.Errorf("readIOPS %q: confirmed %t: %s", value, got, resp.GetMessage())
		}
		if got, ok := resp.GetConfirmed().GetMutableParameters()["readIOPS"]; want && (!ok || got != value) {
			t.Errorf("confirmed %q", got)
		}
	}
}
