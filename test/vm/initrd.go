package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
	"github.com/lamina-csi/lamina/test/vm/wire"
)

// programDir is where programs and files of a run lie in the guest.
const programDir = "vm/bin"

// lvmDir holds the bundle's lvm.conf with udev switched off: no udevd runs in
// the guest, and LVM would leave the device links to it.
const (
	lvmDir    = "vm/lvm"
	noUdevLVM = "\nactivation {\n\tudev_sync = 0\n\tudev_rules = 0\n}\n"
)

// writeInitrd writes the initramfs of one run: the bundle's tree, the kernel's
// modules, init, and the program with its files.
func writeInitrd(ctx context.Context, w io.Writer, root string, k kernel, cfg Config) error {
	tree, err := bundle.Build(ctx, bundle.Options{Root: root})
	if err != nil {
		return err
	}
	if err := writeCPIO(w, tree); err != nil {
		return err
	}
	if err := writeConsole(w); err != nil {
		return err
	}
	modules, err := os.Open(k.modules)
	if err != nil {
		return err
	}
	defer modules.Close()
	if _, err := io.Copy(w, modules); err != nil {
		return err
	}
	run, err := runTree(ctx, root, cfg)
	if err != nil {
		return err
	}
	conf, _ := tree.Lookup("etc/lvm/lvm.conf")
	run.AddFile(lvmDir+"/lvm.conf", 0o644, append(slices.Clone(conf.Data), noUdevLVM...))
	return writeCPIO(w, run)
}

// runTree holds what differs between runs.
func runTree(ctx context.Context, root string, cfg Config) (*bundle.Tree, error) {
	t := bundle.NewTree()
	init, err := buildGuest(ctx, root)
	if err != nil {
		return nil, err
	}
	t.AddFile("init", 0o755, init)
	w := wire.Config{
		Program: cfg.Program,
		Args:    cfg.Args,
		Dir:     cfg.Dir,
		Env: append([]string{
			"PATH=/usr/local/bin:/usr/sbin:/usr/bin", "HOME=/root", "TMPDIR=/tmp", "LVM_SYSTEM_DIR=/" + lvmDir,
		}, cfg.Env...),
		Modules: slices.Concat(DefaultModules, cfg.Modules),
		Stdin:   cfg.Stdin != nil,
		Root:    cfg.Root,
	}
	if cfg.Root != "" { // the host has its own
		w.Modules, w.Env = cfg.Modules, cfg.Env
	}
	for guest := range cfg.Outputs {
		w.Outputs = append(w.Outputs, guest)
	}
	if slices.ContainsFunc(cfg.Disks, func(d Disk) bool { return d.WriteLog != "" }) {
		w.Modules = append(w.Modules, "virtio_blk")
	}
	for _, d := range cfg.Disks {
		if !d.Out {
			w.Disks = append(w.Disks, wire.Disk{Serial: d.Serial, ReadOnly: d.ReadOnly})
		}
	}
	if strings.Contains(cfg.Program, "/") {
		p := path.Join(programDir, filepath.Base(cfg.Program))
		if err := t.AddHostFile(p, cfg.Program, 0o755); err != nil {
			return nil, err
		}
		w.Program = "/" + p
	}
	for guest, host := range cfg.Files {
		if err := addHost(t, guest, host); err != nil {
			return nil, err
		}
	}
	data, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	t.AddFile(wire.ConfigPath, 0o644, data)
	return t, nil
}

// addHost adds a host file, with its execute bit, or a directory with all that
// it holds, links as links.
func addHost(t *bundle.Tree, guest, host string) error {
	guest = strings.TrimPrefix(path.Clean(guest), "/")
	if guest == "" || guest == "." || strings.HasPrefix(guest, "..") {
		return errors.New("a file for the guest needs an absolute path")
	}
	return filepath.WalkDir(host, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(host, p)
		if err != nil {
			return err
		}
		to := path.Join(guest, filepath.ToSlash(rel))
		if d.IsDir() {
			t.AddDir(to)
			return nil
		}
		if d.Type()&fs.ModeSymlink != 0 && p != host {
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			t.AddLink(to, target)
			return nil
		}
		info, err := os.Stat(p)
		if err != nil {
			return err
		}
		return t.AddHostFile(to, p, info.Mode().Perm())
	})
}

// buildGuest compiles init and returns it. The go command's cache makes repeats
// cheap.
func buildGuest(ctx context.Context, root string) ([]byte, error) {
	unlock, err := bundle.LockCache(root)
	if err != nil {
		return nil, err
	}
	defer unlock() // after reading: another run may replace the file
	out := filepath.Join(bundle.CacheDir(root), "vm", "init")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "./test/vm/guest")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the guest's init: %w: %s", err, msg)
	}
	return os.ReadFile(out)
}
