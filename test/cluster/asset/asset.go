// Package asset builds what a test cluster is made of: the Kubernetes programs,
// the nodes' kernel, initramfs and root image, and the image store with the
// container images. All of it comes from Debian packages and the Go module
// proxy, and is kept in the cache under the digest of what it was made of.
package asset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
)

// Assets are host paths. A running cluster keeps using the images that it
// started with.
type Assets struct {
	Bin    string // directory of the programs that run on the host
	Kernel string // bootable image
	Initrd string // initramfs
	Root   string // raw ext4 image of a node's root
	Images string // raw ext4 image of a node's /var/lib/containerd
}

// builder holds what all steps need.
type builder struct {
	root string // the module's root
	log  *slog.Logger
}

// Build returns the assets, building what the cache lacks; the first time takes
// about 20 minutes of processor time. archives are host paths of container
// image archives (OCI or Docker) for the nodes' image store.
func Build(ctx context.Context, archives []string, log *slog.Logger) (Assets, error) {
	b, unlock, err := newBuilder(log)
	if err != nil {
		return Assets{}, err
	}
	defer unlock()
	var a Assets
	if a.Bin, err = b.programs(ctx); err != nil {
		return Assets{}, err
	}
	n, err := b.node(ctx, a.Bin)
	if err != nil {
		return Assets{}, err
	}
	a.Kernel, a.Initrd, a.Root = n.kernel, n.initrd, n.root
	if a.Images, err = b.imageStore(ctx, a.Bin, n, archives); err != nil {
		return Assets{}, err
	}
	return a, nil
}

// BuildPrograms is Build for the programs alone.
func BuildPrograms(ctx context.Context, log *slog.Logger) (a Assets, err error) {
	b, unlock, err := newBuilder(log)
	if err != nil {
		return Assets{}, err
	}
	defer unlock()
	a.Bin, err = b.programs(ctx)
	return a, err
}

// newBuilder takes the lock.
func newBuilder(log *slog.Logger) (b *builder, unlock func(), err error) {
	root, err := bundle.ModuleRoot()
	if err != nil {
		return nil, nil, err
	}
	b = &builder{root: root, log: log}
	if unlock, err = b.lock(); err != nil {
		return nil, nil, err
	}
	if err := b.sweep(); err != nil {
		unlock()
		return nil, nil, err
	}
	return b, unlock, nil
}

// Dir is the cluster's part of the cache.
func Dir(root string) string { return filepath.Join(bundle.CacheDir(root), "cluster") }

// lock serialises builds across processes. It is not the cache's own lock,
// which the steps below take for a short time each.
func (b *builder) lock() (unlock func(), err error) {
	if err := os.MkdirAll(Dir(b.root), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(Dir(b.root), "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the cluster's cache: %w", err)
	}
	return func() { f.Close() }, nil
}

// sweep removes what a builder that was killed has left.
func (b *builder) sweep() error {
	parts, err := filepath.Glob(filepath.Join(Dir(b.root), "*.part*"))
	for _, p := range parts {
		err = errors.Join(err, os.RemoveAll(p))
	}
	return err
}

// kept is how many versions of one thing stay in the cache: a cluster that runs
// may use an older one.
const kept = 3

// cached returns the cache's path for one version of a thing. If it is not
// there, build makes it at the temporary path that it is given.
func (b *builder) cached(name, key string, build func(tmp string) error) (string, error) {
	dest := filepath.Join(Dir(b.root), name+"-"+key)
	now := time.Now()
	if _, err := os.Stat(dest); err == nil {
		return dest, os.Chtimes(dest, now, now) // used now: prune drops the oldest
	}
	tmp := dest + ".part"
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	b.log.Info("building", "what", name, "key", key)
	if err := build(tmp); err != nil {
		return "", fmt.Errorf("build the cluster's %s: %w", name, err)
	}
	if err := os.Rename(tmp, dest); err != nil {
		return "", err
	}
	b.log.Info("built", "what", name, "seconds", int(time.Since(now).Seconds()))
	return dest, b.prune(name)
}

func (b *builder) prune(name string) error {
	versions, err := filepath.Glob(filepath.Join(Dir(b.root), name+"-*"))
	if err != nil {
		return err
	}
	age := make(map[string]time.Time)
	for _, v := range versions {
		info, err := os.Stat(v)
		if err != nil {
			return err
		}
		age[v] = info.ModTime()
	}
	slices.SortFunc(versions, func(x, y string) int { return age[y].Compare(age[x]) })
	for _, v := range versions[min(kept, len(versions)):] {
		if err := os.RemoveAll(v); err != nil {
			return err
		}
	}
	return nil
}

// digest is the key of things made of these parts.
type digest struct {
	parts []string
	err   error
}

func (d *digest) text(parts ...string) *digest {
	d.parts = append(d.parts, parts...)
	return d
}

// file adds a file's content.
func (d *digest) file(names ...string) *digest {
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			d.err = errors.Join(d.err, err)
			continue
		}
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			d.err = errors.Join(d.err, err)
		}
		f.Close()
		d.parts = append(d.parts, hex.EncodeToString(h.Sum(nil)))
	}
	return d
}

func (d *digest) key() (string, error) {
	sum := sha256.Sum256([]byte(strings.Join(d.parts, "\x00")))
	return hex.EncodeToString(sum[:6]), d.err
}

// run runs a program; the error holds what it wrote.
func run(ctx context.Context, dir string, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// runAsRoot runs a program that takes the caller's files for root's, below root as its
// root directory. It needs no privilege (user_namespaces(7)).
func runAsRoot(ctx context.Context, root string, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot: root, Cloneflags: syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s in %s: %w: %s", strings.Join(args, " "), root, err, out)
	}
	return nil
}

// copyFile copies a regular file and makes it appear with that mode.
func copyFile(to, from string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return out.Close()
}
