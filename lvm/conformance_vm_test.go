//go:build vm

package lvm_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
	"golang.org/x/sys/unix"
)

// TestConformanceOnLVM runs the suite on the LVM and the kernel of this machine.
// It takes every disk whose serial begins with LVM and destroys what is on it.
func TestConformanceOnLVM(t *testing.T) {
	lvmtest.Conformance(t, realEnv)
}

func realEnv(t *testing.T) lvmtest.Env {
	t.Helper()
	exec := realLVM(t)
	env := lvmtest.Env{
		Client: lvm.New(exec, &lvm.LinuxKernel{}, lvm.Options{}), Runner: exec, Disks: realDisks(t),
		Write: writeDevice, Read: readDevice, Hold: holdDevice,
	}
	t.Cleanup(func() { clearDisks(t, exec, env.Disks) })
	return env
}

// realLVM is the lvm program with a configuration of the package's own.
func realLVM(t *testing.T) lvm.Exec {
	t.Helper()
	dir := t.TempDir()
	if err := lvm.WriteConfig(dir, "", false); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"/usr/sbin/lvm", "/sbin/lvm", "/usr/bin/lvm"} {
		if _, err := os.Stat(program); err == nil {
			return lvm.Exec{Program: program, SystemDir: dir}
		}
	}
	t.Fatal("no lvm program here")
	return lvm.Exec{}
}

// realDisks finds the disks whose serial says that they are for this test.
func realDisks(t *testing.T) []lvm.DevicePath {
	t.Helper()
	serials, err := filepath.Glob("/sys/block/*/device/serial")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]lvm.DevicePath{}
	for _, file := range serials {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		serial := strings.TrimSpace(string(text))
		if !strings.HasPrefix(serial, "LVM") {
			continue
		}
		dev, err := lvm.ParseDevicePath("/dev/" + strings.Split(file, "/")[3])
		if err != nil {
			t.Fatal(err)
		}
		found[serial] = dev
	}
	if len(found) < 4 {
		t.Fatalf("%d disks with a serial LVM…, 4 are needed", len(found))
	}
	var keys []string
	for k := range found {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	var disks []lvm.DevicePath
	for _, k := range keys {
		disks = append(disks, found[k])
	}
	return disks
}

// clearDisks removes what a subtest left. A suspended device would hang lvm.
func clearDisks(t *testing.T, exec lvm.Exec, disks []lvm.DevicePath) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	run := func(name string, args ...string) lvm.Result {
		res, err := exec.Run(ctx, lvm.Command{Name: name, Args: args})
		if err != nil {
			t.Errorf("clean up: %v", err)
		}
		return res
	}
	var paths []string
	for _, d := range disks {
		paths = append(paths, d.String())
	}
	devices := strings.Join(paths, ",")
	groups := run("vgs", "--devices", devices, "--noheadings", "-o", "vg_name")
	for _, vg := range strings.Fields(string(groups.Stdout)) {
		if res := run("vgremove", "--devices", devices, "-ff", "--yes", "--", vg); res.Exit != 0 {
			t.Errorf("clean up: vgremove: %s", res.Stderr)
		}
	}
	pvs := run("pvs", "--devices", devices, "--noheadings", "-o", "pv_name")
	for _, pv := range strings.Fields(string(pvs.Stdout)) {
		if res := run("pvremove", "--devices", devices, "--", pv); res.Exit != 0 {
			t.Errorf("clean up: pvremove: %s", res.Stderr)
		}
	}
}

func writeDevice(path string, off int64, data []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(data, off); err != nil {
		return err
	}
	return f.Sync()
}

// readDevice reads the device, not the page cache: that would show the content
// which was written to a volume, whatever LVM did to the device below.
func readDevice(path string, off int64, size int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return nil, err
	}
	buf := make([]byte, size)
	_, err = io.ReadFull(io.NewSectionReader(f, off, int64(size)), buf)
	return buf, err
}

func holdDevice(path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}
