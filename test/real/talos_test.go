//go:build vm

package real

import (
	"maps"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
	"github.com/lamina-csi/lamina/deploy/image/extension"
	"github.com/lamina-csi/lamina/test/vm"
)

// userland is the bundle with an agent, and what an extension says of it.
func userland(t *testing.T, agent, version string) (*bundle.Tree, extension.Release) {
	t.Helper()
	root, err := bundle.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := bundle.ReadLock(bundle.LockPath(root, bundle.AMD64))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := bundle.Build(t.Context(), bundle.Options{Root: root, Agent: agent, Arch: bundle.AMD64})
	if err != nil {
		t.Fatal(err)
	}
	return tree, extension.Release{Version: version, Arch: bundle.AMD64, Packages: pinned.Set(bundle.SetBundle)}
}

// talosFiles are the Talos extension as it lies in a Talos, and runc to start its
// service with.
func talosFiles(t *testing.T) map[string]string {
	t.Helper()
	root, err := bundle.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	node := build(t, "cmd/lamina-node")
	tree, release := userland(t, node, "test")
	talos, err := extension.Talos(tree, release)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "talos")
	if err := talos.WriteDir(dir); err != nil {
		t.Fatal(err)
	}
	libraries := "usr/lib/x86_64-linux-gnu/libseccomp.so.2"
	return map[string]string{
		"/usr/local":                 filepath.Join(dir, "rootfs/usr/local"),
		"/usr/sbin/runc":             filepath.Join(clusterPackage(t, root, "runc"), "usr/sbin/runc"),
		"/" + libraries:              filepath.Join(clusterPackage(t, root, "libseccomp2"), libraries),
		"/usr/local/bin/lamina-node": node,
		"/etc/lamina-node.yaml":      filepath.Join(root, "deploy/kustomize/base/node.yaml"),
	}
}

// clusterPackage is the directory of a package that the test cluster's nodes have.
func clusterPackage(t *testing.T, root, name string) string {
	t.Helper()
	lock, err := bundle.ReadLock(filepath.Join(root, "test/cluster/packages.lock"))
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := bundle.LockCache(root)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	for _, p := range lock {
		if p.Name == name {
			dir, err := bundle.NewStore(root).Unpack(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			return dir
		}
	}
	t.Fatalf("the test cluster's nodes have no package %s", name)
	return ""
}

// playTalos runs a scenario of test/real/talos, with more files in the guest if need be.
func playTalos(t *testing.T, scenario string, disks []vm.Disk, more map[string]string) {
	t.Helper()
	files := talosFiles(t)
	maps.Copy(files, more)
	m, err := vm.Start(t.Context(), vm.Config{
		Program: build(t, "test/real/talos"),
		Args:    []string{scenario},
		Files:   files,
		Disks:   disks,
		Memory:  2 << 30,
		Timeout: 25 * time.Minute,
		Stdout:  t.Output(),
		Stderr:  t.Output(),
	})
	if err != nil {
		t.Fatal(err)
	}
	pass(t, m)
}

func TestTalosService(t *testing.T) {
	t.Parallel()
	playTalos(t, "service", disks("TAL", 1, 8*gib), nil)
}

func TestTalosSanity(t *testing.T) {
	t.Parallel()
	playTalos(t, "sanity", disks("TAL", 1, 8*gib), map[string]string{
		"/usr/bin/sanity.test": compile(t, "test/sanity", "test", "-c"),
	})
}

// udevFiles are Debian's udevd with device-mapper's rules and LVM's. The packages other
// than udev, dmsetup and lvm2 are its libraries.
func udevFiles(t *testing.T) map[string]string {
	t.Helper()
	root, err := bundle.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{
		"udev", "dmsetup", "lvm2", "libsystemd-shared", "libkmod2", "libacl1", "libaudit1", "libcap-ng0", "libcap2", "libcrypt1",
		"libpam0g", "libmount1", "libselinux1", "libpcre2-8-0", "libssl3t64", "libapparmor1", "libzstd1", "zlib1g",
	} {
		if out, err := exec.Command("cp", "-a", clusterPackage(t, root, name)+"/.", dir).CombinedOutput(); err != nil {
			t.Fatalf("copy %s: %v\n%s", name, err, out)
		}
	}
	return map[string]string{
		"/usr/lib": filepath.Join(dir, "usr/lib"), "/usr/bin/udevadm": filepath.Join(dir, "usr/bin/udevadm"),
		"/usr/sbin/dmsetup": filepath.Join(dir, "usr/sbin/dmsetup"),
	}
}

func TestUdev(t *testing.T) {
	t.Parallel()
	playTalos(t, "udev", disks("TAL", 1, 8*gib), udevFiles(t))
}

func TestTalosBoot(t *testing.T) {
	t.Parallel()
	playTalos(t, "boot", []vm.Disk{
		{Serial: "LUKS1", Size: 2 * gib, Unsafe: true}, {Serial: "OWN1", Size: 2 * gib, Unsafe: true},
	}, nil)
}
