package asset

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/lamina-csi/lamina/test/vm"
)

// hostFiles make a node's packages a host that systemd boots: /var is a disk, and
// extensions are merged at boot. /etc is as read-only as the rest.
var hostFiles = map[string]string{
	"etc/fstab":    "LABEL=var /var ext4 defaults 0 0\n",
	"etc/hostname": "node-1\n",
	// Without one each boot is the first (machine-id(5)).
	"etc/machine-id": "6c616d696e612e6465760a6c616d696e\n",
}

// hostLinks are what systemctl enable makes.
var hostLinks = map[string]string{
	"etc/systemd/system/sysinit.target.wants/systemd-sysext.service": "/usr/lib/systemd/system/systemd-sysext.service",
}

// hostSize is in bytes: what the packages and the kernel's modules need, and some room.
const hostSize = 1 << 30

// Host returns an ext4 image of the root of an immutable Debian with systemd: it has no
// journal and is to be mounted read-only. It needs no privilege.
func Host(ctx context.Context, log *slog.Logger) (string, error) {
	b, unlock, err := newBuilder(log)
	if err != nil {
		return "", err
	}
	defer unlock()
	image, files, err := vm.OpenKernel(ctx, b.root)
	if err != nil {
		return "", err
	}
	dirs, err := b.unpack(ctx)
	if err != nil {
		return "", err
	}
	d := (&digest{}).text(layout, image).file(lockPath(b.root))
	for _, name := range rootFileNames() {
		d.text(name, rootFiles[name])
	}
	for _, name := range sorted(hostFiles) {
		d.text(name, hostFiles[name])
	}
	for _, name := range sorted(hostLinks) {
		d.text(name, hostLinks[name])
	}
	key, err := d.key()
	if err != nil {
		return "", err
	}
	return b.cached("host", key, func(tmp string) error {
		return buildHost(ctx, tmp, rootParts{packages: dirs, kernel: files})
	})
}

func buildHost(ctx context.Context, to string, p rootParts) error {
	stage := to + ".stage"
	defer os.RemoveAll(stage)
	if err := stageRoot(ctx, stage, p); err != nil {
		return err
	}
	for name, text := range hostFiles {
		if err := os.WriteFile(filepath.Join(stage, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for name, target := range hostLinks {
		name = filepath.Join(stage, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(target, name); err != nil {
			return err
		}
	}
	return makeExt4(ctx, to, stage, hostSize, "-O", "^has_journal")
}
