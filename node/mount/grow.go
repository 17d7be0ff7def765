package mount

import (
	"context"
	"fmt"
)

// GrowRequest grows what lies on a volume's device after the device grew.
type GrowRequest struct {
	// Device is the volume's device, /dev/dm-N.
	Device string
	// Path is where its filesystem is mounted, staged or published; empty for a block volume.
	Path string
	// LUKSName is the mapping of an encrypted volume, else empty.
	LUKSName string
}

// Grow grows a mapping and the mounted filesystem on it to the size of the device. It is idempotent.
func (m *Mounter) Grow(ctx context.Context, r GrowRequest) error {
	if err := m.grow(ctx, r); err != nil {
		return fmt.Errorf("grow what is on %s: %w", r.Device, err)
	}
	return nil
}

func (m *Mounter) grow(ctx context.Context, r GrowRequest) error {
	if err := validateDevice(r.Device); err != nil {
		return err
	}
	device := r.Device
	if r.LUKSName != "" {
		if err := m.resizeLUKS(ctx, r.LUKSName, r.Device); err != nil {
			return err
		}
		device = MappedDevice(r.LUKSName)
	}
	if r.Path == "" {
		return nil
	}
	path, err := m.resolve(r.Path)
	if err != nil {
		return err
	}
	at, mounted, err := m.mountedFrom(device, path)
	if err != nil {
		return err
	}
	if !mounted {
		return fmt.Errorf("%w: %s", ErrNotMounted, r.Path)
	}
	fsType, err := ParseFSType(at.Type)
	if err != nil {
		return err
	}
	return m.growMounted(ctx, device, path, fsType)
}

// growIfSmaller grows a mounted filesystem that is smaller than its device: a restore into a larger
// volume, or a volume that grew while it was not staged. ext4 and xfs may leave less than a megabyte over
// at the end; volumes grow by whole LVM extents.
func (m *Mounter) growIfSmaller(ctx context.Context, device, path string, fsType FSType) error {
	super, err := m.kernel.Superblock(device, fsType)
	if err != nil {
		return err
	}
	size, err := m.kernel.DeviceSize(device)
	if err != nil {
		return fmt.Errorf("size of %s: %w", device, err)
	}
	if super.Size+mib > size {
		return nil
	}
	return m.growMounted(ctx, device, path, fsType)
}

func (m *Mounter) growMounted(ctx context.Context, device, path string, fsType FSType) error {
	var err error
	switch fsType {
	case Ext4:
		_, err = m.mutate(ctx, Command{Name: "resize2fs", Args: []string{"--", device}})
	case XFS:
		var size int64
		if size, err = m.kernel.DeviceSize(device); err == nil {
			err = m.kernel.GrowXFS(path, size)
		}
	case Btrfs:
		// "btrfs filesystem resize" takes no "--"; path is absolute.
		_, err = m.mutate(ctx, Command{Name: "btrfs", Args: []string{"filesystem", "resize", "max", path}})
	}
	if err != nil {
		return fmt.Errorf("grow %s at %s: %w", fsType, path, err)
	}
	return nil
}
