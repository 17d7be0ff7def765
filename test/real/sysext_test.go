//go:build vm

package real

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/lamina-csi/lamina/deploy/image/extension"
	"github.com/lamina-csi/lamina/test/cluster/asset"
	"github.com/lamina-csi/lamina/test/vm"
)

// varDisk makes the host's /var, with two releases of the sysext image in it: as
// squashfs and as erofs.
func varDisk(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "var")
	for version, format := range map[string]extension.Format{"v1": extension.Squashfs, "v2": extension.Erofs} {
		tree, release := userland(t, buildVersion(t, "cmd/lamina-node", version), version)
		sysext, err := extension.Sysext(t.Context(), tree, release)
		if err != nil {
			t.Fatal(err)
		}
		if err := extension.WriteImage(t.Context(), sysext, format, filepath.Join(dir, "images", version+".raw")); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"run": "/run", "lock": "/run/lock"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	image := filepath.Join(t.TempDir(), "var.raw")
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-L", "var", "-d", dir, image, "1G").CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	return image
}

// TestSysext is the life of the sysext image on a host with systemd and udev whose root
// is read-only: it comes, is replaced, the host reboots, it goes.
func TestSysext(t *testing.T) {
	t.Parallel()
	root, err := asset.Host(t.Context(), slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		t.Fatal(err)
	}
	disks := []vm.Disk{
		{Serial: "ROOT", Path: root, ReadOnly: true},
		{Serial: "VAR", Path: varDisk(t), Unsafe: true},
		{Serial: "DATA", Path: filepath.Join(t.TempDir(), "data"), Size: 4 * gib, Unsafe: true},
	}
	for _, scenario := range []string{"arrive", "reboot"} {
		m, err := vm.Start(t.Context(), vm.Config{
			Program: build(t, "test/real/sysext"),
			Args:    []string{scenario},
			// thin_ls, for the rules that hold after every test, comes with the image.
			Env:     []string{"PATH=/usr/sbin:/usr/bin:/usr/lib/lamina-node/usr/sbin"},
			Root:    "ROOT",
			Kernel:  []string{"ro", "systemd.getty_auto=no"},
			Disks:   disks,
			Memory:  2 << 30,
			CPUs:    2,
			Timeout: 20 * time.Minute,
			Stdout:  t.Output(),
			Stderr:  t.Output(),
		})
		if err != nil {
			t.Fatal(err)
		}
		pass(t, m)
	}
}
