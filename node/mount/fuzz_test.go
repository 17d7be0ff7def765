package mount

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever kubelet is made to say, a path that is accepted lies below its directory,
// by its real name.
func FuzzResolve(f *testing.F) {
	dir := f.TempDir()
	base, outside := filepath.Join(dir, "kubelet"), filepath.Join(dir, "outside")
	for _, d := range []string{filepath.Join(base, "pods", "a"), outside} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			f.Fatal(err)
		}
	}
	for _, link := range []string{filepath.Join(base, "link"), filepath.Join(base, "pods", "link")} {
		if err := os.Symlink(outside, link); err != nil {
			f.Fatal(err)
		}
	}
	m := New(Config{KubeletDir: base})
	for _, p := range []string{"/pods/a/mount", "/link/x", "/pods/link", "/../outside/x", "/pods/./a", "", "/", "/.", "//pods", "/pods/a/..", "/pods/a b", "/pods/\x00"} {
		f.Add(base + p)
	}
	f.Add("/etc")
	f.Fuzz(func(t *testing.T, path string) {
		if !strings.HasPrefix(path, base) && !strings.HasPrefix(path, "/") {
			path = base + "/" + path // most of what is tried shall be near
		}
		real, err := m.resolve(path)
		if err != nil {
			if real != "" {
				t.Errorf("%q: an error and %q", path, real)
			}
			return
		}
		parent, err := filepath.EvalSymlinks(filepath.Dir(real))
		if err != nil || parent != filepath.Dir(real) || !strings.HasPrefix(real, base+"/") || strings.Contains(real, "..") && !strings.Contains(filepath.Base(real), "..") {
			t.Errorf("%q is taken for %q, whose parent is %q (%v)", path, real, parent, err)
		}
		if info, err := os.Lstat(real); err == nil && info.Mode()&os.ModeSymlink != 0 {
			t.Errorf("%q is a symlink", real)
		}
	})
}

func FuzzPodOf(f *testing.F) {
	m := New(Config{KubeletDir: "/var/lib/kubelet"})
	f.Add("/var/lib/kubelet/pods/0b6ae0a2-9b3a-4f0e-8a2e-1f2d3c4b5a69/volumes/kubernetes.io~csi/pvc-1/mount")
	f.Add("/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pvc-1/uid")
	f.Fuzz(func(t *testing.T, target string) {
		if pod := m.PodOf(target); pod != "" && !strings.Contains(target, "/"+pod) {
			t.Errorf("%q is of pod %q", target, pod)
		}
	})
}

// What reaches a command line as a device, a mapping or a type is a word.
func FuzzArguments(f *testing.F) {
	for _, s := range []string{"/dev/dm-1", "/dev/../etc", "-y", "pvc-1", "ext4", "", "0b6ae0a2-9b3a-4f0e-8a2e-1f2d3c4b5a69"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if validateDevice(s) == nil && (!strings.HasPrefix(s, "/dev/") || strings.ContainsAny(s, " \t\n\x00\\") || strings.Contains(s, "..")) {
			t.Errorf("device %q", s)
		}
		if name, err := LUKSName(s); err == nil && (strings.ContainsAny(name, "/ \t\n\x00@") || len(name) > 127 || !strings.HasPrefix(name, "luks-")) {
			t.Errorf("mapping %q", name)
		}
		if fs, err := ParseFSType(s); err == nil && fs != Ext4 && fs != XFS && fs != Btrfs {
			t.Errorf("file system %q is %q", s, fs)
		}
		if validateUUID(s) == nil && len(s) != 36 {
			t.Errorf("UUID %q", s)
		}
	})
}
