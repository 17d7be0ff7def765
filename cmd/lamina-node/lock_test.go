package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines gives each line of a log to a channel.
type lines chan string

func (l lines) Write(p []byte) (int, error) { l <- string(bytes.TrimSpace(p)); return len(p), nil }

// A second agent waits, says for whom, and owns the node when the first has ended.
func TestLockWaits(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	unlock, err := lockNode(t.Context(), dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	log := make(lines, 2)
	got := make(chan error, 1)
	var second sync.WaitGroup
	second.Go(func() {
		release, err := lockNode(t.Context(), dir, slog.New(slog.NewJSONHandler(log, nil)))
		got <- err
		if err == nil {
			release()
		}
	})
	if line := <-log; !strings.Contains(line, "another agent owns this node") || !strings.Contains(line, "lamina-node "+version+", process ") {
		t.Errorf("it says %s", line)
	}
	select {
	case err := <-got:
		t.Fatalf("two agents own the node (%v)", err)
	default:
	}
	unlock()
	if err := <-got; err != nil {
		t.Error(err)
	}
	second.Wait()
}

func TestLockGivesUp(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lockNode(t.Context(), dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := lockNode(ctx, dir, slog.New(slog.DiscardHandler)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}
