package mount_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lamina-csi/lamina/node/mount"
)

func TestPodOf(t *testing.T) {
	n := newNode(t)
	for path, want := range map[string]string{
		"pods/u-1/volumes/kubernetes.io~csi/pv/mount":            "u-1",
		"pods/u-1/volume-subpaths/pv/app/0":                      "u-1",
		"plugins/kubernetes.io/csi/volumeDevices/publish/pv/u-1": "u-1",
		"plugins/kubernetes.io/csi/volumeDevices/pv/dev/u-1":     "",
		"plugins/kubernetes.io/csi/volumeDevices/publish/pv":     "",
		"plugins/kubernetes.io/csi/lamina.dev/hash/globalmount":  "",
		"plugins/kubernetes.io/csi/volumeDevices/staging/pv":     "",
		"pods":                     "",
		"pods/u-1":                 "",
		"podsx/u-1/volumes/x":      "",
		"other/pods/u-1/volumes/x": "",
	} {
		if got := n.PodOf(n.path(path)); got != want {
			t.Errorf("%s: pod %q, want %q", path, got, want)
		}
		if got := n.PodOf("/elsewhere/" + path); got != "" {
			t.Errorf("elsewhere: pod %q", got)
		}
	}
}

func TestDeviceNumber(t *testing.T) {
	n := newNode(t)
	number := func(path string) [2]uint32 {
		t.Helper()
		major, minor, err := n.DeviceNumber(path)
		check(t, err)
		return [2]uint32{major, minor}
	}
	if _, _, err := n.DeviceNumber(n.path("staging")); !errors.Is(err, mount.ErrNotMounted) {
		t.Errorf("nothing mounted: %v", err)
	}
	check(t, n.Stage(t.Context(), n.request(mount.Ext4)))
	check(t, n.Publish(t.Context(), mount.PublishRequest{StagingPath: n.path("staging"), Target: n.path("pods/a")}))
	check(t, n.PublishBlock(t.Context(), mount.PublishBlockRequest{Device: "/dev/dm-2", Target: n.path("pods/b")}))
	for path, want := range map[string]uint32{"/dev/dm-1": 1, n.path("staging"): 1, n.path("pods/a"): 1, "/dev/dm-2": 2, n.path("pods/b"): 2} {
		if got := number(path); got != [2]uint32{254, want} {
			t.Errorf("%s: %v", path, got)
		}
	}
	for _, path := range []string{"/dev/../x", "/etc", n.path("../x"), n.kubelet + "/pods/../pods/a", ""} {
		if _, _, err := n.DeviceNumber(path); !errors.Is(err, mount.ErrInvalid) {
			t.Errorf("%q: %v", path, err)
		}
	}
}

// The mount table has real names; kubelet's directory may be a symlink.
func TestMountedAtBelowSymlink(t *testing.T) {
	n := newNode(t)
	link := filepath.Join(t.TempDir(), "kubelet")
	check(t, os.Symlink(n.kubelet, link))
	n.Mounter, n.kubelet = mount.New(n.Config(link)), link
	check(t, n.Stage(t.Context(), n.request(mount.Ext4)))
	check(t, n.Publish(t.Context(), mount.PublishRequest{StagingPath: n.path("staging"), Target: n.path("pods/a"), ReadOnly: true}))
	got, err := n.MountedAt("/dev/dm-1")
	check(t, err)
	if diff := cmp.Diff(map[string]bool{n.path("staging"): false, n.path("pods/a"): true}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, minor, err := n.DeviceNumber(n.path("pods/a")); err != nil || minor != 1 {
		t.Errorf("minor %d, %v", minor, err)
	}
}
