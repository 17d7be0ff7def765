package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestCheckPropagation(t *testing.T) {
	const (
		host = "mnt:[4026531841]"
		own  = "mnt:[4026532001]"
	)
	dir := t.TempDir()
	line := func(point, fields string) string {
		return fmt.Sprintf("30 20 0:20 / %s rw,relatime %s- ext4 /dev/root rw\n", point, fields)
	}
	for _, c := range []struct {
		name      string
		pid, ours string
		table     string
		private   bool
	}{
		{"host, private root", "7", host, line("/", ""), false},
		{"container, shared", "1", own, line("/", "") + line(dir, "shared:5 master:1 "), false},
		{"container, private", "1", own, line("/", "shared:1 ") + line(dir, ""), true},
		{"container, slave", "1", own, line("/", "shared:1 ") + line(dir, "master:1 "), true},
		{"container, on its root", "1", own, line("/", "shared:1 ") + line(dir+"x", ""), false},
		{"unit with a namespace", "7", own, line("/", "shared:1 ") + line(dir, "master:1 "), true},
		{"the later mount counts", "7", own, line(dir, "shared:1 ") + line(dir, ""), true},
	} {
		proc := t.TempDir()
		for _, d := range []string{c.pid + "/ns", "1/ns"} {
			if err := os.MkdirAll(filepath.Join(proc, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		links := map[string]string{"self": c.pid, "1/ns/mnt": host}
		links[c.pid+"/ns/mnt"] = c.ours
		for name, target := range links {
			if err := os.Symlink(target, filepath.Join(proc, name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(proc, c.pid, "mountinfo"), []byte(c.table), 0o600); err != nil {
			t.Fatal(err)
		}
		err := checkPropagation(dir, proc)
		if errors.Is(err, ErrPrivate) != c.private || !c.private && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
