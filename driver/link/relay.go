package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// maxRelayed bounds the connections that are carried at a time.
const maxRelayed = 64

// Relay carries bytes between each connection that l accepts and the unix socket,
// until ctx ends. With a listener of [Listen] it holds the link for an agent that
// has no token: it understands nothing of what it carries. It accepts only while
// the socket is served.
func Relay(ctx context.Context, l net.Listener, socket string) error {
	caller := ctx // ends before what is derived from it, such as a listener
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	slots := make(chan struct{}, maxRelayed)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		if !served(ctx, socket) {
			return nil
		}
		conn, err := accept(ctx, l)
		if err != nil && caller.Err() != nil {
			return nil
		}
		if err != nil {
			return errors.Join(fmt.Errorf("relay: %w", err), l.Close())
		}
		tasks.Go(func() {
			defer func() { <-slots }()
			carry(ctx, conn, socket)
		})
	}
}

// served waits until somebody answers on the socket. It is false if ctx ended.
func served(ctx context.Context, socket string) bool {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil {
			conn.Close()
			return true
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return false
		}
	}
}

// carry ends when either side ends.
func carry(ctx context.Context, conn net.Conn, socket string) {
	defer conn.Close()
	agent, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return
	}
	end := func() {
		agent.Close()
		conn.Close()
	}
	stop := context.AfterFunc(ctx, end)
	defer stop()
	var back sync.WaitGroup
	back.Go(func() {
		defer end()
		_, _ = io.Copy(agent, conn) // either end may hang up; it is told by the other
	})
	_, _ = io.Copy(conn, agent)
	end()
	back.Wait()
}
