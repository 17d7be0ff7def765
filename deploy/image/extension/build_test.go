//go:build vm

package extension

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
)

// These tests need the pinned packages, from the cache or the mirror, and the host
// programs of HostPackages.

func build(t *testing.T, arch bundle.Arch) *bundle.Tree {
	t.Helper()
	root, err := bundle.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(agent, []byte("stands for the agent, which is static"), 0o755); err != nil {
		t.Fatal(err)
	}
	tree, err := bundle.Build(t.Context(), bundle.Options{Root: root, Agent: agent, Arch: arch})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func sysext(t *testing.T, arch bundle.Arch) *bundle.Tree {
	t.Helper()
	tree, err := Sysext(t.Context(), build(t, arch), release1(arch))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// The programs run on a host whose own C library and loader are unusable, and which
// has a cache of libraries that leads to them.
func TestProgramsRunOnAForeignRoot(t *testing.T) {
	host := filepath.Join(t.TempDir(), "host")
	if err := sysext(t, bundle.AMD64).WriteDir(host); err != nil {
		t.Fatal(err)
	}
	for _, lib := range []string{"libc.so.6", "libm.so.6", "libblkid.so.1", "libdevmapper.so.1.02.1", "libudev.so.1", "ld-linux-x86-64.so.2"} {
		for _, dir := range []string{"lib64", "lib/x86_64-linux-gnu", "usr/lib", "usr/lib64", "usr/lib/x86_64-linux-gnu"} {
			write(t, filepath.Join(host, dir, lib), "no library")
		}
	}
	cache, err := os.ReadFile("/etc/ld.so.cache")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(host, "etc/ld.so.cache"), string(cache))
	write(t, filepath.Join(host, "etc/lamina/lvm.conf"), "global {\n\tthin_check_executable = \"/"+SysextRoot+"/usr/sbin/thin_check\"\n}\n")
	write(t, filepath.Join(host, "dev/null"), "")
	for command, want := range map[string]string{
		"sbin/lvm version": "LVM version",
		"sbin/lvm lvmconfig global/thin_check_executable": "/" + SysextRoot + "/usr/sbin/thin_check",
		"sbin/thin_check -V":                              "1.",
		"sbin/thin_dump -V":                               "1.",
		"sbin/mkfs.ext4 -V":                               "mke2fs 1.4",
		"sbin/e2fsck -V":                                  "e2fsck 1.4",
		"sbin/resize2fs -h":                               "Usage",
		"sbin/tune2fs -h":                                 "Usage",
		"sbin/mkfs.xfs -V":                                "mkfs.xfs version",
		"sbin/xfs_db -V":                                  "xfs_db version",
		"sbin/mkfs.btrfs --version":                       "btrfs-progs",
		"bin/btrfs version":                               "btrfs-progs",
		"bin/btrfstune --help":                            "usage",
		"sbin/blkid -V":                                   "libblkid",
		"sbin/blkdiscard --version":                       "util-linux",
		"sbin/cryptsetup --version":                       "cryptsetup 2",
		"bin/mount --version":                             "libmount",
		"bin/umount --version":                            "libmount",
		"bin/lsblk --version":                             "util-linux",
		"sbin/dmsetup --help":                             "Usage",
		"sbin/fsck --version":                             "util-linux",
	} {
		f := strings.Fields(command)
		cmd := exec.CommandContext(t.Context(), "/"+SysextRoot+"/usr/"+f[0], f[1:]...)
		cmd.Dir, cmd.Env = "/", []string{"LC_ALL=C", "LVM_SYSTEM_DIR=/etc/lamina", "LVM_SUPPRESS_FD_WARNINGS=1"}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Chroot: host, Cloneflags: syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		if !strings.Contains(string(out), want) {
			t.Errorf("%s: %v, %q, want %q", command, err, out, want)
		}
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Everything is of one architecture, and finds its loader and libraries in the tree.
// For arm64 this is all that is tested: nothing runs.
func TestLibrariesAreInTheTree(t *testing.T) {
	for arch, machine := range map[bundle.Arch]elf.Machine{bundle.AMD64: elf.EM_X86_64, bundle.ARM64: elf.EM_AARCH64} {
		tree := sysext(t, arch)
		programs := 0
		for _, e := range tree.Entries() {
			f, err := elf.NewFile(bytes.NewReader(e.Data))
			if err != nil {
				continue
			}
			if f.Machine != machine {
				t.Errorf("%s: /%s is for %s", arch, e.Path, f.Machine)
			}
			libs, err := f.ImportedLibraries()
			if err != nil {
				t.Fatal(err)
			}
			for _, lib := range libs {
				if _, ok := tree.Lookup(SysextRoot + "/" + arch.LibDir() + "/" + lib); !ok {
					t.Errorf("%s: /%s needs %s, which is not there", arch, e.Path, lib)
				}
			}
			if !isProgram(e, bundle.Arch(arch)) || strings.HasPrefix(e.Path, SysextRoot+"/"+arch.LibDir()) {
				continue
			}
			programs++
			if got, want := interpreter(t, f), "/"+SysextRoot+"/"+arch.Loader(); got != want {
				t.Errorf("%s: /%s is loaded by %s, want %s", arch, e.Path, got, want)
			}
			if _, ok := tree.Lookup(interpreter(t, f)[1:]); !ok {
				t.Errorf("%s: the loader of /%s is not there", arch, e.Path)
			}
			path, err := f.DynString(elf.DT_RPATH)
			if err != nil || len(path) != 1 || path[0] != "/"+SysextRoot+"/"+arch.LibDir() {
				t.Errorf("%s: /%s finds libraries in %q, %v", arch, e.Path, path, err)
			}
		}
		if programs < 25 {
			t.Errorf("%s: only %d programs", arch, programs)
		}
	}
}

func interpreter(t *testing.T, f *elf.File) string {
	t.Helper()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		text := make([]byte, p.Filesz)
		if _, err := p.ReadAt(text, 0); err != nil {
			t.Fatal(err)
		}
		return strings.TrimRight(string(text), "\x00")
	}
	return ""
}

func TestTwoBuildsAreIdentical(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"1", "2"} {
		tree := build(t, bundle.AMD64)
		talos, err := Talos(tree, release1(bundle.AMD64))
		if err != nil {
			t.Fatal(err)
		}
		img := TalosImage(talos, release1(bundle.AMD64))
		if _, err := img.WriteOCI(filepath.Join(dir, n, "oci.tar")); err != nil {
			t.Fatal(err)
		}
		if err := img.WriteDocker(filepath.Join(dir, n, "docker.tar")); err != nil {
			t.Fatal(err)
		}
		moved, err := Sysext(t.Context(), tree, release1(bundle.AMD64))
		if err != nil {
			t.Fatal(err)
		}
		for _, format := range []Format{Squashfs, Erofs} {
			if err := WriteImage(t.Context(), moved, format, filepath.Join(dir, n, string(format))); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"oci.tar", "docker.tar", "squashfs", "erofs"} {
		one, err := os.ReadFile(filepath.Join(dir, "1", name))
		if err != nil {
			t.Fatal(err)
		}
		two, err := os.ReadFile(filepath.Join(dir, "2", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one, two) {
			t.Errorf("two builds of %s differ", name)
		}
	}
}
