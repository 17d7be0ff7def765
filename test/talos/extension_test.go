package talos

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// bundles is where `make extension` puts what it builds.
const bundles = "../../.cache/bundle"

var arches = []string{"amd64", "arm64"}

// What is built passes, on each Talos that it says it is for and on no older one.
func TestExtension(t *testing.T) {
	for _, arch := range arches {
		dir := filepath.Join(bundles, arch, "talos")
		for _, version := range []string{"v1.13.9", "v1.13.11", "v1.14.0-rc.1", "v1.14.0"} {
			if err := judge(dir, version); err != nil {
				t.Errorf("%s on Talos %s: %v", arch, version, err)
			}
		}
		err := judge(dir, "v1.13.8")
		if err == nil || !strings.Contains(err.Error(), "can't be satisfied") {
			t.Errorf("%s on Talos v1.13.8: %v; its services have another IPC namespace than udevd", arch, err)
		}
	}
}

// maxSize bounds what a node downloads with each upgrade of Talos.
const maxSize = 32 << 20

func TestSize(t *testing.T) {
	for _, arch := range arches {
		for _, name := range []string{"lamina-node-talos.tar", "lamina-node-talos.oci.tar", "squashfs/lamina-node.raw", "erofs/lamina-node.raw"} {
			info, err := os.Stat(filepath.Join(bundles, arch, name))
			if err != nil {
				t.Errorf("%v: make extension", err)
				continue
			}
			t.Logf("%s %s: %.1f MiB", arch, name, float64(info.Size())/(1<<20))
			if info.Size() >= maxSize {
				t.Errorf("%s %s has %d bytes, %d are the bound", arch, name, info.Size(), maxSize)
			}
		}
	}
}

const (
	containers = "rootfs/usr/local/etc/containers/"
	root       = "rootfs/usr/local/lib/containers/lamina-node/"
	service    = containers + "lamina-node.yaml"
)

// small writes an extension with our own manifest and service, and little else.
func small(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"manifest.yaml", service} {
		text, err := os.ReadFile(filepath.Join(bundles, "amd64/talos", name))
		if err != nil {
			t.Fatalf("%v: make extension", err)
		}
		put(t, dir, name, 0o644, string(text))
	}
	put(t, dir, root+"usr/local/bin/lamina-node", 0o755, "agent")
	link(t, dir, root+"sbin", "usr/local/bin")
	return dir
}

func put(t *testing.T, dir, name string, mode os.FileMode, text string) {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, mode); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, dir, name, target string) {
	t.Helper()
	if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// edit replaces text that must be there.
func edit(t *testing.T, dir, name, from, to string) {
	t.Helper()
	file := filepath.Join(dir, name)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), from) {
		t.Fatalf("%s does not hold %q", name, from)
	}
	put(t, dir, name, 0o644, strings.Replace(string(text), from, to, 1))
}

func TestSmallExtensionIsGood(t *testing.T) {
	if err := judge(small(t), "v1.13.9"); err != nil {
		t.Error(err)
	}
}

// Each broken extension fails, and for its own reason.
func TestBrokenExtensions(t *testing.T) {
	for name, tc := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   string
	}{
		"README at the root": {func(t *testing.T, dir string) { put(t, dir, "README.md", 0o644, "") }, `unexpected file "README.md"`},
		"no manifest":        {func(t *testing.T, dir string) { remove(t, dir, "manifest.yaml") }, "manifest is missing"},
		"no rootfs":          {func(t *testing.T, dir string) { remove(t, dir, "rootfs") }, "rootfs is missing"},
		"manifest version":   {func(t *testing.T, dir string) { edit(t, dir, "manifest.yaml", "v1alpha1", "v1") }, `unsupported manifest version: "v1"`},
		"unknown key":        {func(t *testing.T, dir string) { edit(t, dir, "manifest.yaml", "  author:", "  owner:") }, "field owner not found"},
		"version":            {func(t *testing.T, dir string) { setVersion(t, dir, "1.0+git") }, "cannot be the value of a node label"},
		"newer Talos":        {func(t *testing.T, dir string) { edit(t, dir, "manifest.yaml", "v1.13.9", "v1.14.0") }, "can't be satisfied with Talos version 1.13.9"},
		"bad constraint":     {func(t *testing.T, dir string) { edit(t, dir, "manifest.yaml", ">= v1.13.9", "newish") }, "error parsing Talos version constraint"},

		"/etc":             {func(t *testing.T, dir string) { put(t, dir, "rootfs/etc/x", 0o644, "") }, `path "/etc/x" is not allowed`},
		"/usr/sbin":        {func(t *testing.T, dir string) { put(t, dir, "rootfs/usr/sbin/thin_check", 0o755, "") }, `path "/usr/sbin/thin_check" is not allowed`},
		"udev rule":        {func(t *testing.T, dir string) { put(t, dir, "rootfs/usr/lib/udev/rules.d/1.rules", 0o644, "") }, "is outside of /usr/local"},
		"empty /lib64":     {func(t *testing.T, dir string) { mkdir(t, dir, "rootfs/lib64") }, "/lib64 is outside of /usr/local"},
		"pipe":             {func(t *testing.T, dir string) { pipe(t, dir, root+"pipe") }, "special files are not allowed"},
		"world-writable":   {func(t *testing.T, dir string) { put(t, dir, root+"x", 0o777, "") }, "may be written by others"},
		"setuid":           {func(t *testing.T, dir string) { put(t, dir, root+"x", 0o755|os.ModeSetuid, "") }, "is setuid"},
		"absolute link":    {func(t *testing.T, dir string) { link(t, dir, root+"x", "/etc") }, "leads out of its tree, to /etc"},
		"link that leaves": {func(t *testing.T, dir string) { link(t, dir, root+"x", "../../etc") }, "leads out of its tree"},

		"no service":     {func(t *testing.T, dir string) { remove(t, dir, service) }, "its services are []"},
		"second service": {func(t *testing.T, dir string) { put(t, dir, containers+"b.yaml", 0o644, "") }, "b.yaml"},
		"service name":   {func(t *testing.T, dir string) { edit(t, dir, service, "name: lamina-node", "name: Lamina.Node") }, `name "Lamina.Node" is invalid`},
		"other name":     {func(t *testing.T, dir string) { edit(t, dir, service, "name: lamina-node", "name: lamina") }, "is not named as its extension"},
		"unknown field":  {func(t *testing.T, dir string) { edit(t, dir, service, "restart:", "bogus: 1\nrestart:") }, "field bogus not found"},
		"empty restart":  {func(t *testing.T, dir string) { edit(t, dir, service, "restart: always", "") }, "restart kind is invalid"},
		"never":          {func(t *testing.T, dir string) { edit(t, dir, service, "restart: always", "restart: never") }, "it is not restarted"},
		"no entry point": {func(t *testing.T, dir string) {
			edit(t, dir, service, "entrypoint: ./usr/local/bin/lamina-node", "entrypoint: ''")
		}, "endpoint can't be empty"},
		"missing program": {func(t *testing.T, dir string) { edit(t, dir, service, "bin/lamina-node", "bin/other") }, "cannot be run"},
		"private mounts": {func(t *testing.T, dir string) {
			edit(t, dir, service, "rootfsPropagation: shared", "rootfsPropagation: private")
		}, "no mount reaches kubelet"},
		"slave mounts": {func(t *testing.T, dir string) {
			edit(t, dir, service, "/var/lib/kubelet, type: bind, options: [rbind, rshared", "/var/lib/kubelet, type: bind, options: [rbind, rslave")
		}, "/var/lib/kubelet is mounted as"},
		"kubelet":       {func(t *testing.T, dir string) { edit(t, dir, service, "service: udevd", "service: kubelet") }, "it depends on kubelet"},
		"configuration": {func(t *testing.T, dir string) { edit(t, dir, service, "- service: udevd", "- configuration: true") }, "it depends on a configuration"},
		"no module": {func(t *testing.T, dir string) {
			edit(t, dir, service, "/sys/module/dm_thin_pool", "/sys/module/dm_mod")
		}, "does not wait for /sys/module/dm_thin_pool"},
		"relative path": {func(t *testing.T, dir string) { edit(t, dir, service, "/dev/mapper/control", "dev/mapper/control") }, "path is not absolute"},
		"two in one": {func(t *testing.T, dir string) {
			edit(t, dir, service, "- service: cri", "- service: cri\n    time: true")
		}, "more than a single dependency"},
		"unknown network": {func(t *testing.T, dir string) { edit(t, dir, service, "[hostname]", "[internet]") }, "internet"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := small(t)
			tc.damage(t, dir)
			if err := judge(dir, "v1.13.9"); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("judge() = %v, want %q", err, tc.want)
			}
		})
	}
}

func setVersion(t *testing.T, dir, version string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "manifest.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "\n  version: ")
	old, _, _ := strings.Cut(rest, "\n")
	edit(t, dir, "manifest.yaml", "\n  version: "+old, "\n  version: "+version)
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
		t.Fatal(err)
	}
}

func pipe(t *testing.T, dir, name string) {
	t.Helper()
	if err := syscall.Mkfifo(filepath.Join(dir, name), 0o644); err != nil {
		t.Fatal(err)
	}
}
