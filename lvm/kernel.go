package lvm

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Kernel is what the package asks of the kernel without a process:
// device-mapper by ioctl (include/uapi/linux/dm-ioctl.h) and the bytes of
// physical volumes. A device that is not there is ErrNotFound.
type Kernel interface {
	// Info describes the device of that device-mapper name.
	Info(name string) (DeviceInfo, error)
	// Table lists the targets of its live table.
	Table(name string) ([]Target, error)
	// Status lists what its targets say of themselves. It asks without a flush:
	// with one, a thin pool would commit, and hang if it is suspended.
	Status(name string) ([]Target, error)
	// Load puts a table into the inactive slot of the device.
	Load(name string, table []Target, readOnly bool) error
	// Suspend freezes a file system on the device, flushes it and holds all I/O
	// until Resume.
	Suspend(name string) error
	// Resume makes a loaded table live and lets I/O go on.
	Resume(name string) error
	// Message sends a message to the device's only target, such as a thin pool's
	// "create_snap 7 3" (thin-provisioning.rst, "Messages").
	Message(name, message string) error
	// LoadTarget makes the kernel know a target type such as "thin-pool": it loads
	// the module with its own modprobe, where lvm would need one in the agent's
	// image.
	LoadTarget(target string) error
	// Expedite makes the kernel end RCU grace periods at once until restore is
	// called. A pool that is suspended suspends each of its active volumes, and
	// waits for a grace period each time (drivers/md/dm-thin.c,
	// pool_suspend_active_thins; drivers/md/dm.c, __dm_suspend).
	Expedite() (restore func())
	// WaitEvent returns when any device-mapper device has sent an event since
	// the last call, or with the error of ctx.
	WaitEvent(ctx context.Context) error

	// ReadMetadata reads a VG's metadata from a physical volume; Text is nil
	// when the generation is known.
	ReadMetadata(dev DevicePath, known Generation) (RawMetadata, error)
	// Probe reads the beginning of a disk, past the page cache.
	Probe(dev DevicePath) error
	// Flush makes the disk's volatile cache durable.
	Flush(dev DevicePath) error
	// Discard gives the blocks of a device that nobody has open back to what
	// lies below it. ErrInUse if it is open.
	Discard(path string) error
	// Zero overwrites bytes [from, to) of a device with zeros.
	Zero(path string, from, to int64) error
}

// DeviceInfo is struct dm_ioctl of a device.
type DeviceInfo struct {
	Name, UUID   string
	Major, Minor uint32
	OpenCount    int
	Suspended    bool
	ReadOnly     bool
	LiveTable    bool
}

// Path is the node that devtmpfs makes for the device. It does not wait for
// udev's links.
func (d DeviceInfo) Path() string { return fmt.Sprintf("/dev/dm-%d", d.Minor) }

// Target is a line of a device-mapper table or of its status.
type Target struct {
	Start, Length uint64 // sectors of 512 bytes
	Type          string
	Params        string
}

// ThinStatus is the status of a thin device
// (Documentation/admin-guide/device-mapper/thin-provisioning.rst, "Status").
type ThinStatus struct {
	MappedSectors int64
	Failed        bool // "Fail": the pool gave up on the device
}

// parseThinStatus reads "<mapped sectors> <highest mapped sector>|-", or "Fail".
func parseThinStatus(params string) (ThinStatus, error) {
	f := strings.Fields(params)
	if len(f) == 1 && (f[0] == "Fail" || f[0] == "Error") {
		return ThinStatus{Failed: true}, nil
	}
	if len(f) < 1 {
		return ThinStatus{}, fmt.Errorf("thin status: %w: %s", ErrInvalid, quote(params))
	}
	n, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil || n < 0 {
		return ThinStatus{}, fmt.Errorf("thin status: %w: %s", ErrInvalid, quote(params))
	}
	return ThinStatus{MappedSectors: n}, nil
}

// PoolStatus is the status of a thin pool in the kernel (same document).
type PoolStatus struct {
	TransactionID              int64
	UsedMetadata, AllMetadata  int64 // blocks of 4 KiB
	UsedData, AllData          int64 // chunks
	MetadataSnapshot           bool
	Mode                       PoolMode
	ErrorIfNoSpace, NeedsCheck bool
}

// PoolMode is what a thin pool still does.
type PoolMode string

// The modes of a thin pool, as the kernel prints them; Failed for "Fail".
const (
	PoolReadWrite  PoolMode = "rw"
	PoolReadOnly   PoolMode = "ro"
	PoolOutOfSpace PoolMode = "out_of_data_space"
	PoolFailed     PoolMode = "fail"
)

// parsePoolStatus reads "<transaction id> <used>/<total metadata> <used>/<total
// data> <held root>|- ro|rw|out_of_data_space <discards> <no space> <needs
// check>|- <low water>"; kernels append fields.
func parsePoolStatus(params string) (PoolStatus, error) {
	f := strings.Fields(params)
	if len(f) == 1 && (f[0] == "Fail" || f[0] == "Error") {
		return PoolStatus{Mode: PoolFailed}, nil
	}
	if len(f) < 5 {
		return PoolStatus{}, fmt.Errorf("thin pool status: %w: %s", ErrInvalid, quote(params))
	}
	var s PoolStatus
	var err [3]error
	s.TransactionID, err[0] = strconv.ParseInt(f[0], 10, 64)
	s.UsedMetadata, s.AllMetadata, err[1] = parseFraction(f[1])
	s.UsedData, s.AllData, err[2] = parseFraction(f[2])
	for _, e := range err {
		if e != nil {
			return PoolStatus{}, fmt.Errorf("thin pool status: %w: %s", ErrInvalid, quote(params))
		}
	}
	s.MetadataSnapshot = f[3] != "-"
	s.Mode = PoolMode(f[4])
	for _, flag := range f[5:] {
		s.ErrorIfNoSpace = s.ErrorIfNoSpace || flag == "error_if_no_space"
		s.NeedsCheck = s.NeedsCheck || flag == "needs_check"
	}
	return s, nil
}

func parseFraction(s string) (used, all int64, err error) {
	a, b, ok := strings.Cut(s, "/")
	if !ok {
		return 0, 0, ErrInvalid
	}
	if used, err = strconv.ParseInt(a, 10, 64); err != nil {
		return 0, 0, err
	}
	if all, err = strconv.ParseInt(b, 10, 64); err != nil {
		return 0, 0, err
	}
	if used < 0 || all < 0 {
		return 0, 0, ErrInvalid
	}
	return used, all, nil
}
