package asset

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
)

// nodePackages are what a node has of Debian, with all that they depend on.
var nodePackages = []string{
	"busybox-static", "containernetworking-plugins", "dmsetup", "iproute2", "kmod", "lvm2",
	"mount", "nftables", "runc", "udev", "util-linux",
}

const lockHeader = `# The Debian 13 packages of the test cluster's nodes.
# Written by: go run ./test/cluster/cmd/cluster lock
# set name version sha256 size path
`

func lockPath(root string) string {
	return filepath.Join(root, "test", "cluster", "packages.lock")
}

// Lock pins the newest packages.
func Lock(ctx context.Context) error {
	root, err := bundle.ModuleRoot()
	if err != nil {
		return err
	}
	pkgs, err := bundle.Closure(ctx, root, bundle.SetNode, nodePackages...)
	if err != nil {
		return err
	}
	text := bytes.NewBufferString(lockHeader)
	for line := range bytes.Lines(pkgs.Format()) {
		if !bytes.HasPrefix(line, []byte("#")) {
			text.Write(line)
		}
	}
	if err := os.WriteFile(lockPath(root), text.Bytes(), 0o644); err != nil {
		return fmt.Errorf("pin the nodes' packages: %w", err)
	}
	return nil
}

// unpack returns the directories of the pinned packages' files.
func (b *builder) unpack(ctx context.Context) ([]string, error) {
	lock, err := bundle.ReadLock(lockPath(b.root))
	if err != nil {
		return nil, err
	}
	unlock, err := bundle.LockCache(b.root)
	if err != nil {
		return nil, err
	}
	defer unlock()
	store := bundle.NewStore(b.root)
	var dirs []string
	for _, p := range lock {
		dir, err := store.Unpack(ctx, p)
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}
