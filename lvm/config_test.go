package lvm_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lamina-csi/lamina/lvm"
)

// The thin tools are named only where they are not in their place.
func TestWriteConfigNamesThinTools(t *testing.T) {
	for root, want := range map[string]bool{"": false, "/usr/lib/other": true} {
		dir := filepath.Join(t.TempDir(), "lvm")
		if err := lvm.WriteConfig(dir, root, true); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "lvm.conf"))
		if err != nil {
			t.Fatal(err)
		}
		for _, tool := range []string{"check", "dump", "repair", "restore"} {
			line := "thin_" + tool + `_executable = "` + root + "/usr/sbin/thin_" + tool + `"`
			if strings.Contains(string(text), line) != want {
				t.Errorf("with root %q the line %s is there: %v", root, line, !want)
			}
		}
	}
}

// LVM waits for udev if it may, and only then.
func TestWriteConfigUdev(t *testing.T) {
	for _, udev := range []bool{false, true} {
		dir := t.TempDir()
		if err := lvm.WriteConfig(dir, "", udev); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "lvm.conf"))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"udev_sync = 0", "udev_rules = 0"} {
			if strings.Contains(string(text), line) == udev {
				t.Errorf("it may wait: %t; %q is there: %t", udev, line, udev)
			}
		}
	}
}
