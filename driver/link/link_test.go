package link_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/driver/link/linktest"
)

func TestLink(t *testing.T) {
	noGoroutines(t)
	ca := linktest.NewAuthority(t)
	h := startHub(t, link.HubConfig{TLS: ca.TLS()})
	if _, err := h.Conn("a"); !errors.Is(err, link.ErrNoLink) || !strings.Contains(err.Error(), "node a") {
		t.Errorf("before there is a link: %v", err)
	}
	a := startNode(t, "a", ca.DialConfig(t, h.Address, "a"), nil)
	h.Next(t, linktest.Up("a"))
	startNode(t, "b", ca.DialConfig(t, h.Address, "b"), nil)
	h.Next(t, linktest.Up("b"))
	if diff := cmp.Diff([]string{"a", "b"}, h.Nodes()); diff != "" {
		t.Error(diff)
	}
	for _, n := range h.Nodes() {
		if who := whoIs(t, h, n); who != n {
			t.Errorf("%s answers for %s", who, n)
		}
	}
	late := make(chan linktest.Event, 10)
	h.Subscribe(func(node string, up bool) { late <- linktest.Event{Node: node, Up: up} })
	if first, second := <-late, <-late; first != (linktest.Up("a")) || second != (linktest.Up("b")) {
		t.Errorf("a late subscriber is told %v, %v", first, second)
	}
	conn, err := h.Conn("a")
	if err != nil {
		t.Fatal(err)
	}
	a.end()
	h.Next(t, linktest.Down("a"))
	if _, err := h.Conn("a"); !errors.Is(err, link.ErrNoLink) {
		t.Errorf("after the link has ended: %v", err)
	}
	_, err = link.NewPoolsClient(conn).Apply(t.Context(), &link.ApplyRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a call on the ended link: %v", err)
	}
	h.Stop()
	h.Next(t, linktest.Down("b"))
	if n := h.Nodes(); len(n) != 0 {
		t.Errorf("links after the end: %v", n)
	}
}

// A second link of a node replaces the first, and calls on that one end with
// Unavailable: what came of them is not known.
func TestNewestWins(t *testing.T) {
	noGoroutines(t)
	ca := linktest.NewAuthority(t)
	h := startHub(t, link.HubConfig{TLS: ca.TLS()})
	slow := &pools{entered: make(chan struct{}), finish: make(chan struct{})}
	defer close(slow.finish)
	startNode(t, "a", ca.DialConfig(t, h.Address, "a"), slow)
	h.Next(t, linktest.Up("a"))
	old, err := h.Conn("a")
	if err != nil {
		t.Fatal(err)
	}
	cut := make(chan error, 1)
	go func() {
		_, err := link.NewPoolsClient(old).Apply(context.Background(), &link.ApplyRequest{})
		cut <- err
	}()
	<-slow.entered
	startNode(t, "a", ca.DialConfig(t, h.Address, "a"), nil)
	h.Next(t, linktest.Down("a"), linktest.Up("a"))
	if err := <-cut; status.Code(err) != codes.Unavailable {
		t.Errorf("the call on the old link: %v", err)
	}
	if _, err := link.NewPoolsClient(old).Apply(t.Context(), &link.ApplyRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("a new call on the old link: %v", err)
	}
	conn, err := h.Conn("a")
	if err != nil || conn == old {
		t.Fatalf("the connection is %v, %v", conn, err)
	}
}

// An agent that stops lets the calls under way end; the node is down at once.
func TestGracefulStop(t *testing.T) {
	noGoroutines(t)
	ca := linktest.NewAuthority(t)
	h := startHub(t, link.HubConfig{TLS: ca.TLS()})
	slow := &pools{entered: make(chan struct{}), finish: make(chan struct{})}
	a := startNode(t, "a", ca.DialConfig(t, h.Address, "a"), slow)
	h.Next(t, linktest.Up("a"))
	conn, err := h.Conn("a")
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := link.NewPoolsClient(conn).Apply(context.Background(), &link.ApplyRequest{})
		answered <- err
	}()
	<-slow.entered
	var stopped sync.WaitGroup
	stopped.Go(a.server.GracefulStop)
	h.Next(t, linktest.Down("a"))
	close(slow.finish)
	if err := <-answered; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	stopped.Wait()
}

func TestBadFiles(t *testing.T) {
	ca := linktest.NewAuthority(t)
	for name, c := range map[string]struct{ ca, token, want string }{
		"no certificate":  {"nonsense", "x", "holds no certificate"},
		"empty token":     {string(ca.PEM), " \n", "holds no token"},
		"two lines":       {string(ca.PEM), "a\nb", "holds no token"},
		"enormous token":  {string(ca.PEM), strings.Repeat("x", link.MaxToken+1), "holds no token"},
		"nobody to reach": {string(ca.PEM), "x", "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			d := ca.DialConfig(t, l.Addr().String(), "a")
			l.Close()
			linktest.WriteFile(t, d.CAFile, c.ca)
			linktest.WriteFile(t, d.TokenFile, c.token)
			log := newLog()
			d.Log = log.logger()
			a := link.Listen(t.Context(), d)
			accepted := make(chan error, 1)
			go func() {
				_, err := a.Accept()
				accepted <- err
			}()
			log.wait(c.want)
			if err := errors.Join(a.Close(), <-accepted); !errors.Is(err, net.ErrClosed) {
				t.Errorf("the closed listener: %v", err)
			}
		})
	}
}
