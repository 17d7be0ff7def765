package mount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// PublishRequest shows a staged filesystem at a pod's path.
type PublishRequest struct {
	StagingPath, Target string
	ReadOnly            bool
	Flags               []string
}

// PublishBlockRequest shows a block device at a pod's path.
type PublishBlockRequest struct {
	Device, Target string
	ReadOnly       bool
}

// Publish bind-mounts a staged filesystem. Flags that belong to the filesystem and not to one mount
// of it were given to Stage; the kernel ignores them here.
//
// Errors: ErrInvalid, ErrNotMounted (nothing is staged), ErrConflict, ErrCorrupted.
func (m *Mounter) Publish(_ context.Context, r PublishRequest) error {
	if err := m.publish(r); err != nil {
		return fmt.Errorf("publish %s at %s: %w", r.StagingPath, r.Target, err)
	}
	return nil
}

func (m *Mounter) publish(r PublishRequest) error {
	if err := ValidateMountFlags(r.Flags); err != nil {
		return err
	}
	staging, err := m.resolve(r.StagingPath)
	if err != nil {
		return err
	}
	target, err := m.resolve(r.Target)
	if err != nil {
		return err
	}
	source, staged, err := m.mountAt(staging)
	if err != nil {
		return err
	}
	if !staged {
		return fmt.Errorf("%w: nothing is staged", ErrNotMounted)
	}
	at, mounted, err := m.mountedFrom(source.Device, target)
	if err != nil {
		return err
	}
	options := bindOptions(r.ReadOnly || slices.Contains(source.Opts, "ro"), r.Flags)
	isReadOnly, wantReadOnly := slices.Contains(at.Opts, "ro"), slices.Contains(options, "ro")
	switch {
	case mounted && isReadOnly == wantReadOnly:
		return nil
	case mounted && isReadOnly:
		return fmt.Errorf("%w: it is mounted read-only", ErrConflict)
	case mounted:
		// The two steps of a read-only bind mount were cut apart: do the second. As one word, because
		// mount-utils answers a "bind" of its own with one more mount on top.
		return m.mounts.Mount(staging, target, "", []string{"remount," + strings.Join(options, ",")})
	}
	if err := ensureDir(target); err != nil {
		return err
	}
	return m.mounts.Mount(staging, target, "", options)
}

// bindOptions keeps the flags that a bind mount can have on its own.
func bindOptions(readOnly bool, flags []string) []string {
	perMount := []string{"ro", "nodev", "noexec", "nosuid", "nosymfollow", "noatime", "nodiratime", "relatime"}
	options := []string{"bind"}
	for _, flag := range flags {
		if slices.Contains(perMount, flag) && !slices.Contains(options, flag) {
			options = append(options, flag)
		}
	}
	if readOnly && !slices.Contains(options, "ro") {
		options = append(options, "ro")
	}
	return options
}

// PublishBlock bind-mounts a device node onto a file. A read-only mount of a device node does not
// make the device read-only: kubelet gives the container no write permission in its device cgroup.
func (m *Mounter) PublishBlock(_ context.Context, r PublishBlockRequest) error {
	if err := m.publishBlock(r); err != nil {
		return fmt.Errorf("publish %s at %s: %w", r.Device, r.Target, err)
	}
	return nil
}

func (m *Mounter) publishBlock(r PublishBlockRequest) error {
	if err := validateDevice(r.Device); err != nil {
		return err
	}
	target, err := m.resolve(r.Target)
	if err != nil {
		return err
	}
	_, mounted, err := m.mountAt(target)
	if err != nil {
		return err
	}
	if mounted {
		// The mount table says devtmpfs: the node itself says which device it is.
		same, err := m.kernel.SameDevice(target, r.Device)
		if err == nil && !same {
			err = fmt.Errorf("%w: another device is there", ErrConflict)
		}
		return err
	}
	if _, err := m.kernel.DeviceSize(r.Device); err != nil {
		return err
	}
	if err := ensureFile(target); err != nil {
		return err
	}
	return m.mounts.Mount(r.Device, target, "", bindOptions(r.ReadOnly, nil))
}

// Unpublish unmounts a target and removes the empty directory or file under it. It is idempotent. A
// target in use is ErrBusy: it is never unmounted lazily or by force.
func (m *Mounter) Unpublish(_ context.Context, target string) error {
	path, err := m.resolve(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = m.unmount(path)
	}
	if err == nil {
		// Remove, never RemoveAll: if something is mounted here after all, or lies here, it stays.
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unpublish %s: %w", target, err)
	}
	return nil
}

// Unstage unmounts a staging path and closes the mapping of an encrypted volume (luksName empty: it is
// not encrypted). It is idempotent. The staging directory is kubelet's and stays. A path in use is ErrBusy.
func (m *Mounter) Unstage(ctx context.Context, stagingPath, luksName string) error {
	path, err := m.resolve(stagingPath)
	if err == nil {
		err = m.unmount(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("unstage %s: %w", stagingPath, err)
	}
	if luksName == "" {
		return nil
	}
	if err := m.closeLUKS(ctx, luksName); err != nil {
		return fmt.Errorf("unstage %s: %w", stagingPath, err)
	}
	return nil
}

// unmount unmounts whatever is mounted at path, stacked mounts too.
func (m *Mounter) unmount(path string) error {
	for {
		_, mounted, err := m.lastMount(path)
		if err != nil || !mounted {
			return err
		}
		err = m.mounts.Unmount(path)
		// util-linux libmount/src/context_umount.c: "target is busy". A path has no space.
		if err != nil && strings.Contains(err.Error(), " is busy") {
			return fmt.Errorf("%w: %w", ErrBusy, err)
		}
		if err != nil {
			return err
		}
	}
}
