package driver_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/lamina-csi/lamina/driver"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
	"github.com/lamina-csi/lamina/node/pool"
)

const (
	podA = "01234567-89ab-cdef-0123-456789abcdef"
	podB = "fedcba9876543210fedcba9876543210" // a static pod's
)

func (n node) modify(t testing.TB, id string, kv ...string) error {
	t.Helper()
	p := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		p[kv[i]] = kv[i+1]
	}
	_, err := n.ControllerModifyVolume(t.Context(), &csi.ControllerModifyVolumeRequest{VolumeId: id, MutableParameters: p})
	return err
}

// target is where kubelet publishes for a pod.
func (n node) target(t testing.TB, pod string, c *csi.VolumeCapability) string {
	t.Helper()
	if c.GetBlock() != nil {
		return n.path(t, "plugins/kubernetes.io/csi/volumeDevices/publish/pv/"+pod)
	}
	return n.path(t, "pods/"+pod+"/volumes/kubernetes.io~csi/pv/mount")
}

// limits are those that the volume's tag has.
func (n node) limits(t testing.TB, id string) string {
	t.Helper()
	parsed, err := pool.ParseID(id)
	if err != nil {
		t.Fatal(err)
	}
	v, err := n.Pools.GetVolume(parsed)
	if err != nil {
		t.Fatal(err)
	}
	return v.Limits
}

func wantFile(t testing.TB, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q, want %q (%v)", path, got, want, err)
	}
}

func clearFile(t testing.TB, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Of every kind of volume, the pods that have it get its limits on the one device
// that their I/O goes to, when they get it and when it is modified.
func TestLimitsOfPods(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			n := thin(t)
			r := request("v", mutable("readIOPS", "100", "writeBandwidth", "1Mi"))
			if k.change != nil {
				change := request("v")
				k.change(change)
				r.Parameters, r.VolumeCapabilities, r.CapacityRange = change.Parameters, change.VolumeCapabilities, change.CapacityRange
			}
			id := n.create(t, r).GetVolumeId()
			if _, err := n.stage(t, id, k.use, k.secrets); err != nil {
				t.Fatal(err)
			}
			parsed, err := pool.ParseID(id)
			if err != nil {
				t.Fatal(err)
			}
			device, err := n.Pools.ActiveDevice(parsed)
			if err != nil {
				t.Fatal(err)
			}
			number := "254:" + strings.TrimPrefix(device, "/dev/dm-")
			if k.secrets != nil {
				number = "254:1000" // the mapping
			}
			a, b := n.AddPod(t, podA), n.AddPod(t, podB)
			if err := n.publish(t, id, n.target(t, podA, k.use), k.use, false); err != nil {
				t.Fatal(err)
			}
			wantFile(t, a, number+" rbps=max wbps=1048576 riops=100 wiops=max\n")
			if err := n.publish(t, id, n.target(t, podB, k.use), k.use, false); err != nil {
				t.Fatal(err)
			}
			clearFile(t, a)
			if err := n.modify(t, id, "readIOPS", "", "writeIOPS", "7"); err != nil {
				t.Fatal(err)
			}
			for _, pod := range []string{a, b} {
				wantFile(t, pod, number+" rbps=max wbps=1048576 riops=max wiops=7\n")
				clearFile(t, pod)
			}
			// One pod leaves; the other loses all limits.
			if _, err := n.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: n.target(t, podA, k.use)}); err != nil {
				t.Fatal(err)
			}
			if err := n.modify(t, id, "writeIOPS", "", "writeBandwidth", ""); err != nil {
				t.Fatal(err)
			}
			wantFile(t, a, "")
			wantFile(t, b, number+" rbps=max wbps=max riops=max wiops=max\n")
			if got := n.limits(t, id); got != "" {
				t.Errorf("limits %q are left", got)
			}
		})
	}
}

// A volume without limits needs no cgroups.
func TestNoLimitsNoCgroups(t *testing.T) {
	n := thin(t)
	if err := os.RemoveAll(n.CgroupRoot); err != nil {
		t.Fatal(err)
	}
	id := n.create(t, request("v")).GetVolumeId()
	use := mounted(writer, "")
	if _, err := n.stage(t, id, use, nil); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{n.target(t, podA, use), n.target(t, podA, use)} {
		if err := n.publish(t, id, target, use, false); err != nil {
			t.Error(err)
		}
	}
}

// A pod that cannot be limited does not get the volume.
func TestPublishWithoutCgroup(t *testing.T) {
	n := thin(t)
	use := mounted(multiWriter, "")
	id := n.create(t, request("v", mutable("readIOPS", "100"))).GetVolumeId()
	if _, err := n.stage(t, id, use, nil); err != nil {
		t.Fatal(err)
	}
	target := n.target(t, podA, use)
	unchanged := n.unchanged(t)
	wantError(t, n.publish(t, id, target, use, false), codes.FailedPrecondition, podA, "there is no kubepods")
	ioMax := n.AddPod(t, podB)
	wantError(t, n.publish(t, id, target, use, false), codes.FailedPrecondition, podA, "still being made", filepath.Join(n.CgroupRoot, "kubepods"))
	if err := os.Remove(ioMax); err != nil {
		t.Fatal(err)
	}
	wantError(t, n.publish(t, id, n.target(t, podB, use), use, false), codes.FailedPrecondition, podB, "io controller is not enabled")
	wantError(t, n.publish(t, id, n.path(t, "elsewhere/target"), use, false), codes.FailedPrecondition, "riops:100", "elsewhere/target")
	wantError(t, n.publish(t, id, n.path(t, "pods/a_b/mount"), use, false), codes.FailedPrecondition, "invalid pod UID", "a_b")
	unchanged()
	if _, err := os.Lstat(target); !os.IsNotExist(err) {
		t.Errorf("the target is there: %v", err)
	}
	// Kubelet tries again.
	a := n.AddPod(t, podA)
	if err := n.publish(t, id, target, use, false); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(a); err != nil || !strings.Contains(string(got), "riops=100") {
		t.Errorf("io.max holds %q (%v)", got, err)
	}
}

// A pod whose cgroup is gone does not keep the others from their limits, and the
// call is repeated until it is known what has become of it.
func TestModifyWithoutCgroup(t *testing.T) {
	n := thin(t)
	use := mounted(multiWriter, "")
	id := n.create(t, request("v")).GetVolumeId()
	if _, err := n.stage(t, id, use, nil); err != nil {
		t.Fatal(err)
	}
	for _, pod := range []string{podA, podB} {
		if err := n.publish(t, id, n.target(t, pod, use), use, false); err != nil {
			t.Fatal(err)
		}
	}
	b := n.AddPod(t, podB)
	wantError(t, n.modify(t, id, "readIOPS", "5"), codes.FailedPrecondition, podA, "limits are recorded")
	if got, err := os.ReadFile(b); err != nil || !strings.Contains(string(got), "riops=5 ") {
		t.Errorf("io.max holds %q (%v)", got, err)
	}
	a := n.AddPod(t, podA)
	before := len(n.Host.Commands())
	if err := n.modify(t, id, "readIOPS", "5"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(a); err != nil || !strings.Contains(string(got), "riops=5 ") {
		t.Errorf("io.max holds %q (%v)", got, err)
	}
	if ran := n.Host.Commands()[before:]; len(ran) > 0 {
		t.Errorf("lvm ran: %v", ran)
	}
}

// Wherever the agent is cut in a modify, the same call made again brings tag and
// cgroup to what it says.
func TestModifyCutShort(t *testing.T) {
	for _, point := range []lvmtest.Point{lvmtest.Before, lvmtest.After} {
		n := thin(t)
		use := mounted(writer, "")
		id := n.create(t, request("v", mutable("readIOPS", "1"))).GetVolumeId()
		if _, err := n.stage(t, id, use, nil); err != nil {
			t.Fatal(err)
		}
		ioMax := n.AddPod(t, podA)
		if err := n.publish(t, id, n.target(t, podA, use), use, false); err != nil {
			t.Fatal(err)
		}
		clearFile(t, ioMax)
		n.Host.OnStep(func(s lvmtest.Step) error {
			if s.Call == "lvchange" && s.Point == point {
				return os.ErrDeadlineExceeded
			}
			return nil
		})
		if err := n.modify(t, id, "readIOPS", "2"); err == nil {
			t.Fatalf("%v: it was not cut", point)
		}
		wantFile(t, ioMax, "")
		n.Host.OnStep(nil)
		if err := n.modify(t, id, "readIOPS", "2"); err != nil {
			t.Fatal(err)
		}
		if got := n.limits(t, id); got != "riops:2" {
			t.Errorf("%v: limits %q", point, got)
		}
		if got, err := os.ReadFile(ioMax); err != nil || !strings.Contains(string(got), "riops=2 ") {
			t.Errorf("%v: io.max holds %q (%v)", point, got, err)
		}
	}
}

// The pods that have a volume are known from the mount table, by an agent that was
// started later too.
func TestModifyAfterRestart(t *testing.T) {
	n := thin(t)
	use := mounted(writer, "")
	id := n.create(t, request("v")).GetVolumeId()
	if _, err := n.stage(t, id, use, nil); err != nil {
		t.Fatal(err)
	}
	if err := n.publish(t, id, n.target(t, podA, use), use, false); err != nil {
		t.Fatal(err)
	}
	a := n.AddPod(t, podA)
	n.Serve(t, func(c *driver.Config) { c.Endpoint += "2" })
	if err := n.modify(t, id, "writeIOPS", "9"); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(a); err != nil || !strings.Contains(string(got), "wiops=9\n") {
		t.Errorf("io.max holds %q (%v)", got, err)
	}
}
