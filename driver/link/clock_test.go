package link_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/driver/link/linktest"
)

// network is a network in memory: its connections wait on the fake clock of a
// bubble, as those of the kernel cannot. One hub at a time listens on it.
type network struct {
	t     *testing.T
	mu    sync.Mutex
	hub   *memory
	dials []time.Time
	// cut drops what is sent over the connections that are there.
	cut *atomic.Bool
}

// memory is a listener on a network.
type memory struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.conns:
		return c, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

func (m *memory) Addr() net.Addr { return &net.UnixAddr{Name: "controller", Net: "memory"} }

func newNetwork(t *testing.T) *network { return &network{t: t, cut: &atomic.Bool{}} }

// start serves a hub; one that served before must have stopped.
func (n *network) start(c link.HubConfig) *linktest.Hub {
	m := &memory{conns: make(chan net.Conn), closed: make(chan struct{})}
	n.mu.Lock()
	n.hub = m
	n.mu.Unlock()
	return linktest.Serve(n.t, m, c)
}

func (n *network) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	n.mu.Lock()
	hub, cut := n.hub, n.cut
	n.dials = append(n.dials, time.Now())
	n.mu.Unlock()
	here, wireA := net.Pipe()
	there, wireB := net.Pipe()
	go forward(wireA, wireB, cut)
	go forward(wireB, wireA, cut)
	select {
	case hub.conns <- there:
		return here, nil
	case <-hub.closed:
		wireA.Close()
		wireB.Close()
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// forward carries bytes until the wire is cut; what is sent then is lost, and
// nobody is told.
func forward(to, from net.Conn, cut *atomic.Bool) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err == nil && !cut.Load() {
			_, err = to.Write(buf[:n])
		}
		if err != nil {
			if !cut.Load() {
				to.Close()
			}
			from.Close()
			return
		}
	}
}

func (n *network) config(name string, a linktest.Authority) link.DialConfig {
	return link.WithDial(a.DialConfig(n.t, "controller:9443", name), n.dial)
}

// The controller starts anew, with another CA and other tokens: agents come back
// as soon as their files say so, without a restart.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, ca := newNetwork(t), linktest.NewAuthority(t)
		h := n.start(link.HubConfig{TLS: ca.TLS()})
		a := startNode(t, "a", n.config("a", ca), nil)
		h.Next(t, linktest.Up("a"))
		h.Stop()

		tried := make(chan string, 100)
		renewed := linktest.NewAuthority(t)
		h = n.start(link.HubConfig{TLS: renewed.TLS(), Authenticate: func(_ context.Context, token string) (string, error) {
			tried <- token
			if token != "new" {
				return "", errors.New("expired")
			}
			return "a", nil
		}})
		// A token is not shown to who cannot prove to be the controller.
		a.log.wait("x509")
		if len(tried) > 0 {
			t.Error("a controller with a foreign certificate was shown a token")
		}
		linktest.WriteFile(t, a.config.CAFile, string(renewed.PEM))
		if token := <-tried; token != linktest.Secret+"a" {
			t.Errorf("the agent shows %q", token)
		}
		a.log.wait("does not accept this token")
		linktest.WriteFile(t, a.config.TokenFile, "new")
		h.Next(t, linktest.Up("a"))
		if log := a.log.String(); strings.Contains(log, linktest.Secret) {
			t.Error("the log holds a token")
		}
	})
}

// All nodes dial when the controller comes back. The bound on who waits at the
// door sends most of them away; they come again, and all get in.
func TestManyNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const nodes = 100
		n, ca := newNetwork(t), linktest.NewAuthority(t)
		h := n.start(link.HubConfig{TLS: ca.TLS(), MaxPending: 8, MaxPendingPerSource: 8})
		for i := range nodes {
			name := fmt.Sprintf("node-%d", i)
			startNode(t, name, n.config(name, ca), nil)
		}
		for range nodes {
			if e := <-h.Events; !e.Up {
				t.Errorf("%s lost its link", e.Node)
			}
		}
		if got := len(h.Nodes()); got != nodes {
			t.Errorf("%d nodes are linked, want %d", got, nodes)
		}
		if who := whoIs(t, h, "node-42"); who != "node-42" {
			t.Errorf("%s answers for node-42", who)
		}
	})
}

// A wire that is cut is found out by both ends, and the agent makes a new link.
func TestDeadPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, ca := newNetwork(t), linktest.NewAuthority(t)
		h := n.start(link.HubConfig{TLS: ca.TLS()})
		a := startNode(t, "a", n.config("a", ca), nil)
		h.Next(t, linktest.Up("a"))
		time.Sleep(time.Hour)
		if got := len(h.Events); got != 0 {
			t.Fatalf("an idle link: %v", <-h.Events)
		}
		cutAt := time.Now()
		n.mu.Lock()
		n.cut.Store(true)
		n.cut = &atomic.Bool{} // a new link is on a new wire
		n.mu.Unlock()
		for range 2 {
			e := <-h.Events
			if e.Up && !strings.Contains(a.log.String(), "the link has ended") {
				t.Error("up again, and the agent has not noticed")
			}
			if took := time.Since(cutAt); took > 2*link.DeadAfter {
				t.Errorf("%v came after %s", e, took)
			}
		}
	})
}

// While the controller is away an agent dials now and then, after a link that
// was up at once.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, ca := newNetwork(t), linktest.NewAuthority(t)
		h := n.start(link.HubConfig{TLS: ca.TLS()})
		startNode(t, "a", n.config("a", ca), nil)
		h.Next(t, linktest.Up("a"))
		time.Sleep(time.Minute)
		n.mu.Lock()
		n.dials = nil
		n.mu.Unlock()
		lost := time.Now()
		h.Stop()
		time.Sleep(10 * time.Minute)
		n.mu.Lock()
		defer n.mu.Unlock()
		if first := n.dials[0].Sub(lost); first > time.Second {
			t.Errorf("the first dial came %s after the loss", first)
		}
		for i := 1; i < len(n.dials); i++ {
			gap, most := n.dials[i].Sub(n.dials[i-1]), min(link.MaxDelay, time.Second<<min(i, 10))
			if gap < most/2 || gap > most {
				t.Errorf("dial %d came %s after the last, want %s to %s", i, gap, most/2, most)
			}
		}
	})
}

// request is a good one.
func request(token string) string {
	return "GET /link HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: lamina-csi\r\nAuthorization: Bearer " + token + "\r\n\r\n"
}

// open does a TLS handshake as anybody can.
func (n *network) open(t *testing.T) *tls.Conn {
	t.Helper()
	raw, err := n.dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	if err := c.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

// Who dawdles is put out, at every step.
func TestDawdlers(t *testing.T) {
	for name, dawdle := range map[string]func(t *testing.T, n *network) error{
		"says nothing": func(t *testing.T, n *network) error {
			raw, err := n.dial(t.Context(), "", "")
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, raw)
			return err
		},
		"a byte a second": func(t *testing.T, n *network) error {
			c := n.open(t)
			for _, b := range []byte(request(strings.Repeat("x", 1000))) {
				if _, err := c.Write([]byte{b}); err != nil {
					return err
				}
				time.Sleep(time.Second)
			}
			return nil
		},
		"speaks no gRPC": func(t *testing.T, n *network) error {
			c := n.open(t)
			if _, err := io.WriteString(c, request(linktest.Secret+"evil")); err != nil {
				return err
			}
			_, err := io.Copy(io.Discard, c)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, ca := newNetwork(t), linktest.NewAuthority(t)
				h := n.start(link.HubConfig{TLS: ca.TLS(), MaxPending: 1})
				start := time.Now()
				err := dawdle(t, n)
				if took := time.Since(start); took > link.PatienceAfter {
					t.Errorf("put out after %s: %v", took, err)
				}
				// Its place at the door is free again, and it was never a node.
				startNode(t, "a", n.config("a", ca), nil)
				h.Next(t, linktest.Up("a"))
			})
		})
	}
}
