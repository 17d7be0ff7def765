package mounttest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	mountutils "k8s.io/mount-utils"

	"github.com/lamina-csi/lamina/node/mount"
)

// entry is one mount. Block says that a device node is mounted on a file.
type entry struct {
	mountutils.MountPoint
	block bool
}

// table is the node's mount table. mount-utils' own fake keeps no options over an unmount, does not
// refuse a missing target and does not know a busy one.
type table struct{ s *System }

var _ mountutils.Interface = (*table)(nil)

func (t *table) Mount(source, target, fsType string, options []string) error {
	cmd := mount.Command{Name: "mount", Args: []string{"-t", fsType, "-o", strings.Join(options, ","), source, target}}
	return t.s.step(cmd, func() error {
		words := strings.Split(strings.Join(options, ","), ",")
		switch {
		case slices.Contains(words, "remount"):
			return t.remount(target, words)
		case slices.Contains(words, "bind"):
			return t.bind(source, target, words)
		}
		return t.mount(source, target, fsType, words)
	})
}

func (t *table) mount(source, target, fsType string, words []string) error {
	d, err := t.s.device(source)
	if err != nil {
		return fmt.Errorf("mount failed: %w", err)
	}
	c, err := readContent(d)
	if err != nil {
		return err
	}
	if c.Type != fsType {
		return fmt.Errorf("mount failed: %s: wrong fs type %s, bad superblock", source, c.Type)
	}
	for _, e := range t.s.mounts {
		other, err := t.s.contentOf(e.Device)
		if err == nil && e.Device != source && other.UUID == c.UUID && fsType == "xfs" && !slices.Contains(words, "nouuid") {
			return fmt.Errorf("mount failed: %s: filesystem has duplicate UUID", source)
		}
	}
	c.Log = false
	if err := writeContent(d, c); err != nil {
		return err
	}
	return t.add(mountutils.MountPoint{Device: source, Path: target, Type: fsType, Opts: words}, false)
}

func (t *table) bind(source, target string, words []string) error {
	for i := len(t.s.mounts) - 1; i >= 0; i-- {
		if from := t.s.mounts[i]; from.Path == source {
			opts := words
			if slices.Contains(from.Opts, "ro") && !slices.Contains(words, "ro") {
				opts = append(opts, "ro")
			}
			return t.add(mountutils.MountPoint{Device: from.Device, Path: target, Type: from.Type, Opts: opts}, false)
		}
	}
	if _, err := t.s.device(source); err != nil {
		return fmt.Errorf("mount failed: %w", err)
	}
	return t.add(mountutils.MountPoint{Device: source, Path: target, Type: "devtmpfs", Opts: words}, true)
}

func (t *table) remount(target string, words []string) error {
	for i := len(t.s.mounts) - 1; i >= 0; i-- {
		if t.s.mounts[i].Path == target {
			t.s.mounts[i].Opts = words
			return nil
		}
	}
	return fmt.Errorf("mount failed: %s: mount point not mounted", target)
}

func (t *table) add(at mountutils.MountPoint, block bool) error {
	info, err := os.Stat(at.Path)
	if err != nil {
		return fmt.Errorf("mount failed: %w", err)
	}
	if info.IsDir() == block {
		return fmt.Errorf("mount failed: %s: wrong kind of mount point", at.Path)
	}
	t.s.mounts = append(t.s.mounts, entry{MountPoint: at, block: block})
	return nil
}

func (t *table) Unmount(target string) error {
	return t.s.step(mount.Command{Name: "umount", Args: []string{target}}, func() error {
		if t.s.Busy[target] {
			return fmt.Errorf("unmount failed: exit status 32\nOutput: umount: %s: target is busy", target)
		}
		for i := len(t.s.mounts) - 1; i >= 0; i-- {
			if t.s.mounts[i].Path == target {
				t.s.mounts = slices.Delete(t.s.mounts, i, i+1)
				return nil
			}
		}
		return fmt.Errorf("unmount failed: exit status 32\nOutput: umount: %s: not mounted", target)
	})
}

func (t *table) List() ([]mountutils.MountPoint, error) {
	t.s.mu.Lock()
	defer t.s.mu.Unlock()
	var list []mountutils.MountPoint
	for _, e := range t.s.mounts {
		list = append(list, e.MountPoint)
	}
	return list, nil
}

func (t *table) MountSensitive(source, target, fsType string, options, _ []string) error {
	return t.Mount(source, target, fsType, options)
}

func (t *table) MountSensitiveWithoutSystemd(source, target, fsType string, options, _ []string) error {
	return t.Mount(source, target, fsType, options)
}

func (t *table) MountSensitiveWithoutSystemdWithMountFlags(source, target, fsType string, options, _, _ []string) error {
	return t.Mount(source, target, fsType, options)
}

func (t *table) IsLikelyNotMountPoint(file string) (bool, error) {
	is, err := t.IsMountPoint(file)
	return !is, err
}

func (t *table) IsMountPoint(file string) (bool, error) {
	if _, err := os.Stat(file); err != nil {
		return false, err
	}
	list, err := t.List()
	return slices.ContainsFunc(list, func(at mountutils.MountPoint) bool { return at.Path == file }), err
}

func (t *table) CanSafelySkipMountPointCheck() bool { return false }

func (t *table) GetMountRefs(string) ([]string, error) { return nil, errors.ErrUnsupported }
