package mount

import (
	"context"
	"fmt"
	"strconv"
)

// mkfsPlan is one format of a device.
type mkfsPlan struct {
	device    string
	fsType    FSType
	uuid      string
	options   []string
	force     bool // the device holds our own unfinished mkfs, or noise inside a new LUKS2 header
	prezeroed func(context.Context) (bool, error)
}

// mkfs formats a device. The caller has established that it may.
func (m *Mounter) mkfs(ctx context.Context, p mkfsPlan) error {
	size, err := m.kernel.DeviceSize(p.device)
	if err != nil {
		return fmt.Errorf("size of %s: %w", p.device, err)
	}
	if least := MinSize(p.fsType, false); size < least {
		return invalidf("%s has %d bytes, %s needs at least %d", p.device, size, p.fsType, least)
	}
	if p.force {
		if err := m.clearUnfinished(ctx, p); err != nil {
			return err
		}
	}
	prezeroed := false
	if p.prezeroed != nil && p.fsType == Ext4 {
		if prezeroed, err = p.prezeroed(ctx); err != nil {
			return fmt.Errorf("ask whether %s is zeroed: %w", p.device, err)
		}
	}
	cmd, err := mkfsCommand(p, size, prezeroed)
	if err != nil {
		return err
	}
	if _, err := m.mutate(ctx, cmd); err != nil {
		return fmt.Errorf("make %s: %w", p.fsType, err)
	}
	return nil
}

// clearUnfinished prepares the second run of a mkfs of our own.
func (m *Mounter) clearUnfinished(ctx context.Context, p mkfsPlan) error {
	// Give the first run's chunks back to the thin pool, so that the device may count as zeroed again.
	// A device without discard (a dm-crypt mapping, a thick volume on some disks) says so; mkfs does
	// not depend on it.
	_, _ = m.mutate(ctx, Command{Name: "blkdiscard", Args: []string{"-f", "--", p.device}})
	if p.fsType != Btrfs {
		return nil
	}
	// mkfs.btrfs -U refuses a UUID that any device has, this one included (btrfs-progs mkfs/main.c,
	// test_uuid_unique): clear the primary superblock first.
	_, err := m.mutate(ctx, Command{Name: "blkdiscard", Args: []string{"-f", "-z", "-o", "65536", "-l", "4096", "--", p.device}})
	if err != nil {
		return fmt.Errorf("clear unfinished btrfs: %w", err)
	}
	return nil
}

// mkfsCommand builds the command line. Discards are left out everywhere: a new thin volume has nothing
// to discard, a thick one was zeroed, and discarding a terabyte would hold the pod up for minutes.
func mkfsCommand(p mkfsPlan, size int64, prezeroed bool) (Command, error) {
	args, err := parseMkfsOptions(p.fsType, p.options)
	if err != nil {
		return Command{}, err
	}
	var cmd Command
	switch p.fsType {
	case Ext4:
		cmd = mke2fs(args, p.uuid, prezeroed)
	case XFS:
		cmd = mkfsXFS(args, p.uuid, size)
	case Btrfs:
		cmd = Command{Name: "mkfs.btrfs", Args: append([]string{"-q", "-K", "-U", p.uuid}, args.words()...)}
	}
	if p.force {
		cmd.Args = append(cmd.Args, map[FSType]string{Ext4: "-F", XFS: "-f", Btrfs: "-f"}[p.fsType])
	}
	cmd.Args = append(cmd.Args, "--", p.device)
	return cmd, nil
}

// mke2fs keeps no reserved blocks: they serve root's daemons on a system disk, and a claim's user
// expects all of its size. metadata_csum_seed makes a copy's new UUID one superblock write instead of
// a rewrite of every checksum. assume_storage_prezeroed skips zeroing of journal and inode tables, which
// otherwise takes 2 % of a volume from the thin pool.
func mke2fs(args mkfsArgs, uuid string, prezeroed bool) Command {
	args.defaultValue("-m", "0")
	args.features["-O"] = append([]string{"metadata_csum", "metadata_csum_seed"}, args.features["-O"]...)
	args.setSub("-E", "nodiscard", "")
	if prezeroed {
		args.setSub("-E", "assume_storage_prezeroed", "1")
	}
	return Command{Name: "mke2fs", Args: append([]string{"-q", "-t", "ext4", "-U", uuid}, args.words()...)}
}

// mkfsXFS caps the log: mkfs.xfs writes all of it, 2 GiB at most by its own choice, and a thin pool
// pays. 64 MiB is mkfs's own floor for volumes that a user meets. nrext64 needs Linux 5.19, which some
// supported hosts' kernels are not, and serves files with more than two billion extents.
func mkfsXFS(args mkfsArgs, uuid string, size int64) Command {
	const tib = 1 << 40
	logSize := int64(64)
	if size >= tib {
		logSize = 128
	}
	if _, set := args.subs["-l"]["su"]; !set {
		args.defaultSub("-l", "size", strconv.FormatInt(logSize, 10)+"m")
	}
	args.defaultSub("-i", "nrext64", "0")
	args.setSub("-m", "uuid", uuid)
	return Command{Name: "mkfs.xfs", Args: append([]string{"-q", "-K"}, args.words()...)}
}
