//go:build linux

package main

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// unmountAll unmounts what lies on a disk, newest first, and makes the rest
// read-only. A second round gets what the first one freed.
func unmountAll() {
	for range 2 {
		mounted := mountPoints()
		for i := len(mounted) - 1; i >= 0; i-- {
			if err := unix.Unmount(mounted[i], 0); err != nil {
				_ = unix.Mount("", mounted[i], "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
			}
		}
	}
	_ = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// mountPoints returns the mount points, oldest first, but the root and those
// that shutting down needs (proc(5), mountinfo).
func mountPoints() []string {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var points []string
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		switch f[4] {
		case "/", "/proc", "/dev", "/sys", "/run":
		default:
			points = append(points, f[4])
		}
	}
	return points
}
