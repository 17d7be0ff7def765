//go:build vm

package mount_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lamina-csi/lamina/node/mount"
)

// These tests run as root in a virtual machine with two blank NVMe disks whose serial numbers begin
// with MNT. They use the userland of the node and a real kernel.

const (
	smallDevice = 640 << 20
	largeDevice = 1 << 30
)

// recorder runs real programs and remembers which.
type recorder struct {
	mount.Exec
	mu  sync.Mutex
	log []mount.Command
}

func (r *recorder) Run(ctx context.Context, cmd mount.Command) (mount.Result, error) {
	r.mu.Lock()
	r.log = append(r.log, mount.Command{Name: cmd.Name, Args: cmd.Args})
	r.mu.Unlock()
	return r.Exec.Run(ctx, cmd)
}

func (r *recorder) formats() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := count(r.log, formats...)
	r.log = nil
	return n
}

// realNode is the machine: two devices, and the record of the volume on the first.
type realNode struct {
	*mount.Mounter
	*recorder
	kubelet string
	a, b    string
	state   mount.State
	marks   int
}

func newRealNode(t *testing.T) *realNode {
	t.Helper()
	n := &realNode{recorder: &recorder{}, kubelet: t.TempDir(), state: mount.StateNew}
	n.Mounter = mount.New(mount.Config{KubeletDir: n.kubelet, Runner: n.recorder})
	n.a, n.b = makeDevice(t, 0), makeDevice(t, 1)
	return n
}

func (n *realNode) path(name string) string { return filepath.Join(n.kubelet, name) }

func (n *realNode) request(kind vmKind) mount.StageRequest {
	r := mount.StageRequest{
		Device: n.a, StagingPath: n.path("staging"), FSType: kind.fsType, State: n.state, WantUUID: uuidA,
		MarkFormatted: func(_ context.Context, s mount.State) error { n.state = s; n.marks++; return nil },
	}
	return kind.encrypt(r, "luks-vm-a")
}

func (n *realNode) copyRequest(kind vmKind) mount.StageRequest {
	r := n.request(kind)
	r.Device, r.StagingPath, r.WantUUID, r.Copied, r.State = n.b, n.path("copy"), uuidB, true, mount.Formatted(kind.fsType)
	return kind.encrypt(r, "luks-vm-b")
}

type vmKind struct {
	name   string
	fsType mount.FSType
	luks   bool
}

func (k vmKind) encrypt(r mount.StageRequest, name string) mount.StageRequest {
	if k.luks {
		r.Encryption = &mount.Encryption{Name: name, Key: mount.Key("correct horse")}
	}
	return r
}

func (k vmKind) mapping(name string) string {
	if k.luks {
		return name
	}
	return ""
}

var vmKinds = []vmKind{{"ext4", mount.Ext4, false}, {"xfs", mount.XFS, false}, {"btrfs", mount.Btrfs, false}, {"luks-ext4", mount.Ext4, true}, {"luks-xfs", mount.XFS, true}}

// makeDevice gives a blank device of smallDevice bytes on the disk with the given number, growDevice
// makes it largeDevice bytes. They are variables, so that another kind of device can stand in.
var (
	makeDevice = dmDevice
	growDevice = dmGrow
)

func mntDisk(t *testing.T, number int) string {
	t.Helper()
	var found []string
	paths, err := filepath.Glob("/sys/block/nvme*/device/serial")
	check(t, err)
	for _, path := range paths {
		serial, err := os.ReadFile(path)
		check(t, err)
		if strings.HasPrefix(string(serial), "MNT") {
			found = append(found, "/dev/"+strings.Split(path, "/")[3])
		}
	}
	slices.Sort(found)
	if number >= len(found) {
		t.Fatalf("need disk %d with a serial number that begins with MNT, found %q", number, found)
	}
	return found[number]
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := mount.Exec{}.Run(context.Background(), mount.Command{Name: name, Args: args})
	check(t, err)
	return string(out.Stdout)
}

func dmDevice(t *testing.T, number int) string {
	t.Helper()
	disk := mntDisk(t, number)
	run(t, "blkdiscard", "-f", "-z", "-l", fmt.Sprint(largeDevice), "--", disk)
	name := fmt.Sprintf("mnt%d", number)
	run(t, "dmsetup", "create", name, "--noudevsync", "--noudevrules", "--table", fmt.Sprintf("0 %d linear %s 0", smallDevice/512, disk))
	run(t, "dmsetup", "mknodes", name) // cryptsetup finds the device under a mapping in /dev/mapper
	t.Cleanup(func() { run(t, "dmsetup", "remove", "--noudevsync", "--noudevrules", "--retry", name) })
	return "/dev/" + strings.TrimSpace(run(t, "dmsetup", "info", "-c", "--noheadings", "-o", "blkdevname", name))
}

func dmGrow(t *testing.T, number int) {
	t.Helper()
	name := fmt.Sprintf("mnt%d", number)
	run(t, "dmsetup", "reload", name, "--table", fmt.Sprintf("0 %d linear %s 0", largeDevice/512, mntDisk(t, number)))
	run(t, "dmsetup", "resume", "--noudevsync", "--noudevrules", name)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	_, err = f.WriteString(text)
	check(t, err)
	check(t, f.Sync())
}

func checkFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("%s holds %q, error %v", path, got, err)
	}
}
