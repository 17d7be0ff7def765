package mount_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/mount/mounttest"
)

func TestStageLife(t *testing.T) {
	for _, fsType := range fsTypes {
		for _, luks := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s luks=%v", fsType, luks), func(t *testing.T) {
				n := newNode(t)
				request := func() mount.StageRequest {
					if luks {
						return encrypted(n.request(fsType), "key")
					}
					return n.request(fsType)
				}
				check(t, n.Stage(t.Context(), request()))
				if n.state != mount.Formatted(fsType) || n.marks != 1 {
					t.Errorf("recorded %q %d times", n.state, n.marks)
				}
				check(t, n.Write(n.path("staging"), "precious"))
				check(t, n.Stage(t.Context(), request()))
				name := ""
				if luks {
					name = "luks-pvc-1"
				}
				check(t, n.Unstage(t.Context(), n.path("staging"), name))
				check(t, n.Unstage(t.Context(), n.path("staging"), name))
				n.Commands()
				check(t, n.Stage(t.Context(), request()))
				if got := count(n.Commands(), formats...); got != 0 {
					t.Errorf("%d formats at the second stage", got)
				}
				data, err := n.Read(n.path("staging"))
				if err != nil || data != "precious" {
					t.Errorf("data %q, error %v", data, err)
				}
			})
		}
	}
}

func TestStageRefuses(t *testing.T) {
	ext4 := mounttest.Content{Type: "ext4", UUID: uuidA, Size: gib}
	for _, tt := range []struct {
		name    string
		content mounttest.Content
		change  func(*mount.StageRequest)
		want    error
	}{
		{"new, foreign filesystem", mounttest.Content{Type: "ntfs"}, nil, mount.ErrForeign},
		{"new, partition table", mounttest.Content{PTType: "gpt"}, nil, mount.ErrForeign},
		{"new, ambiguous", mounttest.Content{Type: "ext4", PTType: "dos"}, nil, mount.ErrForeign},
		{"new, ext4 of another", mounttest.Content{Type: "ext4", UUID: uuidB}, nil, mount.ErrForeign},
		{"new, our UUID and another type", mounttest.Content{Type: "xfs", UUID: uuidA}, nil, mount.ErrForeign},
		{"new, LUKS", mounttest.Content{Type: "crypto_LUKS", UUID: uuidA}, nil, mount.ErrForeign},
		{"new, LUKS of another, encrypted", mounttest.Content{Type: "crypto_LUKS", UUID: uuidA},
			func(r *mount.StageRequest) { *r = encrypted(*r, "k") }, mount.ErrForeign},
		{"new, ext4 of ours, encrypted", ext4, func(r *mount.StageRequest) { *r = encrypted(*r, "k") }, mount.ErrForeign},
		{"formatted, blank", mounttest.Content{}, func(r *mount.StageRequest) { r.State = "ext4" }, mount.ErrForeign},
		{"formatted, blank, encrypted", mounttest.Content{},
			func(r *mount.StageRequest) { *r = encrypted(*r, "k"); r.State = "ext4" }, mount.ErrForeign},
		{"formatted, blank, copied", mounttest.Content{}, func(r *mount.StageRequest) { r.State, r.Copied = "ext4", true }, mount.ErrForeign},
		{"formatted, another type", mounttest.Content{Type: "xfs", UUID: uuidA}, func(r *mount.StageRequest) { r.State = "ext4" }, mount.ErrForeign},
		{"formatted, another UUID, no copy", mounttest.Content{Type: "ext4", UUID: uuidB},
			func(r *mount.StageRequest) { r.State = "ext4" }, mount.ErrForeign},
		{"asked for another type", ext4, func(r *mount.StageRequest) { r.State, r.FSType = "ext4", mount.XFS }, mount.ErrInvalid},
		{"no state", mounttest.Content{}, func(r *mount.StageRequest) { r.State = "" }, mount.ErrInvalid},
		{"new and read-only", mounttest.Content{}, func(r *mount.StageRequest) { r.ReadOnly = true }, mount.ErrInvalid},
		{"no mark", mounttest.Content{}, func(r *mount.StageRequest) { r.MarkFormatted = nil }, mount.ErrInvalid},
		{"bad flag", mounttest.Content{}, func(r *mount.StageRequest) { r.MountFlags = []string{"bind"} }, mount.ErrInvalid},
		{"bad mkfs option", mounttest.Content{}, func(r *mount.StageRequest) { r.MkfsOptions = []string{"-F"} }, mount.ErrInvalid},
		{"bad UUID", mounttest.Content{}, func(r *mount.StageRequest) { r.WantUUID = "-x" }, mount.ErrInvalid},
		{"bad device", mounttest.Content{}, func(r *mount.StageRequest) { r.Device = "/dev/../etc/passwd" }, mount.ErrInvalid},
		{"empty key", mounttest.Content{}, func(r *mount.StageRequest) { *r = encrypted(*r, "") }, mount.ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			check(t, n.SetContent("/dev/dm-1", tt.content))
			r := n.request(mount.Ext4)
			if tt.change != nil {
				tt.change(&r)
			}
			err := n.Stage(t.Context(), r)
			if !errors.Is(err, tt.want) {
				t.Fatalf("error = %v, want %v", err, tt.want)
			}
			after, err := n.Content("/dev/dm-1")
			check(t, err)
			if diff := cmp.Diff(tt.content, after); diff != "" {
				t.Errorf("the device changed (-before +after):\n%s", diff)
			}
			if n.marks != 0 {
				t.Error("the record changed")
			}
		})
	}
}

// A device that blkid cannot open or read looks blank to it.
func TestStageUnreadableIsNotBlank(t *testing.T) {
	n := newNode(t)
	r := n.request(mount.Ext4)
	r.Device = "/dev/dm-9"
	if err := n.Stage(t.Context(), r); err == nil {
		t.Fatal("staged a device that is not there")
	}
	if got := count(n.Commands(), formats...); got != 0 {
		t.Errorf("%d formats", got)
	}
}

func TestStagePrezeroed(t *testing.T) {
	n := newNode(t)
	r := n.request(mount.Ext4)
	r.Prezeroed = func(context.Context) (bool, error) { return true, nil }
	check(t, n.Stage(t.Context(), r))
	if got := fmt.Sprint(n.Commands()); !strings.Contains(got, "assume_storage_prezeroed=1") {
		t.Errorf("commands %s", got)
	}
	n = newNode(t)
	r = encrypted(n.request(mount.Ext4), "key")
	r.Prezeroed = func(context.Context) (bool, error) { t.Error("asked for an encrypted volume"); return true, nil }
	check(t, n.Stage(t.Context(), r))
	if got := fmt.Sprint(n.Commands()); strings.Contains(got, "prezeroed") {
		t.Errorf("commands %s", got)
	}
}

func TestStageTooSmall(t *testing.T) {
	n := newNode(t)
	n.disks["/dev/dm-1"].Resize(200 << 20)
	if err := n.Stage(t.Context(), n.request(mount.XFS)); !errors.Is(err, mount.ErrInvalid) {
		t.Errorf("error = %v, want ErrInvalid", err)
	}
	if got := count(n.Commands(), formats...); got != 0 {
		t.Errorf("%d formats", got)
	}
}

func TestStageConflict(t *testing.T) {
	n := newNode(t)
	check(t, n.Stage(t.Context(), n.request(mount.Ext4)))
	r := n.request(mount.Ext4)
	r.Device = "/dev/dm-2"
	if err := n.Stage(t.Context(), r); !errors.Is(err, mount.ErrConflict) {
		t.Errorf("error = %v, want ErrConflict", err)
	}
	r = n.request(mount.Ext4)
	r.ReadOnly = true
	if err := n.Stage(t.Context(), r); !errors.Is(err, mount.ErrConflict) {
		t.Errorf("read-only: error = %v, want ErrConflict", err)
	}
}

// A copy is staged beside its mounted source, with its own UUID, its log replayed, and larger.
func TestStageCopy(t *testing.T) {
	for _, fsType := range fsTypes {
		for _, luks := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s luks=%v", fsType, luks), func(t *testing.T) {
				n := newNode(t)
				check(t, n.Stage(t.Context(), maybe(luks, n.request(fsType))))
				copyDisk(t, n, fsType, luks)
				n.disks["/dev/dm-2"].Resize(2 * gib)
				check(t, n.Stage(t.Context(), copyRequest(n, fsType, luks)))
				checkCopy(t, n, luks)
			})
		}
	}
}

func maybe(luks bool, r mount.StageRequest) mount.StageRequest {
	if luks {
		return encrypted(r, "key")
	}
	return r
}

// copyDisk makes /dev/dm-2 a copy of the mounted /dev/dm-1, its log not replayed.
func copyDisk(t *testing.T, n *node, fsType mount.FSType, luks bool) {
	t.Helper()
	device := "/dev/dm-1"
	if luks {
		device = mount.MappedDevice("luks-pvc-1")
	}
	check(t, n.Write(n.path("staging"), "precious"))
	c, err := n.Content(device)
	check(t, err)
	dirty := c
	dirty.Log = true
	check(t, n.SetContent(device, dirty))
	n.disks["/dev/dm-2"] = n.disks["/dev/dm-1"].Clone()
	check(t, n.SetContent(device, c))
}

func copyRequest(n *node, fsType mount.FSType, luks bool) mount.StageRequest {
	r := n.request(fsType)
	r.Device, r.StagingPath, r.WantUUID, r.Copied = "/dev/dm-2", n.path("copy"), uuidB, true
	r.State = mount.Formatted(fsType)
	if luks {
		r.Encryption = &mount.Encryption{Name: "luks-pvc-2", Key: mount.Key("key")}
	}
	return r
}

func checkCopy(t *testing.T, n *node, luks bool) {
	t.Helper()
	device, size := "/dev/dm-2", int64(2*gib)
	if luks {
		device, size = mount.MappedDevice("luks-pvc-2"), 2*gib-16<<20
	}
	c, err := n.Content(device)
	check(t, err)
	if c.UUID != uuidB || c.Data != "precious" || c.Size != size || c.OldBackups {
		t.Errorf("copy holds %+v", c)
	}
	if data, err := n.Read(n.path("copy")); err != nil || data != "precious" {
		t.Errorf("data %q, error %v", data, err)
	}
}

func TestStageFixesOldBackups(t *testing.T) {
	n := newNode(t)
	check(t, n.SetContent("/dev/dm-2", mounttest.Content{Type: "xfs", UUID: uuidB, Size: 2 * gib, OldBackups: true, Log: true, Data: "precious"}))
	n.disks["/dev/dm-2"].Resize(2 * gib)
	check(t, n.Stage(t.Context(), copyRequest(n, mount.XFS, false)))
	checkCopy(t, n, false)
}

func TestStageFailedMarkIsDoneAgain(t *testing.T) {
	n := newNode(t)
	r := n.request(mount.Ext4)
	broken := errors.New("lvm is away")
	r.MarkFormatted = func(context.Context, mount.State) error { return broken }
	if err := n.Stage(t.Context(), r); !errors.Is(err, broken) {
		t.Fatalf("error = %v", err)
	}
	if got := n.Commands(); count(got, "mount") != 0 {
		t.Error("mounted before the record")
	}
	check(t, n.Stage(t.Context(), n.request(mount.Ext4)))
	forced := slices.ContainsFunc(n.Commands(), func(c mount.Command) bool { return c.Name == "mke2fs" && slices.Contains(c.Args, "-F") })
	if !forced {
		t.Error("mke2fs did not run again with -F")
	}
}

// A mutating command runs to its end though the caller has gone.
func TestStageOutlivesItsContext(t *testing.T) {
	n := newNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	n.Before = func(cmd mount.Command) error {
		if cmd.Name == "mke2fs" {
			cancel()
		}
		return nil
	}
	check(t, n.Stage(ctx, n.request(mount.Ext4)))
	if n.state != "ext4" {
		t.Errorf("recorded %q", n.state)
	}
	if err := n.Unstage(ctx, n.path("staging"), ""); err != nil {
		t.Error(err)
	}
	n.Before = nil
	if err := n.Stage(ctx, n.request(mount.Ext4)); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want canceled from blkid", err)
	}
}
