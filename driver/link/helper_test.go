package link_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/driver/link/linktest"
)

// log collects what is logged.
type log struct {
	mu      sync.Mutex
	written sync.Cond
	buf     bytes.Buffer
}

func newLog() *log {
	l := &log{}
	l.written.L = &l.mu
	return l
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.written.Broadcast()
	return l.buf.Write(p)
}

// wait returns once the log has the text.
func (l *log) wait(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !strings.Contains(l.buf.String(), text) {
		l.written.Wait()
	}
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *log) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// startHub serves on loopback.
func startHub(t *testing.T, c link.HubConfig) *linktest.Hub {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return linktest.Serve(t, l, c)
}

// node is an agent's end: the files that it reads, and a server of Pools.
type node struct {
	config link.DialConfig
	server *grpc.Server
	log    *log
	end    func()
}

// pools answers with the name of its node, and streams until released.
type pools struct {
	link.UnimplementedPoolsServer
	name            string
	entered, finish chan struct{} // of Apply, if not nil
}

func (p *pools) Apply(context.Context, *link.ApplyRequest) (*link.ApplyResponse, error) {
	if p.entered != nil {
		p.entered <- struct{}{}
		<-p.finish
	}
	return &link.ApplyResponse{}, nil
}

func (p *pools) Watch(_ *link.WatchRequest, s grpc.ServerStreamingServer[link.WatchResponse]) error {
	if err := s.Send(&link.WatchResponse{Pools: []*link.PoolStatus{{Name: p.name}}}); err != nil {
		return err
	}
	<-s.Context().Done()
	return s.Context().Err()
}

// startNode serves Pools on a link until the test, or end, ends it.
func startNode(t *testing.T, name string, c link.DialConfig, p *pools) *node {
	t.Helper()
	n := &node{config: c, server: grpc.NewServer(link.ServerOptions()...), log: newLog()}
	if p == nil {
		p = &pools{}
	}
	p.name = name
	link.RegisterPoolsServer(n.server, p)
	n.config.Log = n.log.logger()
	l := link.Listen(context.Background(), n.config)
	ended := make(chan error, 1)
	go func() { ended <- n.server.Serve(l) }()
	n.end = sync.OnceFunc(func() {
		n.server.Stop()
		if err := <-ended; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	t.Cleanup(n.end)
	return n
}

// whoIs asks over the link of a node who answers there.
func whoIs(t *testing.T, h *linktest.Hub, name string) string {
	t.Helper()
	conn, err := h.Conn(name)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := link.NewPoolsClient(conn).Watch(ctx, &link.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetPools()[0].GetName()
}

// noGoroutines fails if one of this package's outlives the test.
func noGoroutines(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		until := time.Now().Add(10 * time.Second)
		for {
			buf := make([]byte, 1<<20)
			stacks := string(buf[:runtime.Stack(buf, true)])
			var left []string
			for _, g := range strings.Split(stacks, "\n\n")[1:] {
				if strings.Contains(g, "lamina/driver/link.") || strings.Contains(g, "google.golang.org/grpc") {
					left = append(left, g)
				}
			}
			if len(left) == 0 {
				return
			}
			if time.Now().After(until) {
				t.Errorf("%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
				return
			}
			runtime.Gosched()
		}
	})
}
