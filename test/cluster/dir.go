package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
	"github.com/lamina-csi/lamina/test/cluster/asset"
)

// mark is a file in every cluster's directory. It holds the state, and a lock
// on it says that the cluster's process lives.
const mark = "cluster"

// makeDir makes the cluster's directory, or takes over and empties one whose
// cluster is gone.
func (c *Cluster) makeDir() error {
	if c.cfg.Dir == "" {
		root, err := bundle.ModuleRoot()
		if err != nil {
			return err
		}
		if err := removeStale(asset.Dir(root)); err != nil {
			return err
		}
		if c.dir, err = os.MkdirTemp(asset.Dir(root), "run-"); err != nil {
			return err
		}
		c.own = true
		return c.hold()
	}
	dir, err := filepath.Abs(c.cfg.Dir)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, mark)); len(entries) > 0 && err != nil {
		return fmt.Errorf("%s holds something else than a cluster", dir)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	c.dir = dir
	if err := c.hold(); err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == mark {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// hold marks and locks the directory. The lock goes with this process, even if
// it is killed.
func (c *Cluster) hold() (err error) {
	if c.held, err = lockMark(c.dir); err != nil {
		return err
	}
	return c.saveState()
}

// errInUse is wrapped by lockMark when another process holds the directory.
var errInUse = errors.New("a cluster runs in it")

func lockMark(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, mark), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errInUse
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// removeStale removes the temporary clusters whose process was killed.
func removeStale(parent string) error {
	dirs, err := filepath.Glob(filepath.Join(parent, "run-*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, mark)); err != nil {
			continue // it is being made
		}
		f, err := lockMark(dir)
		if errors.Is(err, errInUse) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		n := &network{name: networkName(dir)}
		if _, err := os.Stat(n.path()); err == nil {
			if err := n.remove(); err != nil {
				f.Close()
				return err
			}
		}
		err = os.RemoveAll(dir)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
