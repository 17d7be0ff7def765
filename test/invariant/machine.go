package invariant

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/lvm"
)

// Machine is this machine, with the lvm and the configuration of its agent. Data is
// what the caller knows of it.
func Machine(data func() error) Node {
	kernel := &lvm.LinuxKernel{}
	return Node{
		Client:  lvm.New(lvm.Exec{Program: "/usr/sbin/lvm", SystemDir: "/run/lamina/lvm"}, kernel, lvm.Options{}),
		Devices: func() ([]lvm.DeviceInfo, error) { return mapped(kernel) },
		ThinIDs: func(vg lvm.VGName, pool lvm.LVName) ([]int64, error) { return thinIDs(kernel, vg, pool) },
		Mounts:  mounted,
		Data:    data,
	}
}

// thinIDs lists the devices of an active pool by thin_ls, on a metadata snapshot.
func thinIDs(kernel lvm.Kernel, vg lvm.VGName, pool lvm.LVName) (ids []int64, err error) {
	meta, err := kernel.Info(lvm.DMName(vg, pool, "") + "_tmeta")
	if err != nil {
		return nil, err
	}
	tpool := lvm.DMName(vg, pool, "tpool")
	if _, err := kernel.Info(tpool); errors.Is(err, lvm.ErrNotFound) {
		tpool = lvm.DMName(vg, pool, "") // it has had no volume yet
	}
	if err := kernel.Message(tpool, "reserve_metadata_snap"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, kernel.Message(tpool, "release_metadata_snap")) }()
	out, err := exec.Command("thin_ls", "--metadata-snap", "--no-headers", "--format", "DEV", meta.Path()).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("thin_ls %s: %w: %s", meta.Path(), err, out)
	}
	for _, f := range strings.Fields(string(out)) {
		id, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("thin_ls %s: %w", meta.Path(), err)
		}
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids, nil
}

// mapped lists device-mapper's devices by sysfs.
func mapped(kernel lvm.Kernel) ([]lvm.DeviceInfo, error) {
	names, err := filepath.Glob("/sys/block/dm-*/dm/name")
	if err != nil {
		return nil, err
	}
	var out []lvm.DeviceInfo
	for _, file := range names {
		name, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		info, err := kernel.Info(strings.TrimSpace(string(name)))
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	return out, nil
}

// mounted lists the mounts of device-mapper's devices, and of their nodes.
func mounted() ([]Mount, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []Mount
	for line := range strings.Lines(string(table)) {
		// "36 35 98:0 /root /mnt/point rw shared:1 - ext4 /dev/dm-3 rw", proc_pid_mountinfo(5).
		left, right, ok := strings.Cut(line, " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if !ok || len(f) < 5 || len(g) < 2 {
			return nil, fmt.Errorf("mountinfo: %q", line)
		}
		device := g[1]
		if g[0] == "devtmpfs" {
			device = "/dev" + f[3] // the node of a block volume
		}
		var st unix.Stat_t
		if !strings.HasPrefix(device, "/dev/") {
			continue
		}
		if err := unix.Stat(device, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			minor := unix.Minor(st.Rdev)
			if _, err := os.Stat(fmt.Sprintf("/sys/dev/block/%d:%d/dm", unix.Major(st.Rdev), minor)); errors.Is(err, os.ErrNotExist) {
				continue // a disk
			}
			device = fmt.Sprintf("/dev/dm-%d", minor)
		} else if !strings.HasPrefix(device, "/dev/dm-") && !strings.HasPrefix(device, "/dev/mapper/") {
			continue
		}
		out = append(out, Mount{Device: device, Path: f[4]})
	}
	return out, nil
}
