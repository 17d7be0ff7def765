//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/test/vm/wire"
)

// probeTime is how long the kernel may take to find a device. Drivers probe
// asynchronously, and without udev nothing announces what was there before.
const (
	probeTime = 20 * time.Second
	probeTick = 5 * time.Millisecond
)

// await looks for a device until it is found.
func await(what string, find func() (string, error)) (string, error) {
	for deadline := time.Now().Add(probeTime); time.Now().Before(deadline); time.Sleep(probeTick) {
		if found, err := find(); found != "" || err != nil {
			return found, err
		}
	}
	return "", fmt.Errorf("%s did not appear in %v", what, probeTime)
}

// matching returns the sysfs attribute file of that pattern that holds value.
func matching(pattern, value string) (string, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return "", err
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err == nil && strings.TrimSpace(string(data)) == value {
			return f, nil
		}
	}
	return "", nil
}

// openPort finds the serial port to the host by its name.
func openPort() (*os.File, error) {
	file, err := await("the serial port to the host", func() (string, error) {
		return matching("/sys/class/virtio-ports/*/name", wire.PortName)
	})
	if err != nil {
		return nil, err
	}
	return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0)
}

// awaitDisks waits until every disk has its device node, and marks the
// read-only ones.
func awaitDisks(disks []wire.Disk) error {
	for _, d := range disks {
		dev, err := await("disk "+d.Serial, func() (string, error) {
			file, err := matching("/sys/block/nvme*/device/serial", d.Serial)
			if err == nil && file == "" {
				file, err = matching("/sys/block/vd*/serial", d.Serial)
			}
			if err != nil || file == "" {
				return "", err
			}
			dev := "/dev/" + strings.Split(file, "/")[3]
			if _, err := os.Stat(dev); errors.Is(err, os.ErrNotExist) {
				return "", nil
			}
			return dev, nil
		})
		if err != nil {
			return err
		}
		if d.ReadOnly {
			if err := setReadOnly(dev); err != nil {
				return fmt.Errorf("mark disk %s read-only: %w", d.Serial, err)
			}
		}
	}
	return nil
}

func setReadOnly(dev string) error {
	f, err := os.Open(dev)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.BLKROSET, 1)
}
