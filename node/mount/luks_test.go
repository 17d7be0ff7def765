package mount_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/lamina-csi/lamina/node/mount"
)

func TestWrongKey(t *testing.T) {
	n := newNode(t)
	check(t, n.Stage(t.Context(), encrypted(n.request(mount.Ext4), "right")))
	check(t, n.Write(n.path("staging"), "precious"))
	check(t, n.Unstage(t.Context(), n.path("staging"), "luks-pvc-1"))
	err := n.Stage(t.Context(), encrypted(n.request(mount.Ext4), "wrong"))
	if !errors.Is(err, mount.ErrKey) {
		t.Fatalf("error = %v, want ErrKey", err)
	}
	if strings.Contains(err.Error(), "wrong\x00") || strings.Contains(err.Error(), "right") {
		t.Errorf("a key is in %q", err)
	}
	check(t, n.Stage(t.Context(), encrypted(n.request(mount.Ext4), "right")))
	if data, err := n.Read(n.path("staging")); err != nil || data != "precious" {
		t.Errorf("data %q, error %v", data, err)
	}
	for _, cmd := range n.Commands() {
		if strings.Contains(cmd.String(), "right") {
			t.Errorf("the key is in the arguments of %s", cmd)
		}
	}
}

// The mapping of another volume under our name is not ours to use.
func TestMappingOverAnotherDevice(t *testing.T) {
	n := newNode(t)
	check(t, n.Stage(t.Context(), encrypted(n.request(mount.Ext4), "key")))
	r := encrypted(n.request(mount.Ext4), "key")
	r.Device, r.StagingPath = "/dev/dm-2", n.path("other")
	if err := n.Stage(t.Context(), r); !errors.Is(err, mount.ErrConflict) {
		t.Errorf("error = %v, want ErrConflict", err)
	}
}

func TestStageBlock(t *testing.T) {
	n := newNode(t)
	r := n.request("")
	device, err := n.StageBlock(t.Context(), r)
	if err != nil || device != "/dev/dm-1" || len(n.Commands()) != 0 {
		t.Fatalf("device %q, error %v", device, err)
	}
	r = encrypted(r, "key")
	device, err = n.StageBlock(t.Context(), r)
	check(t, err)
	if device != mount.MappedDevice("luks-pvc-1") || n.state != mount.StateRaw {
		t.Errorf("device %q, recorded %q", device, n.state)
	}
	n.Reboot()
	r = encrypted(n.request(""), "key")
	for range 2 {
		_, err = n.StageBlock(t.Context(), r)
		check(t, err)
	}
	if got := count(n.Commands(), formats...); got != 1 {
		t.Errorf("%d headers made, want 1", got)
	}
	check(t, n.PublishBlock(t.Context(), mount.PublishBlockRequest{Device: device, Target: n.path("pods/b")}))
	check(t, n.Unpublish(t.Context(), n.path("pods/b")))
	check(t, n.Grow(t.Context(), mount.GrowRequest{Device: "/dev/dm-1", LUKSName: "luks-pvc-1"}))
	check(t, n.Unstage(t.Context(), n.path("staging"), "luks-pvc-1"))
	r.State = mount.Formatted(mount.Ext4)
	if _, err := n.StageBlock(t.Context(), r); !errors.Is(err, mount.ErrInvalid) {
		t.Errorf("error = %v, want ErrInvalid", err)
	}
}

func TestLUKSName(t *testing.T) {
	if name, err := mount.LUKSName("pvc-1"); err != nil || name != "luks-pvc-1" {
		t.Errorf("name %q, error %v", name, err)
	}
	for _, lv := range []string{"", "-x", "a/b", "..", "a b", "a\nb", strings.Repeat("a", 200), "ü"} {
		if name, err := mount.LUKSName(lv); !errors.Is(err, mount.ErrInvalid) {
			t.Errorf("%q gives %q, error %v", lv, name, err)
		}
	}
}
