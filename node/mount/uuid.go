package mount

import (
	"bytes"
	"context"
	"fmt"
	"strings"
)

// uuidPlan gives the filesystem of a copy its own UUID.
type uuidPlan struct {
	device, path string // path is the staging path, free for a moment's mount
	fsType       FSType
	found, want  string
}

// ensureUUID changes the UUID of an unmounted copy, so that it can be mounted beside its source.
// Every step can be cut and done again: the UUID in the primary superblock changes last or is checked.
func (m *Mounter) ensureUUID(ctx context.Context, p uuidPlan) error {
	var err error
	switch {
	case p.fsType == XFS:
		err = m.ensureUUIDXFS(ctx, p)
	case p.found == p.want:
		return nil
	case p.fsType == Ext4:
		err = m.setUUIDExt4(ctx, p)
	case p.fsType == Btrfs:
		err = m.setUUIDBtrfs(ctx, p)
	}
	if err != nil {
		return fmt.Errorf("set UUID of the copy: %w", err)
	}
	found, err := m.Probe(ctx, p.device)
	if err != nil {
		return err
	}
	if found.Type != string(p.fsType) || found.UUID != p.want {
		return fmt.Errorf("set UUID of the copy: %w", &ForeignError{
			Device: p.device, Found: found, Expected: string(p.fsType) + " with UUID " + p.want,
		})
	}
	return nil
}

// setUUIDExt4 replays the journal first: a later replay would bring the old superblock back.
func (m *Mounter) setUUIDExt4(ctx context.Context, p uuidPlan) error {
	if err := m.fsckExt4(ctx, p.device); err != nil {
		return err
	}
	_, err := m.mutate(ctx, Command{Name: "tune2fs", Args: []string{"-U", p.want, "--", p.device}})
	return err
}

// fsckExt4 replays the journal and repairs what is safe to repair.
func (m *Mounter) fsckExt4(ctx context.Context, device string) error {
	_, err := m.mutate(ctx, Command{Name: "e2fsck", Args: []string{"-p", "--", device}})
	switch code := exitCode(err); {
	case err == nil, code == 1, code == 2: // repaired; 2 asks for a reboot only when it was the root
		return nil
	case code >= 4:
		return fmt.Errorf("%w: %w", ErrUnclean, err)
	}
	return err
}

// ensureUUIDXFS does what xfs_admin(8), a shell script, does. xfs_db writes the log and then the
// superblocks one after the other, the primary first (db/sb.c, uuid_f), so a crash may leave backups
// with the old UUID behind: they are compared even if the primary is right already.
func (m *Mounter) ensureUUIDXFS(ctx context.Context, p uuidPlan) error {
	if p.found == p.want {
		out, err := m.read(ctx, "xfs_db", "-r", "-c", "uuid", "--", p.device)
		if err != nil || !bytes.Contains(out.Stdout, []byte("differs to the primary SB")) {
			return err
		}
	}
	dirty, err := m.setUUIDXFS(ctx, p)
	if err != nil || !dirty {
		return err
	}
	// A snapshot of a mounted xfs always has a log to replay, and only the kernel can.
	if err := m.replay(p, "nouuid"); err != nil {
		return err
	}
	if dirty, err = m.setUUIDXFS(ctx, p); err == nil && dirty {
		err = fmt.Errorf("%w: the log is dirty after it was replayed", ErrUnclean)
	}
	return err
}

// setUUIDXFS tells whether xfs_db refused because of a dirty log. It exits with 0 then.
func (m *Mounter) setUUIDXFS(ctx context.Context, p uuidPlan) (dirty bool, err error) {
	out, err := m.mutate(ctx, Command{Name: "xfs_db", Args: []string{"-x", "-c", "uuid " + p.want, "--", p.device}})
	text := strings.Join(strings.Fields(string(out.Stdout)+" "+string(out.Stderr)), " ")
	return strings.Contains(text, "in a log which needs to be replayed"), err // xfsprogs db/sb.c, sb_logcheck
}

// setUUIDBtrfs changes the filesystem's visible UUID and leaves the one in its metadata blocks. With a
// log tree still there, btrfstune succeeds and leaves a filesystem that does not mount.
func (m *Mounter) setUUIDBtrfs(ctx context.Context, p uuidPlan) error {
	super, err := m.kernel.Superblock(p.device, Btrfs)
	if err != nil {
		return err
	}
	if super.Log {
		// Linux 6.7 and later mount a copy beside its source; older kernels refuse, and say so.
		if err := m.replay(p); err != nil {
			return err
		}
		if super, err = m.kernel.Superblock(p.device, Btrfs); err != nil {
			return err
		}
		if super.Log {
			return fmt.Errorf("%w: the log is there after it was replayed", ErrUnclean)
		}
	}
	_, err = m.mutate(ctx, Command{Name: "btrfstune", Args: []string{"-f", "-M", p.want, "--", p.device}})
	return err
}

// replay lets the kernel replay the log. It mounts at the staging path, where Stage looks after a crash.
func (m *Mounter) replay(p uuidPlan, flags ...string) error {
	if err := ensureDir(p.path); err != nil {
		return err
	}
	if err := m.mounts.Mount(p.device, p.path, string(p.fsType), flags); err != nil {
		return fmt.Errorf("replay log: %w", err)
	}
	return m.unmount(p.path)
}
