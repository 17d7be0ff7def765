package bundle

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// kernelMeta is the package that depends on the newest kernel image.
const kernelMeta = "linux-image-cloud-amd64"

var (
	instLine    = regexp.MustCompile(`(?m)^Inst (\S+) \((\S+) `)
	kernelImage = regexp.MustCompile(`^linux-image-[0-9]`)
)

// Resolve asks the mirror, through apt and with signatures checked, for the
// newest packages, builds the tree once, and returns a lock of those packages
// that gave it a file, and for AMD64 the kernel of the test machine.
func Resolve(ctx context.Context, root string, arch Arch) (Lock, error) {
	unlock, err := LockCache(root)
	if err != nil {
		return nil, err
	}
	defer unlock()
	store := NewStore(root)
	apt, err := newPrivateApt(ctx, store, arch)
	if err != nil {
		return nil, err
	}
	all, err := apt.closure(ctx, SetBundle, rootPackages...)
	if err != nil {
		return nil, err
	}
	src, err := openSources(ctx, store, all)
	if err != nil {
		return nil, err
	}
	_, used, err := assemble(src, root, arch)
	if err != nil {
		return nil, err
	}
	lock := slices.DeleteFunc(all, func(p Package) bool { return !used[p.Name] })
	if arch != AMD64 {
		return lock, nil
	}
	kernel, err := apt.closure(ctx, SetKernel, kernelMeta)
	if err != nil {
		return nil, err
	}
	kernel = slices.DeleteFunc(kernel, func(p Package) bool { return !kernelImage.MatchString(p.Name) })
	if len(kernel) != 1 {
		return nil, fmt.Errorf("%s depends on %d kernel images, want 1", kernelMeta, len(kernel))
	}
	return append(lock, kernel...), nil
}

// privateApt is apt with its own state, so that neither the machine's sources
// nor what is installed on it has a say.
type privateApt struct{ opts []string }

func newPrivateApt(ctx context.Context, store *Store, arch Arch) (*privateApt, error) {
	if err := store.findMirror(ctx); err != nil {
		return nil, err
	}
	dir := filepath.Join(CacheDir(store.root), "apt")
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	sources := fmt.Sprintf("deb [arch=%s signed-by=%s] %s %s main\n", arch, keyring, store.mirror, suite)
	for name, text := range map[string]string{"sources.list": sources, "status": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	a := &privateApt{}
	for _, kv := range []string{
		"Dir::State=" + dir,
		"Dir::State::lists=" + dir + "/lists",
		"Dir::State::status=" + dir + "/status",
		"Dir::Cache=" + dir + "/cache",
		"Dir::Etc::sourcelist=" + dir + "/sources.list",
		"Dir::Etc::sourceparts=/dev/null",
		"Dir::Etc::preferences=/dev/null",
		"Dir::Etc::preferencesparts=/dev/null",
		"APT::Architecture=" + string(arch),
		"APT::Architectures=" + string(arch),
		"APT::Sandbox::User=root",
		"Acquire::Languages=none",
	} {
		a.opts = append(a.opts, "-o", kv)
	}
	if _, err := a.run(ctx, "apt-get", "update"); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *privateApt) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	return run(ctx, name, slices.Concat(a.opts, args)...)
}

// closure returns the packages that an empty system needs for the given ones.
func (a *privateApt) closure(ctx context.Context, set string, names ...string) (Lock, error) {
	args := append([]string{"install", "--simulate", "--no-install-recommends", "--"}, names...)
	out, err := a.run(ctx, "apt-get", args...)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", strings.Join(names, " "), err)
	}
	wanted := []string{"show", "--"}
	for _, m := range instLine.FindAllStringSubmatch(string(out), -1) {
		wanted = append(wanted, m[1]+"="+m[2])
	}
	if out, err = a.run(ctx, "apt-cache", wanted...); err != nil {
		return nil, fmt.Errorf("look up %s: %w", strings.Join(names, " "), err)
	}
	lock, err := parseStanzas(set, string(out))
	if err == nil && len(lock) != len(wanted)-2 {
		err = fmt.Errorf("apt shows %d packages, want %d", len(lock), len(wanted)-2)
	}
	return lock, err
}

// parseStanzas reads the index entries of packages (deb-control(5)).
func parseStanzas(set, text string) (Lock, error) {
	var lock Lock
	for stanza := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		field := make(map[string]string)
		for line := range strings.Lines(stanza) {
			if k, v, ok := strings.Cut(line, ": "); ok && !strings.HasPrefix(line, " ") {
				field[k] = strings.TrimSpace(v)
			}
		}
		p, err := parsePackage([]string{
			set, field["Package"], field["Version"], field["SHA256"], field["Size"], field["Filename"],
		})
		if err != nil {
			return nil, fmt.Errorf("read the package index: %w", err)
		}
		lock = append(lock, p)
	}
	return lock, nil
}
