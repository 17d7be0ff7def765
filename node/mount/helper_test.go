package mount_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/mount/mounttest"
)

const (
	uuidA = "aaaaaaaa-0000-4000-8000-000000000001"
	uuidB = "bbbbbbbb-0000-4000-8000-000000000002"
	gib   = 1 << 30
)

// node is a node in memory with two devices of 1 GiB, and the record of one volume.
type node struct {
	*mounttest.System
	*mount.Mounter
	disks   mounttest.Disks
	kubelet string
	state   mount.State // the record of the volume under test
	marks   int
}

func newNode(t *testing.T) *node {
	t.Helper()
	disks := mounttest.Disks{"/dev/dm-1": mounttest.NewDisk(gib), "/dev/dm-2": mounttest.NewDisk(gib)}
	n := &node{System: mounttest.New(disks), disks: disks, kubelet: t.TempDir(), state: mount.StateNew}
	n.Mounter = mount.New(n.Config(n.kubelet))
	if err := os.MkdirAll(filepath.Join(n.kubelet, "pods"), 0o750); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *node) path(name string) string { return filepath.Join(n.kubelet, name) }

// request stages /dev/dm-1 at "staging".
func (n *node) request(fsType mount.FSType) mount.StageRequest {
	return mount.StageRequest{
		Device: "/dev/dm-1", StagingPath: n.path("staging"), FSType: fsType, State: n.state, WantUUID: uuidA,
		MarkFormatted: func(_ context.Context, s mount.State) error { n.state = s; n.marks++; return nil },
	}
}

func encrypted(r mount.StageRequest, key string) mount.StageRequest {
	r.Encryption = &mount.Encryption{Name: "luks-pvc-1", Key: mount.Key(key)}
	return r
}

// count returns how many of the programs ran since the last call to Commands.
func count(commands []mount.Command, names ...string) int {
	total := 0
	for _, cmd := range commands {
		for _, name := range names {
			if cmd.Name == name || cmd.Name+" "+cmd.Args[0] == name {
				total++
			}
		}
	}
	return total
}

var formats = []string{"mke2fs", "mkfs.xfs", "mkfs.btrfs", "cryptsetup luksFormat"}

var fsTypes = []mount.FSType{mount.Ext4, mount.XFS, mount.Btrfs}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
