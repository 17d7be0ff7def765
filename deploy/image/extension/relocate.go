package extension

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
)

// relocate returns the parts of the bundle that programs need on a foreign root.
// Each program there names its own loader and library directory by absolute path,
// so that it runs with the bundle's C library whatever the host has, without a
// chroot, an environment or a wrapper (docs/decisions/sysext-userland.md).
func relocate(ctx context.Context, b *bundle.Tree, arch bundle.Arch) (*bundle.Tree, error) {
	dir, err := os.MkdirTemp("", "relocate-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := bundle.NewTree()
	for _, e := range b.Entries() {
		switch {
		case e.Path != "usr" && !strings.HasPrefix(e.Path, "usr/") && e.Path != "etc/mke2fs.conf":
			continue // the host has its own
		case isProgram(e, arch):
			if e.Data, err = patch(ctx, filepath.Join(dir, path.Base(e.Path)), e.Data, arch); err != nil {
				return nil, fmt.Errorf("relocate /%s: %w", e.Path, err)
			}
		}
		out.Add(e)
	}
	return out, nil
}

// isProgram is true for a program with a loader. Some libraries have one too.
func isProgram(e bundle.Entry, arch bundle.Arch) bool {
	if strings.HasPrefix(e.Path, arch.LibDir()+"/") {
		return false
	}
	f, err := elf.NewFile(bytes.NewReader(e.Data))
	if err != nil {
		return false
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return true
		}
	}
	return false
}

// patch sets the loader and an RPATH. Unlike a RUNPATH that holds for the libraries
// of libraries too, and it comes before /etc/ld.so.cache (ld.so(8)).
func patch(ctx context.Context, file string, program []byte, arch bundle.Arch) ([]byte, error) {
	if err := os.WriteFile(file, program, 0o755); err != nil {
		return nil, err
	}
	err := run(ctx, "patchelf", "--set-interpreter", "/"+SysextRoot+"/"+arch.Loader(),
		"--force-rpath", "--set-rpath", "/"+SysextRoot+"/"+arch.LibDir(), file)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}
