package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// DialConfig says where the controller is and what an agent shows it.
type DialConfig struct {
	Address    string // host:port of the controller
	ServerName string // that the controller's certificate is for
	CAFile     string // PEM: who may have issued it; read at each dial
	TokenFile  string // token of this node's agent; read at each dial
	Log        *slog.Logger

	// dial is a net.Dialer's; tests have a network in memory.
	dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Times of the agent's end.
const (
	dialTimeout = 30 * time.Second // until the controller has answered
	maxDelay    = 20 * time.Second // between two dials
	// A link that was up that long is no failure: the next dial comes soon.
	stableAfter = 30 * time.Second
)

// Listen gives a listener that dials. Accept returns a connection once the
// controller has agreed to speak gRPC on it, and the next one after that one was
// closed: there is one link at a time. Accept tries until ctx ends or the
// listener is closed; its only error wraps [net.ErrClosed].
func Listen(ctx context.Context, c DialConfig) net.Listener {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.dial == nil {
		c.dial = new(net.Dialer).DialContext
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &listener{config: c, ctx: ctx, cancel: cancel, free: make(chan int, 1)}
	l.free <- 0
	return l
}

type listener struct {
	config DialConfig
	ctx    context.Context // of the dials, not of the links
	cancel context.CancelFunc
	free   chan int // holds the number of failures in a row while no link is up
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	closed := func() error { return fmt.Errorf("link to %s: %w", l.config.Address, net.ErrClosed) }
	var failures int
	select {
	case failures = <-l.free:
	case <-l.ctx.Done():
		return nil, closed()
	}
	for ; ; failures++ {
		select {
		case <-time.After(delay(failures)):
		case <-l.ctx.Done():
			return nil, closed()
		}
		conn, err := l.config.connect(l.ctx)
		if err == nil {
			l.config.Log.Info("linked to the controller", "address", l.config.Address)
			return &linked{Conn: conn, l: l, failures: failures, since: time.Now()}, nil
		}
		if l.ctx.Err() == nil {
			l.config.Log.Warn("no link to the controller", "address", l.config.Address, "error", err)
		}
	}
}

// Close implements net.Listener. A link that is up stays.
func (l *listener) Close() error {
	l.cancel()
	return nil
}

// Addr implements net.Listener: it is the controller's.
func (l *listener) Addr() net.Addr { return addr(l.config.Address) }

type addr string

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return string(a) }

// delay is how long to wait before a dial. Every agent loses its link at the same
// moment when the controller ends, hence the dice.
func delay(failures int) time.Duration {
	if failures == 0 {
		return rand.N(time.Second)
	}
	most := min(maxDelay, time.Second<<min(failures, 10))
	return most/2 + rand.N(most/2)
}

// linked is the connection of a link; its end lets the listener dial again.
type linked struct {
	net.Conn
	l        *listener
	failures int
	since    time.Time
	once     sync.Once
}

// Close implements net.Conn.
func (c *linked) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		failures := c.failures + 1
		if time.Since(c.since) >= stableAfter {
			failures = 0
		}
		c.l.config.Log.Info("the link has ended", "address", c.l.config.Address)
		c.l.free <- failures
	})
	return err
}

// connect makes one link.
func (c DialConfig) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	roots, err := readRoots(c.CAFile)
	if err != nil {
		return nil, err
	}
	token, err := readToken(c.TokenFile)
	if err != nil {
		return nil, err
	}
	raw, err := c.dial(ctx, "tcp", c.Address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	conn, err := c.upgrade(ctx, raw, roots, token)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		raw.Close()
		return nil, err
	}
	return conn, nil
}

// upgrade shows the token only to who has proven to be the controller.
func (c DialConfig) upgrade(ctx context.Context, raw net.Conn, roots *x509.CertPool, token string) (net.Conn, error) {
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: c.ServerName, RootCAs: roots, NextProtos: []string{"http/1.1"},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, fmt.Errorf("TLS with %s: %w", c.Address, err)
	}
	return requestUpgrade(conn, c.ServerName, token)
}

func readRoots(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the controller's CA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read the controller's CA: %s holds no certificate", path)
	}
	return roots, nil
}

func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	if token == "" || len(data) > maxToken || strings.ContainsAny(token, "\r\n") {
		return "", errors.New("read the token: " + path + " holds no token")
	}
	return token, nil
}
