package mount

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// MountedAt lists below kubelet's directory where device, or a LUKS mapping on it, is mounted, as a
// filesystem or as a node; the value says whether read-only.
func (m *Mounter) MountedAt(device string) (map[string]bool, error) {
	table, err := m.mounts.List()
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	// The table has real names, and the directory may be a symlink of the administrator's.
	base, err := filepath.EvalSymlinks(m.kubeletDir)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, at := range table {
		source := at.Device
		if isNode(at) {
			source = at.Path
		}
		rel, below := strings.CutPrefix(at.Path, base+"/")
		if below && m.shows(source, device) {
			out[m.kubeletDir+"/"+rel] = slices.Contains(at.Opts, "ro")
		}
	}
	return out, nil
}

// PodOf returns the UID of the pod that a target path belongs to, "" where it is not in a pod's place. The
// UID is kubelet's text, unchecked. Kubelet publishes a filesystem at
//
//	pods/<uid>/volumes/kubernetes.io~csi/<volume>/mount
//
// and a block volume (pkg/volume/csi/csi_block.go, getPublishPath) at
//
//	plugins/kubernetes.io/csi/volumeDevices/publish/<volume>/<uid>
func (m *Mounter) PodOf(target string) string {
	rel, ok := strings.CutPrefix(target, m.kubeletDir+"/")
	if !ok {
		return ""
	}
	if rest, ok := strings.CutPrefix(rel, "pods/"); ok {
		uid, _, below := strings.Cut(rest, "/")
		if below {
			return uid
		}
	}
	if rest, ok := strings.CutPrefix(rel, "plugins/kubernetes.io/csi/volumeDevices/publish/"); ok {
		_, uid, _ := strings.Cut(rest, "/")
		return uid
	}
	return ""
}

// DeviceNumber returns the number of the device that I/O at a path goes to: a device node's own (in /dev),
// else that of the device whose filesystem, or whose node, is mounted there. Of an encrypted volume that
// is the mapping, not the volume's own device.
//
// Errors: ErrInvalid, ErrNotMounted, ErrCorrupted.
func (m *Mounter) DeviceNumber(path string) (major, minor uint32, err error) {
	source, err := m.sourceOf(path)
	if err == nil {
		major, minor, err = m.kernel.DeviceNumber(source)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("device at %s: %w", path, err)
	}
	return major, minor, nil
}

func (m *Mounter) sourceOf(path string) (string, error) {
	if strings.HasPrefix(path, "/dev/") {
		return path, validateDevice(path)
	}
	real, err := m.resolve(path)
	if err != nil {
		return "", err
	}
	at, mounted, err := m.mountAt(real)
	if err != nil {
		return "", err
	}
	if !mounted {
		return "", fmt.Errorf("%w: nothing is there", ErrNotMounted)
	}
	// The mount table says devtmpfs: the node itself says which device it is.
	if isNode(at) {
		return real, nil
	}
	return at.Device, nil
}
