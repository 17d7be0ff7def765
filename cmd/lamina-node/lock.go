package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// lockNode waits until no other agent owns this node: two would run lvm on the same
// groups and stage the same volumes. Until then nothing of the other's is touched, its
// sockets least of all. The kernel gives the lock up when its holder has ended.
func lockNode(ctx context.Context, dir string, log *slog.Logger) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("lock this node: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock this node: %w", err)
	}
	err = flock(f, unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		log.Warn("another agent owns this node; waiting for its end", "lock", f.Name(), "owner", owner(f))
		locked := make(chan error, 1)
		go func() { locked <- flock(f, 0) }()
		select {
		case err = <-locked:
		case <-ctx.Done():
			return nil, ctx.Err() // the process ends, and with it the waiting
		}
		log.Info("this node has no other agent any more")
	}
	if err == nil {
		err = sign(f)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock this node: %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// sign writes who holds the lock, for the next who wants it. The host name of a pod is
// the pod's name.
func sign(f *os.File) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(fmt.Appendf(nil, "lamina-node %s, process %d on %s\n", version, os.Getpid(), host), 0)
	return err
}

// owner reads what the holder has written.
func owner(f *os.File) string {
	text, err := io.ReadAll(io.NewSectionReader(f, 0, 1024))
	if err != nil || len(text) == 0 {
		return "unknown"
	}
	return strings.TrimSpace(string(text))
}
