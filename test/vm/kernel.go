package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
	"github.com/lamina-csi/lamina/test/vm/wire"
)

// moduleDirs and moduleNames are what the guest can load, with all that those
// modules depend on. Its kernel has nvme, ext4 and virtio's bus built in.
var (
	moduleDirs  = []string{"drivers/md", "crypto", "arch/x86/crypto", "fs/xfs", "fs/btrfs", "fs/overlayfs"}
	moduleNames = []string{"loop", "null_blk", "scsi_debug", "virtio_blk"}
)

// kernel is a bootable image and an initramfs with its modules.
type kernel struct {
	image   string // host path
	modules string // host path of a cpio archive
	files   string // host directory of the unpacked package
}

// openKernel unpacks the pinned kernel and prepares its modules in the cache.
func openKernel(ctx context.Context, root string) (kernel, error) {
	lock, err := bundle.ReadLock(bundle.LockPath(root, bundle.AMD64))
	if err != nil {
		return kernel{}, err
	}
	set := lock.Set(bundle.SetKernel)
	if len(set) != 1 {
		return kernel{}, fmt.Errorf("the package lock pins %d kernels, want 1", len(set))
	}
	unlock, err := bundle.LockCache(root)
	if err != nil {
		return kernel{}, err
	}
	defer unlock()
	dir, err := bundle.NewStore(root).Unpack(ctx, set[0])
	if err != nil {
		return kernel{}, err
	}
	images, err := filepath.Glob(filepath.Join(dir, "boot", "vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return kernel{}, fmt.Errorf("%s holds %d kernel images, want 1", set[0].Name, len(images))
	}
	key := sha256.Sum256(fmt.Append(nil, set[0].SHA256, moduleDirs, moduleNames))
	k := kernel{
		image:   filepath.Join(bundle.CacheDir(root), "vm", "vmlinux-"+set[0].SHA256[:16]),
		modules: filepath.Join(bundle.CacheDir(root), "vm", fmt.Sprintf("modules-%x.cpio", key[:8])),
		files:   dir,
	}
	if _, err := os.Stat(k.image); errors.Is(err, fs.ErrNotExist) {
		if err := unpackKernel(k.image, images[0]); err != nil {
			return kernel{}, err
		}
	}
	if _, err := os.Stat(k.modules); err == nil {
		return k, nil
	}
	tree, err := moduleTree(ctx, dir)
	if err != nil {
		return kernel{}, err
	}
	return k, writeFile(k.modules, func(f *os.File) error { return writeCPIO(f, tree) })
}

// unpackKernel takes the ELF image out of a bzImage: the guest need not unpack
// it under emulation, and QEMU starts it by its PVH entry. The header's fields
// are those of the kernel's Documentation/arch/x86/boot.rst.
func unpackKernel(to, bzImage string) error {
	data, err := os.ReadFile(bzImage)
	if err != nil {
		return err
	}
	if len(data) < 0x250 || string(data[0x202:0x206]) != "HdrS" {
		return fmt.Errorf("%s is no bzImage", bzImage)
	}
	setup := (uint64(data[0x1f1]) + 1) * 512
	start := setup + uint64(binary.LittleEndian.Uint32(data[0x248:]))
	end := start + uint64(binary.LittleEndian.Uint32(data[0x24c:]))
	if end > uint64(len(data)) || end < start+4 {
		return fmt.Errorf("%s ends before its payload does", bzImage)
	}
	r, err := zstd.NewReader(bytes.NewReader(data[start : end-4])) // the last 4 bytes are the unpacked size
	if err != nil {
		return fmt.Errorf("unpack %s: %w", bzImage, err)
	}
	defer r.Close()
	return writeFile(to, func(f *os.File) error {
		_, err := io.Copy(f, r)
		return err
	})
}

// writeFile makes a file that appears complete or not at all.
func writeFile(name string, write func(*os.File) error) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.Create(name + ".part")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := write(f); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return os.Rename(f.Name(), name)
}

// moduleSet collects modules and their dependencies. Debian's package has no
// modules.dep (depmod makes it at installation), so .modinfo is read here.
type moduleSet struct {
	files map[string]string // name to the path of the .ko.xz
	tree  *bundle.Tree
	index wire.Modules
}

func moduleTree(ctx context.Context, dir string) (*bundle.Tree, error) {
	s := &moduleSet{
		files: make(map[string]string),
		tree:  bundle.NewTree(),
		index: wire.Modules{Deps: make(map[string][]string)},
	}
	roots, err := filepath.Glob(filepath.Join(dir, "usr/lib/modules/*/kernel"))
	if err != nil || len(roots) != 1 {
		return nil, fmt.Errorf("the kernel package holds %d module trees, want 1", len(roots))
	}
	wanted := append([]string(nil), moduleNames...)
	err = filepath.WalkDir(roots[0], func(p string, d fs.DirEntry, err error) error {
		base, ok := strings.CutSuffix(filepath.Base(p), ".ko.xz")
		if err != nil || !ok {
			return err
		}
		name := moduleName(base)
		s.files[name] = p
		for _, want := range moduleDirs {
			if strings.HasPrefix(p, filepath.Join(roots[0], want)+"/") {
				wanted = append(wanted, name)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the kernel's modules: %w", err)
	}
	for _, name := range wanted {
		if err := s.add(ctx, name); err != nil {
			return nil, err
		}
	}
	data, err := json.Marshal(s.index)
	if err != nil {
		return nil, err
	}
	s.tree.AddFile(wire.ModulesPath, 0o644, data)
	return s.tree, nil
}

// moduleName gives the one spelling of a name: "-" and "_" mean the same.
func moduleName(s string) string { return strings.ReplaceAll(s, "-", "_") }

func (s *moduleSet) add(ctx context.Context, name string) error {
	if _, ok := s.index.Deps[name]; ok {
		return nil
	}
	file, ok := s.files[name]
	if !ok {
		return fmt.Errorf("the kernel package has no module %s", name)
	}
	data, err := exec.CommandContext(ctx, "xz", "-dc", "--", file).Output()
	if err != nil {
		return fmt.Errorf("unpack kernel module %s: %w", name, err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("read kernel module %s: %w", name, err)
	}
	info, err := f.Section(".modinfo").Data()
	if err != nil {
		return fmt.Errorf("read kernel module %s: %w", name, err)
	}
	deps := []string{}
	s.index.Deps[name] = deps
	for field := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(field, "=")
		switch {
		case key == "alias":
			s.index.Aliases = append(s.index.Aliases, wire.Alias{Pattern: value, Module: name})
		case key == "depends" && value != "":
			for dep := range strings.SplitSeq(value, ",") {
				dep = moduleName(dep)
				if err := s.add(ctx, dep); err != nil {
					return fmt.Errorf("%s needs: %w", name, err)
				}
				deps = append(append(deps, s.index.Deps[dep]...), dep)
			}
		}
	}
	s.index.Deps[name] = deps
	s.tree.AddFile(wire.ModulesDir+"/"+name+".ko", 0o644, data)
	return nil
}
