package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc/connectivity"
)

// Times of the controller's end.
const (
	requestTimeout = 10 * time.Second // TLS handshake and request
	authTimeout    = 10 * time.Second
	readyTimeout   = 10 * time.Second // until the agent speaks gRPC
	// drainTimeout is how long calls may end on a link whose agent is stopping.
	drainTimeout = time.Minute
)

// Serve accepts links until ctx ends, and then ends all of them. It returns nil
// then; the listener is closed.
func (h *Hub) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := accept(ctx, l)
		if err != nil && ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return errors.Join(fmt.Errorf("accept links: %w", err), l.Close())
		}
		leave, ok := h.gate.enter(conn.RemoteAddr())
		if !ok {
			conn.Close()
			continue
		}
		tasks.Go(func() { h.serve(ctx, conn, leave) })
	}
}

// accept waits out what will pass, such as too many open files.
func accept(ctx context.Context, l net.Listener) (net.Conn, error) {
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		conn, err := l.Accept()
		if err == nil && ctx.Err() != nil {
			conn.Close()
			return nil, ctx.Err()
		}
		if err == nil || errors.Is(err, net.ErrClosed) {
			return conn, err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// serve makes a connection a link and holds it while it lives.
func (h *Hub) serve(ctx context.Context, raw net.Conn, leave func()) {
	defer leave()
	defer raw.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	defer stop()
	node, conn, err := h.admit(ctx, raw)
	if err != nil {
		h.config.Log.Debug("no link", "from", raw.RemoteAddr(), "error", err)
		return
	}
	// gRPC closes a connection that has died.
	open, lost := context.WithCancel(ctx)
	defer lost()
	client, err := newClient(open, node, &closing{conn, lost})
	if err != nil {
		h.config.Log.Warn("no link", "from", raw.RemoteAddr(), "error", err)
		return
	}
	defer client.Close()
	linkCtx, end := context.WithCancel(ctx)
	defer end()
	l := &nodeLink{node: node, conn: client, end: end}
	h.up(l)
	leave()
	h.config.Log.Info("node is linked", "node", node, "from", raw.RemoteAddr())
	ended := client.WaitForStateChange(linkCtx, connectivity.Ready)
	h.down(l)
	h.config.Log.Info("the link of a node has ended", "node", node, "from", raw.RemoteAddr())
	if !ended {
		return // it was replaced, or all links end
	}
	// An agent that stops says so (GOAWAY) and ends the calls that are under way.
	select {
	case <-open.Done():
	case <-time.After(drainTimeout):
	}
}

// admit does the handshake, reads the request and asks whose token it is. Until
// its last line the peer is nobody.
func (h *Hub) admit(ctx context.Context, raw net.Conn) (node string, conn net.Conn, err error) {
	if err := raw.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return "", nil, err
	}
	c := tls.Server(raw, h.config.TLS)
	if err := c.HandshakeContext(ctx); err != nil {
		return "", nil, fmt.Errorf("TLS: %w", err)
	}
	token, status := readUpgrade(c)
	if status == http.StatusSwitchingProtocols {
		node, status = h.authenticate(ctx, raw, token)
	}
	if err := raw.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return "", nil, err
	}
	if err := answer(c, status); err != nil {
		return "", nil, fmt.Errorf("answer %d: %w", status, err)
	}
	if status != http.StatusSwitchingProtocols {
		return "", nil, fmt.Errorf("refused with %d", status)
	}
	return node, c, raw.SetDeadline(time.Time{})
}

func (h *Hub) authenticate(ctx context.Context, raw net.Conn, token string) (node string, status int) {
	ctx, cancel := context.WithTimeout(ctx, authTimeout)
	defer cancel()
	node, err := h.config.Authenticate(ctx, token)
	if err == nil && node == "" {
		err = errors.New("the token is no node's")
	}
	if err != nil {
		h.config.Log.Warn("link refused", "from", raw.RemoteAddr(), "error", err)
		return "", http.StatusUnauthorized
	}
	return node, http.StatusSwitchingProtocols
}

// closing tells when the connection is closed by this end.
type closing struct {
	net.Conn
	lost context.CancelFunc
}

// Close implements net.Conn.
func (c *closing) Close() error {
	c.lost()
	return c.Conn.Close()
}
