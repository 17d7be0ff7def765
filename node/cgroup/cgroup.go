// Package cgroup limits what a pod does to a block device, by io.max of the pod's cgroup
// (Documentation/admin-guide/cgroup-v2.rst, "IO Interface Files").
//
// The kernel throttles a bio at each device that it is submitted to (blk_throtl_bio in
// block/blk-core.c, for device-mapper too), on behalf of the cgroup that caused it, and
// of all cgroups above that. So the limits belong to the device that the pod's file
// system, or the pod itself, submits to: the top-most one. On a device below it they
// would count once more.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultRoot is where cgroup v2 is mounted.
const DefaultRoot = "/sys/fs/cgroup"

var (
	// ErrInvalid is a pod UID that cannot be one.
	ErrInvalid = errors.New("invalid pod UID")
	// ErrNoLimit is a pod whose I/O cannot be limited: its cgroup is not there (yet), or
	// has no io controller.
	ErrNoLimit = errors.New("the I/O of the pod cannot be limited")
)

// Device is the number of a block device.
type Device struct{ Major, Minor uint32 }

func (d Device) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// Limits bound I/O a second; 0 is no limit.
type Limits struct {
	ReadIOPS, WriteIOPS           int64 // operations
	ReadBandwidth, WriteBandwidth int64 // bytes
}

// line is what io.max takes. What is not named keeps its value, so all four are.
func (l Limits) line(d Device) string {
	return fmt.Sprintf("%s rbps=%s wbps=%s riops=%s wiops=%s\n", d, limit(l.ReadBandwidth), limit(l.WriteBandwidth), limit(l.ReadIOPS), limit(l.WriteIOPS))
}

func limit(n int64) string {
	if n == 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// Tree is a mounted cgroup v2 hierarchy, as the host sees it.
type Tree struct {
	Root string // "": DefaultRoot
}

// Limit sets a pod's limits on a device, in place of those that it has. It is idempotent.
//
// Errors: ErrInvalid, ErrNoLimit.
func (t Tree) Limit(pod string, d Device, l Limits) error {
	dir, err := t.find(pod)
	if err != nil {
		return fmt.Errorf("limit I/O of pod %.80q to %s: %w", pod, d, err)
	}
	if err := write(filepath.Join(dir, "io.max"), l.line(d)); err != nil {
		return fmt.Errorf("limit I/O of pod %s to %s: %w", pod, d, err)
	}
	return nil
}

// write gives the kernel one line in one call. Nothing is ever made here.
func write(path, line string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s is not there: the io controller is not enabled for this cgroup (cgroup.subtree_control of those above it), or the pod has ended", ErrNoLimit, path)
	case errors.Is(err, unix.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: the agent needs %s writable: %w", ErrNoLimit, DefaultRoot, err)
	case err != nil:
		return err
	}
	_, err = f.WriteString(line)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %q: %w", strings.TrimSpace(line), err)
	}
	return nil
}

// podUID allows what kubelet uses: an RFC 4122 UUID, or the hash of a static pod's
// manifest. It cannot leave a directory, nor be read as a slice of several parts.
var podUID = regexp.MustCompile(`^[0-9A-Za-z](-?[0-9A-Za-z]){0,63}$`)

// Kubelet's names (pkg/kubelet/cm, CgroupName): with --cgroup-driver=cgroupfs
//
//	<root>/kubepods[/burstable|/besteffort]/pod<uid>
//
// and with systemd, whose slices carry the names of all above them and have "_" for "-"
//
//	<root>.slice/<root>-kubepods.slice[/<root>-kubepods-burstable.slice]/<root>-kubepods-burstable-pod<uid>.slice
//
// where root is kubelet's --cgroup-root, empty by default.
const (
	pods  = "kubepods"
	slice = ".slice"
)

// A cgroup root of kubelet is looked for this deep, in this many directories at most.
const (
	maxDepth = 4
	maxDirs  = 1000
)

// find looks for a pod's cgroup by its exact name, breadth first: in every directory
// that holds kubelet's pods, and nowhere below them.
func (t Tree) find(pod string) (string, error) {
	if !podUID.MatchString(pod) {
		return "", ErrInvalid
	}
	root := t.Root
	if root == "" {
		root = DefaultRoot
	}
	if _, err := os.Lstat(filepath.Join(root, "cgroup.controllers")); err != nil {
		return "", fmt.Errorf("%w: %s is no cgroup v2 hierarchy: %w", ErrNoLimit, root, err)
	}
	var seen []string // that hold pods
	visited := 0
	for level, depth := []string{root}, 0; depth < maxDepth && len(level) > 0; depth++ {
		var next []string
		for _, dir := range level {
			if visited++; visited > maxDirs {
				return "", fmt.Errorf("%w: its cgroup was not found in the first %d directories of %s", ErrNoLimit, maxDirs, root)
			}
			holders, others, err := children(dir)
			if err != nil {
				return "", err
			}
			for _, h := range holders {
				found, err := podBelow(h, pod)
				if err != nil || found != "" {
					return found, err
				}
			}
			seen, next = append(seen, holders...), append(next, others...)
		}
		level = next
	}
	if len(seen) == 0 {
		return "", fmt.Errorf("%w: there is no %s and no %s%s in %s; does the agent see the host's cgroups?", ErrNoLimit, pods, pods, slice, root)
	}
	return "", fmt.Errorf("%w: its cgroup is not in %s; it is still being made, or the pod has ended", ErrNoLimit, strings.Join(seen, ", "))
}

// children lists the directories in dir: those that hold kubelet's pods, and others.
func children(dir string) (holders, others []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil // a cgroup that has just ended
	}
	if err != nil {
		return nil, nil, fmt.Errorf("look for the pod's cgroup: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		switch {
		case !e.IsDir():
		case name == pods, name == pods+slice, strings.HasSuffix(name, "-"+pods+slice):
			holders = append(holders, filepath.Join(dir, name))
		case name == "user"+slice: // delegated to users, who could make such names
		default:
			others = append(others, filepath.Join(dir, name))
		}
	}
	return holders, others, nil
}

// podBelow looks for a pod in the directories of the three QoS classes; "": not there.
func podBelow(holder, pod string) (string, error) {
	prefix, systemd := strings.CutSuffix(filepath.Base(holder), slice)
	for _, class := range []string{"", "burstable", "besteffort"} {
		dir := filepath.Join(holder, class, "pod"+pod)
		if systemd {
			base := prefix
			if class != "" {
				base += "-" + class
			}
			dir = holder
			if class != "" {
				dir = filepath.Join(dir, base+slice)
			}
			dir = filepath.Join(dir, base+"-pod"+strings.ReplaceAll(pod, "-", "_")+slice)
		}
		info, err := os.Lstat(dir)
		if err == nil && info.IsDir() {
			return dir, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("look for the pod's cgroup: %w", err)
		}
	}
	return "", nil
}
