package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	mountutils "k8s.io/mount-utils"
)

// ErrPrivate is a kubelet directory from which mounts do not reach kubelet.
var ErrPrivate = errors.New("mounts stay in this agent's own mount namespace, and neither kubelet nor a pod would see a volume")

// CheckPropagation looks whether what is mounted below kubelet's directory reaches kubelet: the
// agent is in the host's mount namespace, or that directory is on a shared mount
// (Documentation/filesystems/sharedsubtree.rst). If not, it is ErrPrivate: every volume would be
// published into the void, and kubelet be told that all is well.
func (m *Mounter) CheckPropagation() error { return checkPropagation(m.kubeletDir, "/proc") }

func checkPropagation(dir, proc string) error {
	own, err := ownNamespace(proc)
	if err != nil || !own {
		return err
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	table, err := mountutils.ParseMountInfo(filepath.Join(proc, "self", "mountinfo"))
	if err != nil {
		return err
	}
	at := mountutils.MountInfo{}
	for _, mnt := range table {
		below := mnt.MountPoint == "/" || real == mnt.MountPoint || strings.HasPrefix(real, mnt.MountPoint+"/")
		if below && len(mnt.MountPoint) >= len(at.MountPoint) { // the later one lies on top
			at = mnt
		}
	}
	for _, field := range at.OptionalFields {
		if strings.HasPrefix(field, "shared:") {
			return nil
		}
	}
	return fmt.Errorf("%s: %w (the mount at %s is not shared): a pod needs mountPropagation: Bidirectional; "+
		"a Talos service rootfsPropagation: shared and the mount option rshared; "+
		"a systemd unit no setting that gives it a mount namespace, such as PrivateTmp", dir, ErrPrivate, at.MountPoint)
}

// ownNamespace tells whether this process has another mount namespace than the host. Process 1 of a
// PID namespace of its own is what a container runtime starts, and it starts none in the host's.
func ownNamespace(proc string) (bool, error) {
	self, err := os.Readlink(filepath.Join(proc, "self"))
	if err != nil || self == "1" {
		return true, err
	}
	ours, err := os.Readlink(filepath.Join(proc, "self", "ns", "mnt"))
	if err != nil {
		return false, err
	}
	first, err := os.Readlink(filepath.Join(proc, "1", "ns", "mnt"))
	return ours != first, err
}
