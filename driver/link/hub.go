package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc"
)

// ErrNoLink: the node has no link to this controller now. What is there is not
// known.
var ErrNoLink = errors.New("no link")

// HubConfig says who may link. TLS and Authenticate are required.
type HubConfig struct {
	// TLS has the serving certificate. Its GetCertificate may give a renewed one.
	TLS *tls.Config
	// Authenticate names the node whose agent has the token. That agent is that
	// node and no other. An error refuses the link (401) and is logged: it must not
	// hold the token.
	Authenticate func(ctx context.Context, token string) (node string, err error)
	Log          *slog.Logger // nil: nothing is logged

	// MaxPending bounds the connections that have not become a link yet, and
	// MaxPendingPerSource those of one address (IPv6: of one /64). More are closed
	// at once. Default: 512 and 32.
	MaxPending, MaxPendingPerSource int
}

// Hub is the controller's end: it holds the links of all nodes.
type Hub struct {
	config HubConfig
	gate   gate

	// telling is held over a change of links and the calls that tell of it, so that
	// subscribers hear of changes in their order. It is taken before mu.
	telling     sync.Mutex
	subscribers []func(node string, up bool)

	mu    sync.Mutex
	links map[string]*nodeLink
}

// nodeLink is a link that is up.
type nodeLink struct {
	node string
	conn *grpc.ClientConn
	end  context.CancelFunc
}

// NewHub makes a Hub without links.
func NewHub(c HubConfig) *Hub {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.MaxPending == 0 {
		c.MaxPending = 512
	}
	if c.MaxPendingPerSource == 0 {
		c.MaxPendingPerSource = 32
	}
	c.TLS = c.TLS.Clone()
	c.TLS.MinVersion = tls.VersionTLS13
	c.TLS.NextProtos = []string{"http/1.1"}
	return &Hub{
		config: c,
		gate:   gate{max: c.MaxPending, maxPerSource: c.MaxPendingPerSource},
		links:  map[string]*nodeLink{},
	}
}

// Conn is the connection to the agent of a node. The error wraps [ErrNoLink].
// When the link ends, calls on the connection fail with Unavailable, and the next
// link has a connection of its own.
func (h *Hub) Conn(node string) (*grpc.ClientConn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l, ok := h.links[node]
	if !ok {
		return nil, fmt.Errorf("node %s: %w", node, ErrNoLink)
	}
	return l.conn, nil
}

// Nodes lists the nodes that have a link, sorted.
func (h *Hub) Nodes() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.links))
}

// Subscribe has fn called for each link that is up now, and from then on for
// every change. The calls come one at a time and in order; a link that replaces
// another is told as down, then up. fn must not block and not call Subscribe; it
// may call Conn and Nodes.
func (h *Hub) Subscribe(fn func(node string, up bool)) {
	h.telling.Lock()
	defer h.telling.Unlock()
	h.subscribers = append(h.subscribers, fn)
	for _, node := range h.Nodes() {
		fn(node, true)
	}
}

// up makes a link the one of its node. The newest wins: an agent dials again when
// it has given its old link up, which this end may not know yet.
func (h *Hub) up(l *nodeLink) {
	h.telling.Lock()
	defer h.telling.Unlock()
	h.mu.Lock()
	old := h.links[l.node]
	h.mu.Unlock()
	if old != nil {
		h.config.Log.Info("a new link replaces the node's old one", "node", l.node)
		h.remove(old)
	}
	h.mu.Lock()
	h.links[l.node] = l
	h.mu.Unlock()
	h.tell(l.node, true)
}

// down ends a link, unless another has replaced it.
func (h *Hub) down(l *nodeLink) {
	h.telling.Lock()
	defer h.telling.Unlock()
	h.mu.Lock()
	current := h.links[l.node] == l
	h.mu.Unlock()
	if current {
		h.remove(l)
	}
}

// remove forgets the current link of a node; telling is held.
func (h *Hub) remove(l *nodeLink) {
	h.mu.Lock()
	delete(h.links, l.node)
	h.mu.Unlock()
	l.end()
	h.tell(l.node, false)
}

func (h *Hub) tell(node string, up bool) {
	for _, fn := range h.subscribers {
		fn(node, up)
	}
}
