package mount

import (
	"context"
	"fmt"
	"slices"
)

// Stats is the use of a volume in bytes and inodes. Inodes are all 0 where the filesystem has no fixed
// number of them (btrfs) and for block volumes. Of a block volume only Total is known.
type Stats struct {
	Block                          bool
	Total, Used, Available         int64
	Inodes, InodesUsed, InodesFree int64
}

// Stats measures what is mounted at a staging or target path. Nothing there is ErrNotMounted: the
// figures would be those of the node's own disk.
func (m *Mounter) Stats(_ context.Context, path string) (Stats, error) {
	resolved, err := m.resolve(path)
	if err != nil {
		return Stats{}, fmt.Errorf("stats of %s: %w", path, err)
	}
	_, mounted, err := m.mountAt(resolved)
	if err == nil && !mounted {
		err = ErrNotMounted
	}
	if err != nil {
		return Stats{}, fmt.Errorf("stats of %s: %w", path, err)
	}
	stats, err := m.kernel.Stats(resolved)
	if err != nil {
		return Stats{}, fmt.Errorf("stats of %s: %w", path, err)
	}
	return stats, nil
}

// Health is what the kernel tells about a mounted filesystem without touching the disk.
type Health struct {
	// ReadOnly says that the mount takes no writes. If it was not asked for, the filesystem has met
	// an error and protects itself.
	ReadOnly bool
	// EmergencyReadOnly says that ext4 refuses writes although its mount options say rw (Linux 6.15).
	EmergencyReadOnly bool
	// Errors counts the errors that ext4 has recorded since its last check.
	Errors uint64
}

// Health reports on the filesystem of device (of an encrypted volume: the mapping) mounted at path.
func (m *Mounter) Health(_ context.Context, device, path string) (Health, error) {
	health, err := m.health(device, path)
	if err != nil {
		return Health{}, fmt.Errorf("health of %s at %s: %w", device, path, err)
	}
	return health, nil
}

func (m *Mounter) health(device, path string) (Health, error) {
	resolved, err := m.resolve(path)
	if err != nil {
		return Health{}, err
	}
	at, mounted, err := m.mountedFrom(device, resolved)
	if err != nil {
		return Health{}, err
	}
	if !mounted {
		return Health{}, ErrNotMounted
	}
	count, err := m.kernel.FilesystemErrors(device)
	return Health{
		ReadOnly:          slices.Contains(at.Opts, "ro"),
		EmergencyReadOnly: slices.Contains(at.Opts, "emergency_ro"),
		Errors:            count,
	}, err
}
