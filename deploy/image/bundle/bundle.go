// Package bundle builds the userland that the node agent calls: one pinned set
// of Debian packages, reduced to the programs in the manifest and the shared
// libraries that those programs need.
//
// The same [Tree] becomes the container image, the OS extensions and the root
// file system of the test virtual machine.
package bundle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// MaxSize is the limit in bytes for the unpacked bundle with the agent.
const MaxSize = 60 << 20

// ErrTooLarge is wrapped by the error of [Build] when the tree exceeds [MaxSize].
var ErrTooLarge = errors.New("the bundle is too large")

// AgentPath is where the agent lies inside the tree.
const AgentPath = "usr/local/bin/lamina-node"

// Options tell [Build] where things are. Root is the module's root directory
// (see [ModuleRoot]); Agent is a host path of the agent's binary, or empty for
// a tree without it. Arch is AMD64 if it is empty.
type Options struct {
	Root  string
	Agent string
	Arch  Arch
}

// Build returns the bundle as a tree. It downloads what the cache lacks, and
// refuses a package whose SHA-256 differs from the lock.
func Build(ctx context.Context, opt Options) (*Tree, error) {
	arch := cmp.Or(opt.Arch, AMD64)
	lock, err := ReadLock(LockPath(opt.Root, arch))
	if err != nil {
		return nil, err
	}
	unlock, err := LockCache(opt.Root)
	if err != nil {
		return nil, err
	}
	defer unlock()
	src, err := openSources(ctx, NewStore(opt.Root), lock.Set(SetBundle))
	if err != nil {
		return nil, err
	}
	tree, _, err := assemble(src, opt.Root, arch)
	if err != nil {
		return nil, err
	}
	if opt.Agent != "" {
		if err := tree.AddHostFile(AgentPath, opt.Agent, 0o755); err != nil {
			return nil, err
		}
	}
	if size := tree.Size(); size > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, size, MaxSize)
	}
	return tree, nil
}

// ModuleRoot walks up from the working directory to the directory of go.mod.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		_, err := os.Stat(filepath.Join(dir, "go.mod"))
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("no go.mod in the working directory or above it")
		}
		dir = parent
	}
}

// CacheDir is the git-ignored directory for downloads and build results.
func CacheDir(root string) string { return filepath.Join(root, ".cache") }

// LockPath is the committed lock file of an architecture.
func LockPath(root string, arch Arch) string {
	name := "packages.lock"
	if arch != AMD64 {
		name = "packages-" + string(arch) + ".lock"
	}
	return filepath.Join(root, "deploy", "image", name)
}

// LockCache serialises builders, which share one cache, across processes.
func LockCache(root string) (unlock func(), err error) {
	dir := CacheDir(root)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the cache: %w", err)
	}
	return func() { f.Close() }, nil
}
