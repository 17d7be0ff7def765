// Package fleettest is a cluster in memory, as the controller sees it: links to
// agents, and nodes behind them that serve CSI. Nothing here knows Kubernetes.
package fleettest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// Links are links without a network. They take the place of a link.Hub.
type Links struct {
	mu          sync.Mutex
	up          map[string]*wire
	subscribers []func(node string, up bool)
	// order makes subscribers see the changes in the order in which they happen.
	order sync.Mutex
}

type wire struct {
	server *grpc.Server
	conn   *grpc.ClientConn
}

// NewLinks makes Links of which none is up. They go down when the test ends.
func NewLinks(t testing.TB) *Links {
	l := &Links{up: map[string]*wire{}}
	t.Cleanup(func() {
		for node := range l.up {
			l.Down(node)
		}
	})
	return l
}

// Up makes a link to a server of that node, in place of one that is up.
func (l *Links) Up(t testing.TB, node string, server *grpc.Server) {
	t.Helper()
	pipe := bufconn.Listen(1 << 16)
	conn, err := grpc.NewClient("passthrough:///"+node,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(pipe) }() // ends by Stop
	l.change(node, &wire{server, conn})
}

// Down ends a link, and the calls over it.
func (l *Links) Down(node string) { l.change(node, nil) }

func (l *Links) change(node string, w *wire) {
	l.order.Lock()
	defer l.order.Unlock()
	l.mu.Lock()
	old := l.up[node]
	if w != nil {
		l.up[node] = w
	} else {
		delete(l.up, node)
	}
	list := l.subscribers
	l.mu.Unlock()
	if old != nil {
		old.conn.Close()
		old.server.Stop()
	}
	for _, fn := range list {
		fn(node, w != nil)
	}
}

// Conn is the connection over a link.
func (l *Links) Conn(node string) (*grpc.ClientConn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.up[node]; w != nil {
		return w.conn, nil
	}
	return nil, fmt.Errorf("node %s: no link", node)
}

// Subscribe has fn called for the links that are up, and for every change.
func (l *Links) Subscribe(fn func(node string, up bool)) {
	l.order.Lock()
	defer l.order.Unlock()
	l.mu.Lock()
	l.subscribers = append(l.subscribers, fn)
	var up []string
	for node := range l.up {
		up = append(up, node)
	}
	l.mu.Unlock()
	for _, node := range up {
		fn(node, true)
	}
}
