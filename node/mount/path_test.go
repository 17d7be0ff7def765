package mount

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Kernels without openat2 get the same answers.
func TestWalkBeneathAgreesWithOpenat2(t *testing.T) {
	base := t.TempDir()
	if err := errors.Join(
		os.MkdirAll(filepath.Join(base, "a/b"), 0o750),
		os.Symlink("a", filepath.Join(base, "link")),
		os.Symlink("/", filepath.Join(base, "a/out")),
		os.WriteFile(filepath.Join(base, "file"), nil, 0o600),
	); err != nil {
		t.Fatal(err)
	}
	for rel, want := range map[string]bool{
		".": true, "a": true, "a/b": true, "link": false, "link/b": false, "a/out": false, "a/out/etc": false, "file": false, "none": false,
	} {
		baseFD, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		walked, walkErr := walkBeneath(baseFD, rel)
		opened, openErr := openBeneath(base, rel)
		if (walkErr == nil) != want || (openErr == nil) != want {
			t.Errorf("%s: walk %v, openat2 %v, want success %v", rel, walkErr, openErr, want)
		}
		for _, fd := range []int{walked, opened} {
			if fd >= 0 {
				unix.Close(fd)
			}
		}
	}
}
