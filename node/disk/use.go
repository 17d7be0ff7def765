package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// layer is a device of a disk's stack: the disk, a partition, or what holds one of them, to any depth.
type layer struct {
	name      string // kernel's name
	dev       string // major:minor
	dm        string // device-mapper's name, if it has one
	partition bool
}

func (l layer) String() string {
	if l.dm != "" {
		return fmt.Sprintf("%s (%s)", l.name, l.dm)
	}
	return l.name
}

// is tells whether a kernel's name or a path below /dev with "!" for "/" means this device.
func (l layer) is(name string) bool {
	return name != "" && (name == l.name || l.dm != "" && name == "mapper!"+l.dm)
}

func devNumber(major, minor uint32) string { return fmt.Sprintf("%d:%d", major, minor) }

// stack returns d and everything on top of it, d first.
func (s *System) stack(d Disk) ([]layer, error) {
	var layers []layer
	seen := map[string]bool{}
	var walk func(name string, sysfs ...string) error
	walk = func(name string, sysfs ...string) error {
		if seen[name] {
			return nil
		}
		seen[name] = true
		dev, err := s.readAttr(append(sysfs, "dev")...)
		if err != nil {
			return err
		}
		_, err = os.Stat(s.sys(append(sysfs, "partition")...))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		layers = append(layers, layer{
			name: name, dev: dev, dm: s.attr(append(sysfs, "dm", "name")...), partition: err == nil,
		})
		// The kernel gives every disk and partition a holders directory: one that is missing is an error.
		holders, err := os.ReadDir(s.sys(append(sysfs, "holders")...))
		if err != nil {
			return err
		}
		for _, h := range holders {
			if err := walk(h.Name(), "block", h.Name()); err != nil {
				return err
			}
		}
		parts, err := s.partitions(name, sysfs)
		if err != nil {
			return err
		}
		for _, p := range parts {
			if err := walk(p, append(sysfs[:len(sysfs):len(sysfs)], p)...); err != nil {
				return err
			}
		}
		return nil
	}
	return layers, walk(d.Name, "block", d.Name)
}

// partitions lists the directories /sys/block/X/X* that say that they are partitions.
func (s *System) partitions(name string, sysfs []string) ([]string, error) {
	entries, err := os.ReadDir(s.sys(sysfs...))
	if err != nil {
		return nil, err
	}
	var parts []string
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), name) {
			continue
		}
		dir := append(sysfs[:len(sysfs):len(sysfs)], e.Name(), "partition")
		if _, err := os.Stat(s.sys(dir...)); err == nil {
			parts = append(parts, e.Name())
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return parts, nil
}

// notMounted refuses a stack of which a device is mounted, as we see it and as process 1 does. A mount in
// a third namespace is caught by the exclusive open.
func (s *System) notMounted(stack []layer) error {
	mounts, err := s.mounts("self")
	if err != nil {
		return err
	}
	of1, err := s.mounts("1")
	if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, m := range append(mounts, of1...) {
		source := s.deviceName(m.source)
		for i, l := range stack {
			// A filesystem with a device number of its own, such as btrfs, tells its device as source only.
			if m.dev != l.dev && !l.is(source) {
				continue
			}
			if i == 0 {
				return found("is mounted at %s", m.point)
			}
			return found("is in use: %s is mounted from %s on this disk", m.point, l)
		}
	}
	return nil
}

func (s *System) mounts(pid string) ([]mount, error) {
	f, err := os.Open(s.proc(pid, "mountinfo"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMountinfo(f)
}

func (s *System) notSwap(stack []layer) error {
	f, err := os.Open(s.proc("swaps"))
	// A kernel without CONFIG_SWAP has no such file. Where proc is missing, mountinfo failed before.
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	swaps, err := parseSwaps(f)
	if err != nil {
		return err
	}
	for _, path := range swaps {
		name := s.deviceName(path)
		for i, l := range stack {
			if !l.is(name) {
				continue
			}
			if i == 0 {
				return found("is in use as swap")
			}
			return found("is in use: %s on this disk is swap", l)
		}
	}
	return nil
}
