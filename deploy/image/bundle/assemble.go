package bundle

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// source is one file of an unpacked package.
type source struct {
	pkg  Package
	host string
	mode fs.FileMode
}

// sources indexes the files of all packages by path.
type sources map[string]source

func openSources(ctx context.Context, store *Store, pkgs Lock) (sources, error) {
	src := make(sources)
	for _, p := range pkgs {
		dir, err := store.Unpack(ctx, p)
		if err != nil {
			return nil, err
		}
		err = filepath.WalkDir(dir, func(host string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(dir, host)
			if err != nil {
				return err
			}
			src[filepath.ToSlash(rel)] = source{pkg: p, host: host, mode: d.Type()}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list the files of %s: %w", p.Name, err)
		}
	}
	return src, nil
}

// assembler adds files to a tree and notes which packages gave them.
type assembler struct {
	arch Arch
	src  sources
	tree *Tree
	used map[string]bool
}

// assemble makes the tree and returns the names of the packages it drew from.
func assemble(src sources, root string, arch Arch) (*Tree, map[string]bool, error) {
	a := &assembler{arch: arch, src: src, tree: NewTree(), used: make(map[string]bool)}
	for _, d := range emptyDirs {
		a.tree.AddDir(d)
	}
	for p, target := range links {
		a.tree.AddLink(p, target)
	}
	for p, text := range texts {
		a.tree.AddFile(p, 0o644, []byte(text))
	}
	// glibc loads libgcc_s by name when a thread is cancelled (argon2 in cryptsetup).
	for _, p := range append(manifest, arch.LibDir()+"/libgcc_s.so.1") {
		if err := a.add(p, "the manifest"); err != nil {
			return nil, nil, err
		}
	}
	conf := filepath.Join(root, "lvm", "lvm.conf")
	if err := a.tree.AddHostFile("etc/lvm/lvm.conf", conf, 0o644); err != nil {
		return nil, nil, err
	}
	a.recordPackages()
	return a.tree, a.used, nil
}

// add adds one path; a link brings its target, a program its libraries.
func (a *assembler) add(p, wantedBy string) error {
	p = path.Clean(p)
	if _, ok := a.tree.Lookup(p); ok {
		return nil
	}
	s, ok := a.src[p]
	if !ok {
		return fmt.Errorf("no pinned package holds /%s, which %s needs", p, wantedBy)
	}
	a.used[s.pkg.Name] = true
	if s.mode&fs.ModeSymlink != 0 {
		target, err := os.Readlink(s.host)
		if err != nil {
			return err
		}
		a.tree.AddLink(p, target)
		if path.IsAbs(target) {
			return a.add(strings.TrimPrefix(target, "/"), "/"+p)
		}
		return a.add(path.Join(path.Dir(p), target), "/"+p)
	}
	info, err := os.Stat(s.host)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(s.host)
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755 // setuid bits end here
	}
	a.tree.AddFile(p, mode, data)
	if bytes.HasPrefix(data, []byte("#!")) {
		return fmt.Errorf("/%s is a script; the bundle has no interpreter", p)
	}
	if bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
		return a.addNeeded(p, data)
	}
	return nil
}

// addNeeded follows DT_NEEDED and PT_INTERP (ld.so(8)). No program of the
// manifest uses a run path, so the one library directory is enough.
func (a *assembler) addNeeded(p string, data []byte) error {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("read /%s: %w", p, err)
	}
	for _, prog := range f.Progs {
		if prog.Type != elf.PT_INTERP {
			continue
		}
		interp := make([]byte, prog.Filesz)
		if _, err := prog.ReadAt(interp, 0); err != nil {
			return fmt.Errorf("read the interpreter of /%s: %w", p, err)
		}
		name := strings.Trim(string(interp), "/\x00")
		if err := a.add("usr/"+name, "/"+p); err != nil { // /lib64 is a link to usr/lib64
			return err
		}
	}
	libs, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read the libraries of /%s: %w", p, err)
	}
	for _, lib := range libs {
		if err := a.add(path.Join(a.arch.LibDir(), lib), "/"+p); err != nil {
			return err
		}
	}
	return nil
}

// recordPackages writes what vulnerability scanners read in images without
// dpkg: one file a package below status.d.
func (a *assembler) recordPackages() {
	for _, s := range a.src {
		if !a.used[s.pkg.Name] {
			continue
		}
		text := fmt.Sprintf("Package: %s\nStatus: install ok installed\nArchitecture: %s\nVersion: %s\n",
			s.pkg.Name, a.arch, s.pkg.Version)
		a.tree.AddFile("var/lib/dpkg/status.d/"+s.pkg.Name, 0o644, []byte(text))
	}
}
