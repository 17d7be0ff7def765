package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
)

// plainPackages are what lvm2 has beside it where Debian installs it, and the
// node bundle has not: its configuration, udevd with its rules, dmeventd. The
// libraries are those of udevd and of dmeventd's plugins.
var plainPackages = []string{
	"lvm2", "dmsetup", "dmeventd", "liblvm2cmd2.03", "libdevmapper-event1.02.1",
	"udev", "libsystemd-shared", "libkmod2", "libacl1", "libaudit1", "libcap-ng0", "libcap2", "libcrypt1",
	"libpam0g", "libseccomp2", "libmount1", "libblkid1", "libselinux1", "libpcre2-8-0", "libssl3t64",
	"libapparmor1", "libzstd1", "zlib1g", "libudev1", "libsystemd0",
}

// unwanted are parts of those packages that need systemd, or are of no use here.
var unwanted = []string{
	"usr/share", "usr/lib/udev/hwdb.d", "usr/lib/systemd/system", "usr/lib/udev/rules.d/69-lvm.rules",
	"usr/sbin/lvm", // the bundle's is the same version
}

// plainInstallation lays the packages out in a directory, with files in the place
// of symlinks. Their versions are those that the test cluster pins.
func plainInstallation(ctx context.Context, dir string) error {
	root, err := bundle.ModuleRoot()
	if err != nil {
		return err
	}
	lock, err := bundle.ReadLock(filepath.Join(root, "test", "cluster", "packages.lock"))
	if err != nil {
		return err
	}
	unlock, err := bundle.LockCache(root)
	if err != nil {
		return err
	}
	defer unlock()
	store := bundle.NewStore(root)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range plainPackages {
		var files string
		for _, p := range lock {
			if p.Name != name {
				continue
			}
			if files, err = store.Unpack(ctx, p); err != nil {
				return err
			}
		}
		if files == "" {
			return fmt.Errorf("%s is not pinned", name)
		}
		if out, err := exec.CommandContext(ctx, "cp", "-a", "--", files+"/.", dir).CombinedOutput(); err != nil {
			return fmt.Errorf("copy %s: %w: %s", name, err, out)
		}
	}
	for _, path := range unwanted {
		if err := os.RemoveAll(filepath.Join(dir, path)); err != nil {
			return err
		}
	}
	return follow(dir)
}

// follow puts the file in the place of each symlink to one, and drops the others.
func follow(dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink == 0 {
			return err
		}
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		if filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		} else {
			target = filepath.Join(filepath.Dir(path), target)
		}
		data, err := os.ReadFile(target)
		if rm := os.Remove(path); rm != nil {
			return rm
		}
		if err != nil {
			return nil // it leads out of the packages, or to a directory
		}
		return os.WriteFile(path, data, 0o755)
	})
}
