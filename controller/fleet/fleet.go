package fleet

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/lamina-csi/lamina/driver/link"
)

// Links is what the fleet uses of a [link.Hub].
type Links interface {
	// Conn is the connection over the link of a node; an error if it has none.
	Conn(node string) (*grpc.ClientConn, error)
	// Subscribe has fn called for every link that is up, and then for every change:
	// in order for each node. A link that replaces another may come as a second "up".
	Subscribe(fn func(node string, up bool))
}

// Fleet is the state of all nodes. Its methods may be called at any time from any
// goroutine; the messages that they return must not be changed.
type Fleet struct {
	links Links
	log   *slog.Logger

	mu          sync.Mutex
	nodes       map[string]*node
	owners      map[string][]string // by VG UUID, the newest claim last; see owner.go
	subscribers []func(node string)
	running     sync.WaitGroup // goroutines of sessions
}

// node is what is known of a node that has had a link, or where pools are wanted.
type node struct {
	session *session // nil: no link
	// status is what the node sent last, over this link or an earlier one.
	status []*link.PoolStatus
	seen   bool // status was sent at all
	// groups are the volume groups that it has ever claimed; see maxGroups.
	groups map[string]bool
	// desired is what is wanted; it counts only if known.
	desired []*link.Pool
	known   bool
	version int // of desired
	gone    bool
}

// session is the life of one link.
type session struct {
	ctx      context.Context
	cancel   context.CancelFunc
	shown    bool // a status came over this link
	applying bool // a goroutine brings desired to the agent
}

// New makes a Fleet that knows no node; see [Fleet.Run]. log may be nil.
func New(links Links, log *slog.Logger) *Fleet {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Fleet{links: links, log: log, nodes: map[string]*node{}, owners: map[string][]string{}}
}

// Run follows the links until ctx ends. It must be called once.
func (f *Fleet) Run(ctx context.Context) error {
	f.links.Subscribe(func(name string, up bool) { f.change(ctx, name, up) })
	<-ctx.Done()
	f.mu.Lock() // whoever holds it sees afterwards that ctx has ended
	for _, n := range f.nodes {
		n.session = nil
	}
	f.mu.Unlock()
	f.running.Wait()
	return nil
}

// change begins or ends the session of a link.
func (f *Fleet) change(ctx context.Context, name string, up bool) {
	f.mu.Lock()
	if ctx.Err() != nil || !up && f.nodes[name] == nil {
		f.mu.Unlock()
		return
	}
	n := f.node(name)
	if n.session != nil {
		n.session.cancel()
		n.session = nil
	}
	switch {
	case up:
		s := &session{}
		s.ctx, s.cancel = context.WithCancel(ctx)
		n.session, n.gone = s, false
		f.running.Go(func() { f.watch(name, s) })
		f.startApply(name, n)
	case n.gone:
		f.drop(name)
	}
	f.mu.Unlock()
	f.notify(name)
}

// node is the entry of a name, made on first use. The caller holds mu.
func (f *Fleet) node(name string) *node {
	n := f.nodes[name]
	if n == nil {
		n = &node{groups: map[string]bool{}}
		f.nodes[name] = n
	}
	return n
}

// SetDesired says which pools are wanted on a node from now on; none is also a
// wish. Until the first call for a node nothing is sent to it, and its agent keeps
// what it was told last. pools must not be changed afterwards.
func (f *Fleet) SetDesired(name string, pools []*link.Pool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.node(name)
	n.gone = false
	if n.known && slices.EqualFunc(n.desired, pools, func(a, b *link.Pool) bool { return proto.Equal(a, b) }) {
		return
	}
	n.desired, n.known = pools, true
	n.version++
	f.startApply(name, n)
}

// Forget drops what is known of a node that is no part of the cluster any more:
// at once if it has no link, else when the link ends. Nothing is sent to it. A
// volume group that only it has shown is then on no known node.
func (f *Fleet) Forget(name string) {
	f.mu.Lock()
	n := f.nodes[name]
	if n == nil {
		f.mu.Unlock()
		return
	}
	n.desired, n.known, n.gone = nil, false, true
	if n.session == nil {
		f.drop(name)
	}
	f.mu.Unlock()
	f.notify(name)
}

// drop removes a node without a link. The caller holds mu.
func (f *Fleet) drop(name string) {
	for vg := range f.owners {
		f.unclaim(vg, name)
	}
	delete(f.nodes, name)
}

// Status is what a node last sent, and whether it has a link now. It is nil for a
// node that has sent nothing yet.
func (f *Fleet) Status(name string) (pools []*link.PoolStatus, linked bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[name]
	if n == nil {
		return nil, false
	}
	return n.status, n.session != nil
}

// Nodes lists the nodes that have a link, or have sent a status over an earlier
// one, sorted.
func (f *Fleet) Nodes() []string {
	return f.list(func(n *node) bool { return n.session != nil || n.seen })
}

// Away lists the nodes that have no link, although they had one or pools are
// wanted there, sorted.
func (f *Fleet) Away() []string {
	return f.list((*node).away)
}

// away: a node without a link, of which nothing was ever seen or wanted, has no
// agent.
func (n *node) away() bool {
	return n.session == nil && (n.seen || len(n.desired) > 0)
}

func (f *Fleet) list(which func(*node) bool) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for name, n := range f.nodes {
		if which(n) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// Conn is the connection over the link of a node; an error if it has none.
func (f *Fleet) Conn(name string) (*grpc.ClientConn, error) { return f.links.Conn(name) }

// Subscribe has fn called after every change of a node's status or link, with the
// node's name. Changes are not queued: fn finds out itself what is now. It is
// called by the goroutine that follows the link and holds up that node, and for a
// change of link all others, so it must return at once: let it put the name on a
// work queue.
func (f *Fleet) Subscribe(fn func(node string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subscribers = append(f.subscribers, fn)
}

func (f *Fleet) notify(name string) {
	f.mu.Lock()
	list := f.subscribers // only ever appended to
	f.mu.Unlock()
	for _, fn := range list {
		fn(name)
	}
}
