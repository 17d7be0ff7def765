package cgroup_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lamina-csi/lamina/node/cgroup"
)

// A pod's UID is kubelet's text. Whatever it is, nothing outside of that pod's
// directory is written.
func FuzzLimit(f *testing.F) {
	const mine = "0b6ae0a2-9b3a-4f0e-8a2e-1f2d3c4b5a69"
	root := f.TempDir()
	victim := filepath.Join(root, "kubepods", "pod1b6ae0a2-9b3a-4f0e-8a2e-1f2d3c4b5a69", "io.max")
	own := filepath.Join(root, "kubepods", "pod"+mine, "io.max")
	for _, p := range []string{victim, own} {
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			f.Fatal(err)
		}
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			f.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte("io\n"), 0o600); err != nil {
		f.Fatal(err)
	}
	c := cgroup.Tree{Root: root}
	for _, s := range []string{mine, "..", "../pod" + mine, "1b6ae0a2*", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, uid string) {
		if strings.HasPrefix(uid, "1b6ae0a2-9b3a-4f0e-8a2e-1f2d3c4b5a69") {
			return
		}
		err := c.Limit(uid, cgroup.Device{Major: 259}, cgroup.Limits{ReadIOPS: 1})
		if err == nil && uid != mine || err != nil && !errors.Is(err, cgroup.ErrInvalid) && !errors.Is(err, cgroup.ErrNoLimit) {
			t.Errorf("%q: %v", uid, err)
		}
		if text, err := os.ReadFile(victim); err != nil || len(text) > 0 {
			t.Fatalf("%q wrote %q to another pod (%v)", uid, text, err)
		}
	})
}
