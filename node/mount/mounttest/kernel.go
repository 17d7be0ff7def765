package mounttest

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/node/mount"
)

// kernel answers what the package asks the kernel without a fork.
type kernel struct{ s *System }

var _ mount.Kernel = (*kernel)(nil)

func (k *kernel) DeviceSize(device string) (int64, error) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	d, err := k.s.device(device)
	if err != nil {
		return 0, err
	}
	return d.Size(), nil
}

// SameDevice takes a file on which a device node is mounted for the node.
func (k *kernel) SameDevice(a, b string) (bool, error) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	a, b = k.node(a), k.node(b)
	if a == b {
		return a != "", nil
	}
	return false, nil
}

// DeviceNumber counts mappings from 1000 on, in the order of their names.
func (k *kernel) DeviceNumber(device string) (major, minor uint32, err error) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	device = k.node(device)
	if _, err := k.s.device(device); err != nil {
		return 0, 0, err
	}
	for i, name := range slices.Sorted(maps.Keys(k.s.mappings)) {
		if mount.MappedDevice(name) == device {
			return dmMajor, uint32(1000 + i), nil
		}
	}
	_, err = fmt.Sscanf(device, "/dev/dm-%d", &minor)
	return dmMajor, minor, err
}

// dmMajor is the major number of device-mapper's devices.
const dmMajor = 254

func (k *kernel) LiesOn(upper, lower string) (bool, error) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	upper = k.node(upper)
	for name, m := range k.s.mappings {
		if mount.MappedDevice(name) == upper {
			return m.path == lower, nil
		}
	}
	return false, fmt.Errorf("%s: no such device", upper)
}

func (k *kernel) node(path string) string {
	for _, e := range k.s.mounts {
		if e.block && e.Path == path {
			return e.Device
		}
	}
	return path
}

func (k *kernel) CheckReadable(device string) error {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	_, err := k.s.contentOf(device)
	return err
}

func (k *kernel) Superblock(device string, fsType mount.FSType) (mount.Superblock, error) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	c, err := k.s.contentOf(device)
	if err == nil && c.Type != string(fsType) {
		err = fmt.Errorf("%s: no %s superblock", device, fsType)
	}
	return mount.Superblock{Size: c.Size, Log: c.Log && fsType == mount.Btrfs}, err
}

func (k *kernel) GrowXFS(mountpoint string, size int64) error {
	return k.s.step(mount.Command{Name: "growxfs", Args: []string{mountpoint}}, func() error {
		d, c, err := k.s.mounted(mountpoint)
		if err != nil {
			return err
		}
		c.Size = size
		return writeContent(d, c)
	})
}

func (k *kernel) Stats(path string) (mount.Stats, error) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	for i := len(k.s.mounts) - 1; i >= 0; i-- {
		e := k.s.mounts[i]
		if e.Path != path {
			continue
		}
		d, err := k.s.device(e.Device)
		if err != nil {
			return mount.Stats{}, err
		}
		if e.block {
			return mount.Stats{Block: true, Total: d.Size()}, nil
		}
		c, err := readContent(d)
		used := int64(len(c.Data))
		stats := mount.Stats{Total: c.Size, Used: used, Available: c.Size - used}
		if c.Type != string(mount.Btrfs) {
			stats.Inodes, stats.InodesUsed, stats.InodesFree = c.Size/16384, 11, c.Size/16384-11
		}
		return stats, err
	}
	return mount.Stats{}, fmt.Errorf("%s: nothing is mounted", path)
}

func (k *kernel) FilesystemErrors(string) (uint64, error) { return 0, nil }

func (k *kernel) Freeze(mountpoint string) error {
	return k.s.step(mount.Command{Name: "freeze", Args: []string{mountpoint}}, func() error {
		k.s.frozen[mountpoint] = true
		return nil
	})
}

func (k *kernel) Thaw(mountpoint string) error {
	return k.s.step(mount.Command{Name: "thaw", Args: []string{mountpoint}}, func() error {
		if !k.s.frozen[mountpoint] {
			return unix.EINVAL
		}
		delete(k.s.frozen, mountpoint)
		return nil
	})
}

// Frozen lists the mount points whose filesystem is frozen.
func (s *System) Frozen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.frozen))
}
