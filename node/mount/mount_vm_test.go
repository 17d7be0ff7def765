//go:build vm

package mount_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/node/mount"
)

func TestVMLife(t *testing.T) {
	for _, kind := range vmKinds {
		t.Run(kind.name, func(t *testing.T) {
			n := newRealNode(t)
			check(t, n.Stage(t.Context(), n.request(kind)))
			if n.state != mount.Formatted(kind.fsType) || n.marks != 1 || n.formats() == 0 {
				t.Fatalf("recorded %q %d times", n.state, n.marks)
			}
			writeFile(t, n.path("staging/file"), "precious")
			check(t, n.Stage(t.Context(), n.request(kind)))
			publishAndMeasure(t, n, kind)
			copyLive(t, n, kind)
			unstageBusy(t, n, kind)

			n.formats()
			check(t, n.Stage(t.Context(), n.request(kind)))
			checkFile(t, n.path("staging/file"), "precious")
			stageCopy(t, n, kind)
			growOnline(t, n, kind)
			if made := n.formats(); made != 0 || n.marks != 1 {
				t.Errorf("%d formats and %d records after the first", made, n.marks)
			}
			check(t, n.Unstage(t.Context(), n.path("copy"), kind.mapping("luks-vm-b")))
			check(t, n.Unstage(t.Context(), n.path("staging"), kind.mapping("luks-vm-a")))
			check(t, n.Unstage(t.Context(), n.path("staging"), kind.mapping("luks-vm-a")))
			if kind.luks {
				wrongKey(t, n, kind)
			}

			// The crash between mkfs and its record.
			n.state, n.marks = mount.StateNew, 0
			check(t, n.Stage(t.Context(), n.request(kind)))
			if n.formats() == 0 || n.marks != 1 {
				t.Error("an unrecorded mkfs was not done again")
			}
			if _, err := os.Stat(n.path("staging/file")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("file after mkfs: %v", err)
			}
			check(t, n.Unstage(t.Context(), n.path("staging"), kind.mapping("luks-vm-a")))
		})
	}
}

func publishAndMeasure(t *testing.T, n *realNode, kind vmKind) {
	t.Helper()
	for _, readOnly := range []bool{false, true} {
		r := mount.PublishRequest{StagingPath: n.path("staging"), Target: n.path(fmt.Sprintf("pod-%v", readOnly)), ReadOnly: readOnly}
		for range 2 {
			check(t, n.Publish(t.Context(), r))
		}
		checkFile(t, r.Target+"/file", "precious")
		err := os.WriteFile(r.Target+"/other", nil, 0o600)
		if readOnly != errors.Is(err, unix.EROFS) {
			t.Errorf("readOnly=%v: write gives %v", readOnly, err)
		}
		stats, err := n.Stats(t.Context(), r.Target)
		check(t, err)
		if stats.Total < smallDevice*3/4 || stats.Total > smallDevice || stats.Available <= 0 || (stats.Inodes == 0) != (kind.fsType == mount.Btrfs) {
			t.Errorf("stats %+v", stats)
		}
	}
	table, err := os.ReadFile("/proc/self/mounts")
	check(t, err)
	if got := strings.Count(string(table), " "+n.path("pod-")); got != 2 {
		t.Errorf("%d mounts for two targets:\n%s", got, table)
	}
	device := n.a
	if kind.luks {
		device = mount.MappedDevice("luks-vm-a")
	}
	if health, err := n.Health(t.Context(), device, n.path("staging")); err != nil || health != (mount.Health{}) {
		t.Errorf("health %+v, error %v", health, err)
	}
	for _, readOnly := range []bool{false, true} {
		for range 2 {
			check(t, n.Unpublish(t.Context(), n.path(fmt.Sprintf("pod-%v", readOnly))))
		}
	}
}

// copyLive copies the device under its mounted filesystem, as a snapshot would: fsynced data is there,
// and logs wait for replay.
func copyLive(t *testing.T, n *realNode, kind vmKind) {
	t.Helper()
	writeFile(t, n.path("staging/late"), "fsynced")
	growDevice(t, 1)
	from, err := os.OpenFile(n.a, os.O_RDONLY|unix.O_DIRECT, 0)
	check(t, err)
	defer from.Close()
	to, err := os.OpenFile(n.b, os.O_RDWR, 0)
	check(t, err)
	defer to.Close()
	zero := make([]byte, 1<<20)
	buf := aligned(1 << 20)
	for off := int64(0); off < smallDevice; off += int64(len(buf)) {
		_, err := from.ReadAt(buf, off)
		check(t, err)
		if string(buf) == string(zero) {
			continue // the target is blank
		}
		_, err = to.WriteAt(buf, off)
		check(t, err)
	}
	check(t, to.Sync())
}

func aligned(size int) []byte {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	return mem
}

func stageCopy(t *testing.T, n *realNode, kind vmKind) {
	t.Helper()
	for range 2 {
		check(t, n.Stage(t.Context(), n.copyRequest(kind)))
	}
	checkFile(t, n.path("copy/file"), "precious")
	checkFile(t, n.path("copy/late"), "fsynced")
	stats, err := n.Stats(t.Context(), n.path("copy"))
	check(t, err)
	if stats.Total < largeDevice*3/4 {
		t.Errorf("the copy did not grow at stage: %+v", stats)
	}
	writeFile(t, n.path("copy/file"), "changed")
	checkFile(t, n.path("staging/file"), "precious")
}

func unstageBusy(t *testing.T, n *realNode, kind vmKind) {
	t.Helper()
	f, err := os.Open(n.path("staging/file"))
	check(t, err)
	if err := n.Unstage(t.Context(), n.path("staging"), kind.mapping("luks-vm-a")); !errors.Is(err, mount.ErrBusy) {
		t.Errorf("error = %v, want ErrBusy", err)
	}
	check(t, f.Close())
	check(t, n.Unstage(t.Context(), n.path("staging"), kind.mapping("luks-vm-a")))
}

func growOnline(t *testing.T, n *realNode, kind vmKind) {
	t.Helper()
	growDevice(t, 0)
	r := mount.GrowRequest{Device: n.a, Path: n.path("staging"), LUKSName: kind.mapping("luks-vm-a")}
	for range 2 {
		check(t, n.Grow(t.Context(), r))
	}
	stats, err := n.Stats(t.Context(), n.path("staging"))
	check(t, err)
	if stats.Total < largeDevice*3/4 {
		t.Errorf("after growing: %+v", stats)
	}
	checkFile(t, n.path("staging/file"), "precious")
}

func wrongKey(t *testing.T, n *realNode, kind vmKind) {
	t.Helper()
	r := n.request(kind)
	r.Encryption.Key = mount.Key("wrong horse")
	if err := n.Stage(t.Context(), r); !errors.Is(err, mount.ErrKey) {
		t.Errorf("error = %v, want ErrKey", err)
	}
}

func TestVMForeignIsUntouched(t *testing.T) {
	for _, kind := range vmKinds {
		t.Run(kind.name, func(t *testing.T) {
			n := newRealNode(t)
			run(t, "mke2fs", "-q", "-t", "ext4", "-U", uuidB, "--", n.a)
			before := digest(t, n.a)
			if err := n.Stage(t.Context(), n.request(kind)); !errors.Is(err, mount.ErrForeign) {
				t.Errorf("new: error = %v, want ErrForeign", err)
			}
			n.state = mount.Formatted(kind.fsType)
			if err := n.Stage(t.Context(), n.request(kind)); !errors.Is(err, mount.ErrForeign) {
				t.Errorf("formatted: error = %v, want ErrForeign", err)
			}
			if n.formats() != 0 || n.marks != 0 || digest(t, n.a) != before {
				t.Error("the device changed")
			}
		})
	}
}

// digest sums what is not zero and where it lies: under emulation SHA-256 of a whole device takes a minute.
func digest(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	check(t, err)
	defer f.Close()
	sum, buf, zero := sha256.New(), make([]byte, 64<<10), make([]byte, 64<<10)
	for off := 0; ; off += len(buf) {
		_, err := io.ReadFull(f, buf)
		if errors.Is(err, io.EOF) {
			return fmt.Sprintf("%x %d", sum.Sum(nil), off)
		}
		check(t, err)
		if !bytes.Equal(buf, zero) {
			fmt.Fprintln(sum, off)
			sum.Write(buf)
		}
	}
}

func TestVMBlock(t *testing.T) {
	n := newRealNode(t)
	for _, luks := range []bool{false, true} {
		r := vmKind{luks: luks}.encrypt(n.request(vmKind{}), "luks-vm-a")
		device, err := n.StageBlock(t.Context(), r)
		check(t, err)
		publish := mount.PublishBlockRequest{Device: device, Target: n.path("block")}
		for range 2 {
			check(t, n.PublishBlock(t.Context(), publish))
		}
		stats, err := n.Stats(t.Context(), publish.Target)
		check(t, err)
		if !stats.Block || stats.Total < smallDevice-32<<20 || stats.Total > smallDevice {
			t.Errorf("luks=%v: stats %+v", luks, stats)
		}
		publish.Device = n.b
		if err := n.PublishBlock(t.Context(), publish); !errors.Is(err, mount.ErrConflict) {
			t.Errorf("error = %v, want ErrConflict", err)
		}
		for range 2 {
			check(t, n.Unpublish(t.Context(), publish.Target))
			check(t, n.Unstage(t.Context(), n.path("staging"), vmKind{luks: luks}.mapping("luks-vm-a")))
		}
	}
}

// blkid exits with "nothing found" for a device that it cannot open.
func TestVMMissingDeviceIsNotBlank(t *testing.T) {
	n := newRealNode(t)
	if found, err := n.Probe(t.Context(), "/dev/dm-9999"); err == nil {
		t.Errorf("found %v on a device that is not there", found)
	}
	if found, err := n.Probe(t.Context(), n.a); err != nil || found.Found() {
		t.Errorf("found %v, error %v on a blank device", found, err)
	}
}
