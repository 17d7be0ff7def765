package mount_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lamina-csi/lamina/node/mount"
)

func TestPublishLife(t *testing.T) {
	for _, readOnly := range []bool{false, true} {
		t.Run(fmt.Sprintf("readOnly=%v", readOnly), func(t *testing.T) {
			n := newNode(t)
			r := mount.PublishRequest{StagingPath: n.path("staging"), Target: n.path("pods/a"), ReadOnly: readOnly}
			if err := n.Publish(t.Context(), r); !errors.Is(err, mount.ErrNotMounted) {
				t.Fatalf("before stage: error = %v, want ErrNotMounted", err)
			}
			check(t, n.Stage(t.Context(), n.request(mount.Ext4)))
			check(t, n.Write(n.path("staging"), "precious"))
			check(t, n.Publish(t.Context(), r))
			n.Commands()
			check(t, n.Publish(t.Context(), r))
			if got := n.Commands(); len(got) != 0 {
				t.Errorf("a second publish ran %v", got)
			}
			if data, err := n.Read(r.Target); err != nil || data != "precious" {
				t.Errorf("data %q, error %v", data, err)
			}
			health, err := n.Health(t.Context(), "/dev/dm-1", r.Target)
			check(t, err)
			if diff := cmp.Diff(mount.Health{ReadOnly: readOnly}, health); diff != "" {
				t.Errorf("health (-want +got):\n%s", diff)
			}
			check(t, n.Unpublish(t.Context(), r.Target))
			check(t, n.Unpublish(t.Context(), r.Target))
			if _, err := os.Lstat(r.Target); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("target after unpublish: %v", err)
			}
		})
	}
}

func TestPublishModeConflict(t *testing.T) {
	n := newNode(t)
	check(t, n.Stage(t.Context(), n.request(mount.Ext4)))
	r := mount.PublishRequest{StagingPath: n.path("staging"), Target: n.path("pods/a"), ReadOnly: true}
	check(t, n.Publish(t.Context(), r))
	r.ReadOnly = false
	if err := n.Publish(t.Context(), r); !errors.Is(err, mount.ErrConflict) {
		t.Errorf("error = %v, want ErrConflict", err)
	}
	// A read-only bind mount that was cut between its two steps.
	r.Target = n.path("pods/b")
	check(t, n.Publish(t.Context(), r))
	r.ReadOnly = true
	check(t, n.Publish(t.Context(), r))
	if health, err := n.Health(t.Context(), "/dev/dm-1", r.Target); err != nil || !health.ReadOnly {
		t.Errorf("health %+v, error %v", health, err)
	}
	if health, err := n.Health(t.Context(), "/dev/dm-1", n.path("staging")); err != nil || health.ReadOnly {
		t.Errorf("staging: health %+v, error %v", health, err)
	}
}

func TestPublishBlock(t *testing.T) {
	n := newNode(t)
	r := mount.PublishBlockRequest{Device: "/dev/dm-1", Target: n.path("pods/block")}
	check(t, n.PublishBlock(t.Context(), r))
	check(t, n.PublishBlock(t.Context(), r))
	stats, err := n.Stats(t.Context(), r.Target)
	check(t, err)
	if diff := cmp.Diff(mount.Stats{Block: true, Total: gib}, stats); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
	r.Device = "/dev/dm-2"
	if err := n.PublishBlock(t.Context(), r); !errors.Is(err, mount.ErrConflict) {
		t.Errorf("error = %v, want ErrConflict", err)
	}
	r = mount.PublishBlockRequest{Device: "/dev/dm-9", Target: n.path("pods/none")}
	if err := n.PublishBlock(t.Context(), r); err == nil {
		t.Error("published a device that is not there")
	}
	check(t, n.Unpublish(t.Context(), n.path("pods/block")))
	if entries, err := os.ReadDir(n.path("pods")); err != nil || len(entries) != 0 {
		t.Errorf("left behind %v, error %v", entries, err)
	}
}

func TestBusyIsNotForced(t *testing.T) {
	n := newNode(t)
	check(t, n.Stage(t.Context(), encrypted(n.request(mount.Ext4), "key")))
	n.Busy[n.path("staging")] = true
	if err := n.Unstage(t.Context(), n.path("staging"), "luks-pvc-1"); !errors.Is(err, mount.ErrBusy) {
		t.Errorf("error = %v, want ErrBusy", err)
	}
	delete(n.Busy, n.path("staging"))
	n.Busy["luks-pvc-1"] = true
	if err := n.Unstage(t.Context(), n.path("staging"), "luks-pvc-1"); !errors.Is(err, mount.ErrBusy) {
		t.Errorf("mapping: error = %v, want ErrBusy", err)
	}
	delete(n.Busy, "luks-pvc-1")
	check(t, n.Unstage(t.Context(), n.path("staging"), "luks-pvc-1"))
}

// Whatever lies under a target is never removed with it.
func TestUnpublishKeepsFiles(t *testing.T) {
	n := newNode(t)
	check(t, os.Mkdir(n.path("pods/a"), 0o750))
	check(t, os.WriteFile(n.path("pods/a/precious"), []byte("x"), 0o600))
	if err := n.Unpublish(t.Context(), n.path("pods/a")); err == nil {
		t.Error("unpublished a directory with files")
	}
	if _, err := os.Stat(n.path("pods/a/precious")); err != nil {
		t.Error(err)
	}
}

func TestPaths(t *testing.T) {
	n := newNode(t)
	outside := t.TempDir()
	check(t, os.Symlink(outside, n.path("link")))
	check(t, os.Symlink(n.path("pods"), n.path("inner")))
	check(t, os.WriteFile(n.path("file"), nil, 0o600))
	check(t, n.Stage(t.Context(), n.request(mount.Ext4)))
	for _, target := range []string{
		"", "/", "relative", outside + "/x", n.kubelet, n.kubelet + "/", n.kubelet + "-evil/x", n.path("pods") + "/../../x",
		n.kubelet + "//pods/x", n.kubelet + "/./x", n.path("link"), n.path("link/x"), n.path("inner/x"), n.path("file/x"), n.path("a b"),
		n.path("a\nb"), n.path(`a\040b`), n.path("ü"), n.path("a\x00b"), "-o",
	} {
		err := n.Publish(t.Context(), mount.PublishRequest{StagingPath: n.path("staging"), Target: target})
		if !errors.Is(err, mount.ErrInvalid) {
			t.Errorf("publish at %q: error = %v, want ErrInvalid", target, err)
		}
		if err := n.PublishBlock(t.Context(), mount.PublishBlockRequest{Device: "/dev/dm-1", Target: target}); !errors.Is(err, mount.ErrInvalid) {
			t.Errorf("publish block at %q: error = %v, want ErrInvalid", target, err)
		}
		r := n.request(mount.Ext4)
		if r.StagingPath = target; !errors.Is(n.Stage(t.Context(), r), mount.ErrInvalid) {
			t.Errorf("stage at %q did not give ErrInvalid", target)
		}
		if err := n.Unpublish(t.Context(), target); !errors.Is(err, mount.ErrInvalid) {
			t.Errorf("unpublish %q: error = %v, want ErrInvalid", target, err)
		}
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("outside holds %v, error %v", entries, err)
	}
	if _, err := os.Lstat(n.path("link")); err != nil {
		t.Errorf("the symlink is gone: %v", err)
	}
}

// An administrator may have moved kubelet's directory and left a symlink.
func TestKubeletDirMayBeSymlink(t *testing.T) {
	n := newNode(t)
	link := filepath.Join(t.TempDir(), "kubelet")
	check(t, os.Symlink(n.kubelet, link))
	m := mount.New(n.Config(link))
	r := n.request(mount.Ext4)
	r.StagingPath = filepath.Join(link, "staging")
	check(t, m.Stage(t.Context(), r))
	check(t, m.Publish(t.Context(), mount.PublishRequest{StagingPath: r.StagingPath, Target: filepath.Join(link, "pods/a")}))
	if _, err := n.Read(n.path("pods/a")); err != nil {
		t.Error(err)
	}
}

func TestStats(t *testing.T) {
	n := newNode(t)
	if _, err := n.Stats(t.Context(), n.path("pods")); !errors.Is(err, mount.ErrNotMounted) {
		t.Errorf("error = %v, want ErrNotMounted", err)
	}
	check(t, n.Stage(t.Context(), n.request(mount.XFS)))
	stats, err := n.Stats(t.Context(), n.path("staging"))
	check(t, err)
	want := mount.Stats{Total: gib, Available: gib, Inodes: 65536, InodesUsed: 11, InodesFree: 65525}
	if diff := cmp.Diff(want, stats); diff != "" {
		t.Errorf("stats (-want +got):\n%s", diff)
	}
}

func TestGrow(t *testing.T) {
	for _, fsType := range fsTypes {
		for _, luks := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s luks=%v", fsType, luks), func(t *testing.T) {
				n := newNode(t)
				r := mount.GrowRequest{Device: "/dev/dm-1", Path: n.path("staging")}
				want := int64(2 * gib)
				if luks {
					r.LUKSName, want = "luks-pvc-1", want-16<<20
				}
				if err := n.Grow(t.Context(), r); !errors.Is(err, mount.ErrNotMounted) {
					t.Errorf("before stage: error = %v, want ErrNotMounted", err)
				}
				check(t, n.Stage(t.Context(), maybe(luks, n.request(fsType))))
				n.disks["/dev/dm-1"].Resize(2 * gib)
				check(t, n.Grow(t.Context(), r))
				check(t, n.Grow(t.Context(), r))
				stats, err := n.Stats(t.Context(), r.Path)
				check(t, err)
				if stats.Total != want {
					t.Errorf("size %d, want %d", stats.Total, want)
				}
			})
		}
	}
}
