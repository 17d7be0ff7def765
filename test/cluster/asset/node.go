package asset

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
	"github.com/lamina-csi/lamina/test/vm"
)

// layout is part of the images' keys: change it with the code that makes them.
const layout = "2"

// rootSize is the size of a node's root in bytes; the file is sparse.
const rootSize = 4 << 30

// nodeAssets are host paths.
type nodeAssets struct{ kernel, initrd, root, busybox string }

// nodePrograms are put into /usr/local/bin from the programs built here.
var nodePrograms = []string{"containerd", "containerd-shim-runc-v2", "ctr", "kubelet", "kube-proxy"}

func (b *builder) node(ctx context.Context, bin string) (nodeAssets, error) {
	var n nodeAssets
	image, files, err := vm.OpenKernel(ctx, b.root)
	if err != nil {
		return n, err
	}
	n.kernel = image
	init, err := b.ours(ctx, "guest")
	if err != nil {
		return n, err
	}
	dirs, err := b.unpack(ctx)
	if err != nil {
		return n, err
	}
	for _, d := range dirs {
		if f := filepath.Join(d, "usr/bin/busybox"); exists(f) {
			n.busybox = f
		}
	}
	key, err := (&digest{}).text(layout, image).file(init).key()
	if err != nil {
		return n, err
	}
	if n.initrd, err = b.cached("initrd", key, func(tmp string) error { return writeInitrd(ctx, tmp, init, files) }); err != nil {
		return n, err
	}
	d := (&digest{}).text(layout, filepath.Base(bin), image).file(init, lockPath(b.root))
	for _, name := range rootFileNames() {
		d.text(name, rootFiles[name])
	}
	if key, err = d.key(); err != nil {
		return n, err
	}
	n.root, err = b.cached("root", key, func(tmp string) error {
		return b.buildRoot(ctx, tmp, rootParts{packages: dirs, kernel: files, init: init, bin: bin})
	})
	return n, err
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// writeInitrd makes the initramfs: init and the driver of the root's disk.
func writeInitrd(ctx context.Context, to, init, kernel string) error {
	drivers, err := filepath.Glob(filepath.Join(kernel, "usr/lib/modules/*/kernel/drivers/block/virtio_blk.ko.xz"))
	if err != nil || len(drivers) != 1 {
		return fmt.Errorf("the kernel package holds %d virtio_blk modules, want 1", len(drivers))
	}
	driver, err := exec.CommandContext(ctx, "xz", "-dc", "--", drivers[0]).Output()
	if err != nil {
		return fmt.Errorf("unpack virtio_blk: %w", err)
	}
	tree := bundle.NewTree()
	for _, d := range []string{"proc", "newroot"} {
		tree.AddDir(d)
	}
	tree.AddFile("virtio_blk.ko", 0o644, driver)
	if err := tree.AddHostFile("init", init, 0o755); err != nil {
		return err
	}
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := vm.WriteInitramfs(f, tree); err != nil {
		return err
	}
	return f.Close()
}

// rootParts are the host paths of what a root is made of.
type rootParts struct {
	packages     []string
	kernel, init string
	bin          string
}

// notNeeded are paths that packages bring and nobody reads here.
var notNeeded = []string{
	"usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/bash-completion",
	"usr/lib/udev/hwdb.d",
}

// autoactivation activates every volume group through systemd, which nodes do not run.
const autoactivation = "usr/lib/udev/rules.d/69-lvm.rules"

func (b *builder) buildRoot(ctx context.Context, to string, p rootParts) error {
	stage := to + ".stage"
	defer os.RemoveAll(stage)
	if err := stageRoot(ctx, stage, p); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(stage, autoactivation)); err != nil {
		return err
	}
	for _, name := range nodePrograms {
		if err := copyFile(filepath.Join(stage, "usr/local/bin", name), filepath.Join(p.bin, name), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(filepath.Join(stage, "usr/sbin/node-init"), p.init, 0o755); err != nil {
		return err
	}
	// The kernel opens it before init can mount /dev.
	if err := unix.Mknod(filepath.Join(stage, "dev/console"), unix.S_IFCHR|0o600, int(unix.Mkdev(5, 1))); err != nil {
		return err
	}
	return makeExt4(ctx, to, stage, rootSize)
}

// stageRoot lays out what all roots have: the packages and the kernel's modules.
func stageRoot(ctx context.Context, stage string, p rootParts) error {
	if err := os.RemoveAll(stage); err != nil {
		return err
	}
	if err := layOut(stage); err != nil {
		return err
	}
	for _, dir := range p.packages {
		if err := run(ctx, "", nil, "cp", "-a", "--", dir+"/.", stage); err != nil {
			return err
		}
	}
	for _, path := range notNeeded {
		if err := os.RemoveAll(filepath.Join(stage, path)); err != nil {
			return err
		}
	}
	if err := addModules(ctx, stage, p.kernel); err != nil {
		return err
	}
	return linkApplets(ctx, stage)
}

// layOut makes the directories, the links of a merged /usr, and our own files.
func layOut(stage string) error {
	for _, d := range []string{
		"dev", "proc", "sys", "run", "tmp", "root", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "var/log",
		"var/lib/containerd", "var/lib/kubelet", "etc/cni/net.d", "opt/cni/bin", "mnt", "home",
	} {
		if err := os.MkdirAll(filepath.Join(stage, d), 0o755); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64",
		"var/run": "../run", "var/lock": "../run/lock", "etc/mtab": "../proc/self/mounts",
		// udev would give bridges and pods' interfaces new addresses.
		"etc/systemd/network/99-default.link": "/dev/null",
	} {
		name = filepath.Join(stage, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(target, name); err != nil {
			return err
		}
	}
	for name, text := range rootFiles {
		name = filepath.Join(stage, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// addModules copies the kernel's modules, unpacked: emulation makes xz slow.
func addModules(ctx context.Context, stage, kernel string) error {
	roots, err := filepath.Glob(filepath.Join(kernel, "usr/lib/modules/*"))
	if err != nil || len(roots) != 1 {
		return fmt.Errorf("the kernel package holds %d module trees, want 1", len(roots))
	}
	release := filepath.Base(roots[0])
	dest := filepath.Join(stage, "usr/lib/modules", release)
	if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
		return err
	}
	if err := run(ctx, "", nil, "cp", "-a", "--", roots[0], dest); err != nil {
		return err
	}
	args := []string{"xz", "--decompress", "--"}
	err = filepath.WalkDir(dest, func(p string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(p, ".ko.xz") {
			args = append(args, p)
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := run(ctx, "", nil, args...); err != nil {
		return err
	}
	return runAsRoot(ctx, stage, "/usr/sbin/depmod", release)
}

// linkApplets gives busybox's names to what no other package has.
func linkApplets(ctx context.Context, stage string) error {
	names, err := applets(ctx, filepath.Join(stage, "usr/bin/busybox"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if exists(filepath.Join(stage, "usr/bin", name)) || exists(filepath.Join(stage, "usr/sbin", name)) {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(stage, "usr/bin", name)); err != nil {
			return err
		}
	}
	return nil
}

func applets(ctx context.Context, busybox string) ([]string, error) {
	out, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("list busybox's programs: %w", err)
	}
	var names []string
	for name := range bytes.FieldsSeq(out) {
		if string(name) != "busybox" {
			names = append(names, string(name))
		}
	}
	return names, nil
}

// makeExt4 makes a sparse image with the content of a directory. options are mke2fs'.
func makeExt4(ctx context.Context, image, dir string, size int64, options ...string) error {
	f, err := os.Create(image)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return err
	}
	args := append([]string{"mke2fs", "-q", "-t", "ext4", "-F", "-m", "0",
		"-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", "-d", dir}, options...)
	if os.Getuid() != 0 {
		return runAsRoot(ctx, "/", append(args, image)...)
	}
	return run(ctx, "", nil, append(args, image)...)
}
