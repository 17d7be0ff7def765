package controller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// serveSocket serves on a unix socket that only root may connect to. A socket that
// is there already is left over from a process that was killed: only the leader
// gets here. Anything else at that path stays.
func serveSocket(ctx context.Context, path string, serve func(context.Context, net.Listener) error) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	case err == nil && info.Mode().Type() != fs.ModeSocket:
		err = errors.New("a file that is no socket is there")
	case err == nil:
		err = os.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	// Until here the umask stands guard: connecting needs write permission.
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close())
	}
	return serve(ctx, l)
}
