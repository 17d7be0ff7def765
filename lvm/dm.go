package lvm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// LinuxKernel is the [Kernel] of this machine. Its methods need root.
type LinuxKernel struct {
	eventLock sync.Mutex
	events    *os.File
	rcu       expedite
}

const dmControl = "/dev/mapper/control"

// From include/uapi/linux/dm-ioctl.h.
const (
	dmDevSuspendCmd  = 6
	dmDevStatusCmd   = 7
	dmTableLoadCmd   = 9
	dmTableStatusCmd = 12
	dmTargetMsgCmd   = 14
	dmDevArmPollCmd  = 16
	dmTargetVersion  = 17 // DM_GET_TARGET_VERSION, since 5.4

	dmReadOnlyFlag      = 1 << 0
	dmSuspendFlag       = 1 << 1
	dmStatusTableFlag   = 1 << 4
	dmActivePresentFlag = 1 << 5
	dmBufferFullFlag    = 1 << 8
	dmSkipLockfsFlag    = 1 << 10
	dmNoFlushFlag       = 1 << 11

	dmHeaderSize     = 312 // sizeof(struct dm_ioctl)
	dmTargetSpecSize = 40  // sizeof(struct dm_target_spec)
	dmMaxBuffer      = 1 << 24
)

// dmHeader is struct dm_ioctl.
type dmHeader struct {
	Version     [3]uint32
	DataSize    uint32
	DataStart   uint32
	TargetCount uint32
	OpenCount   int32
	Flags       uint32
	EventNr     uint32
	_           uint32
	Dev         uint64
	Name        [128]byte
	UUID        [129]byte
	_           [7]byte
}

// dmTargetSpec is struct dm_target_spec.
type dmTargetSpec struct {
	Start, Length uint64
	Status        int32
	Next          uint32
	Type          [16]byte
}

// dmRequest is DM_VERSION 4.0.0's _IOWR(0xfd, nr, struct dm_ioctl).
func dmRequest(nr uintptr) uintptr { return 3<<30 | dmHeaderSize<<16 | 0xfd<<8 | nr }

// dmCall makes one ioctl about the named device and gives back the header and
// the payload behind it. The buffer grows until the kernel's answer fits.
func dmCall(nr uintptr, name string, h dmHeader, payload []byte) (dmHeader, []byte, error) {
	if len(name) >= len(h.Name) {
		return h, nil, fmt.Errorf("%w: device-mapper name %s is too long", ErrInvalid, quote(name))
	}
	control, err := os.OpenFile(dmControl, os.O_RDWR, 0)
	if err != nil {
		return h, nil, err
	}
	defer control.Close()
	for size := dmHeaderSize + len(payload) + 16384; size <= dmMaxBuffer; size *= 4 {
		buf := make([]byte, size)
		in := h
		in.Version = [3]uint32{4, 0, 0}
		in.DataSize, in.DataStart = uint32(size), dmHeaderSize
		copy(in.Name[:], name)
		if _, err := binary.Encode(buf, binary.NativeEndian, in); err != nil {
			return h, nil, err
		}
		copy(buf[dmHeaderSize:], payload)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), dmRequest(nr), uintptr(unsafe.Pointer(&buf[0])))
		switch {
		case errno == unix.ENXIO:
			return h, nil, ErrNotFound
		case errno == unix.EBUSY:
			return h, nil, ErrInUse
		case errno != 0:
			return h, nil, errno
		}
		var out dmHeader
		if _, err := binary.Decode(buf, binary.NativeEndian, &out); err != nil {
			return h, nil, err
		}
		if out.Flags&dmBufferFullFlag != 0 {
			continue
		}
		if int(out.DataStart) > len(buf) || int(out.DataSize) > len(buf) || out.DataStart > out.DataSize {
			return out, nil, nil // no payload
		}
		return out, buf[out.DataStart:out.DataSize], nil
	}
	return h, nil, errors.New("the answer does not fit")
}

// Info implements [Kernel].
func (*LinuxKernel) Info(name string) (DeviceInfo, error) {
	h, _, err := dmCall(dmDevStatusCmd, name, dmHeader{}, nil)
	if err != nil {
		return DeviceInfo{}, fmt.Errorf("device-mapper info of %s: %w", name, err)
	}
	return DeviceInfo{
		Name:      cString(h.Name[:]),
		UUID:      cString(h.UUID[:]),
		Major:     unix.Major(h.Dev),
		Minor:     unix.Minor(h.Dev),
		OpenCount: int(h.OpenCount),
		Suspended: h.Flags&dmSuspendFlag != 0,
		ReadOnly:  h.Flags&dmReadOnlyFlag != 0,
		LiveTable: h.Flags&dmActivePresentFlag != 0,
	}, nil
}

// Table implements [Kernel].
func (*LinuxKernel) Table(name string) ([]Target, error) {
	return dmTargets(name, dmStatusTableFlag|dmNoFlushFlag)
}

// Status implements [Kernel].
func (*LinuxKernel) Status(name string) ([]Target, error) {
	return dmTargets(name, dmNoFlushFlag)
}

func dmTargets(name string, flags uint32) ([]Target, error) {
	h, data, err := dmCall(dmTableStatusCmd, name, dmHeader{Flags: flags}, nil)
	if err != nil {
		return nil, fmt.Errorf("device-mapper status of %s: %w", name, err)
	}
	targets, err := decodeTargets(data, int(h.TargetCount))
	if err != nil {
		return nil, fmt.Errorf("device-mapper status of %s: %w", name, err)
	}
	return targets, nil
}

// decodeTargets reads what DM_TABLE_STATUS returns: Next is the offset of the
// following target from the start of the data.
func decodeTargets(data []byte, count int) ([]Target, error) {
	var out []Target
	for off := 0; count > 0; count-- {
		if off < 0 || off+dmTargetSpecSize > len(data) {
			return nil, fmt.Errorf("%w: target %d lies outside the answer", ErrInvalid, len(out))
		}
		var spec dmTargetSpec
		if _, err := binary.Decode(data[off:], binary.NativeEndian, &spec); err != nil {
			return nil, err
		}
		out = append(out, Target{
			Start:  spec.Start,
			Length: spec.Length,
			Type:   cString(spec.Type[:]),
			Params: cString(data[off+dmTargetSpecSize:]),
		})
		off = int(spec.Next)
	}
	return out, nil
}

// Load implements [Kernel].
func (*LinuxKernel) Load(name string, table []Target, readOnly bool) error {
	h := dmHeader{TargetCount: uint32(len(table))}
	if readOnly {
		h.Flags |= dmReadOnlyFlag
	}
	if _, _, err := dmCall(dmTableLoadCmd, name, h, encodeTargets(table)); err != nil {
		return fmt.Errorf("load table of %s: %w", name, err)
	}
	return nil
}

// encodeTargets writes what DM_TABLE_LOAD takes: Next is the distance to the
// following target, 8-byte aligned.
func encodeTargets(table []Target) []byte {
	var b bytes.Buffer
	for _, t := range table {
		size := (dmTargetSpecSize + len(t.Params) + 1 + 7) &^ 7
		spec := dmTargetSpec{Start: t.Start, Length: t.Length, Next: uint32(size)}
		copy(spec.Type[:len(spec.Type)-1], t.Type)
		line := make([]byte, size)
		if _, err := binary.Encode(line, binary.NativeEndian, spec); err != nil {
			panic(err) // a fixed-size struct into a buffer that holds it
		}
		copy(line[dmTargetSpecSize:], t.Params)
		b.Write(line)
	}
	return b.Bytes()
}

// Suspend implements [Kernel].
func (*LinuxKernel) Suspend(name string) error {
	if _, _, err := dmCall(dmDevSuspendCmd, name, dmHeader{Flags: dmSuspendFlag}, nil); err != nil {
		return fmt.Errorf("suspend %s: %w", name, err)
	}
	return nil
}

// Resume implements [Kernel]. With a new table the kernel suspends the device by
// itself first (do_resume() in drivers/md/dm-ioctl.c); a larger table needs no
// frozen file system and no flush.
func (*LinuxKernel) Resume(name string) error {
	if _, _, err := dmCall(dmDevSuspendCmd, name, dmHeader{Flags: dmSkipLockfsFlag | dmNoFlushFlag}, nil); err != nil {
		return fmt.Errorf("resume %s: %w", name, err)
	}
	return nil
}

// Message implements [Kernel]: struct dm_target_msg is a sector and a string.
func (*LinuxKernel) Message(name, message string) error {
	payload := append(make([]byte, 8), message...)
	if _, _, err := dmCall(dmTargetMsgCmd, name, dmHeader{}, append(payload, 0)); err != nil {
		return fmt.Errorf("message %q to %s: %w", message, name, err)
	}
	return nil
}

// LoadTarget implements [Kernel]: get_target_version() in drivers/md/dm-ioctl.c
// requests the module "dm-<target>" if the type is not known yet.
func (*LinuxKernel) LoadTarget(target string) error {
	_, _, err := dmCall(dmTargetVersion, target, dmHeader{}, nil)
	if err == nil {
		return nil
	}
	module := "dm_" + strings.ReplaceAll(target, "-", "_")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		module = "dm_mod" // the control device is its own
	}
	return &MissingModuleError{Module: module, Err: fmt.Errorf("device-mapper target %s: %w", target, err)}
}

// WaitEvent implements [Kernel] with DM_DEV_ARM_POLL: once armed, the control
// device polls readable after the next event of any device.
func (k *LinuxKernel) WaitEvent(ctx context.Context) error {
	k.eventLock.Lock()
	defer k.eventLock.Unlock()
	if k.events == nil {
		f, err := os.OpenFile(dmControl, os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("wait for device-mapper events: %w", err)
		}
		k.events = f
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("wait for device-mapper events: %w", err)
	}
	// The eventfd outlives the callback: stop() false means that it runs or ran.
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		one := binary.NativeEndian.AppendUint64(nil, 1)
		_, _ = unix.Write(wake, one) // cannot fail on a fresh eventfd
	})
	defer func() {
		if !stop() {
			<-done
		}
		unix.Close(wake)
	}()
	fds := []unix.PollFd{{Fd: int32(k.events.Fd()), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
	for {
		switch _, err := unix.Poll(fds, -1); {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait for device-mapper events: %w", err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		break
	}
	h := dmHeader{Version: [3]uint32{4, 0, 0}, DataSize: dmHeaderSize, DataStart: dmHeaderSize}
	buf := make([]byte, dmHeaderSize)
	if _, err := binary.Encode(buf, binary.NativeEndian, h); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, k.events.Fd(), dmRequest(dmDevArmPollCmd), uintptr(unsafe.Pointer(&buf[0]))); errno != 0 {
		return fmt.Errorf("arm device-mapper events: %w", errno)
	}
	return nil
}

func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
