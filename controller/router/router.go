package router

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/lamina-csi/lamina/controller/fleet"
)

// Config says what a [Router] routes by. Fleet is required.
type Config struct {
	Fleet   *fleet.Fleet
	Version string       // that GetPluginInfo tells
	Log     *slog.Logger // nil: nothing is logged

	// Forgotten reports whether an administrator gave up the volume or snapshot of
	// that id together with its node. A deletion that cannot reach its node then
	// succeeds without touching anything. It must be sure that the node is no part of
	// the cluster any more. nil: none is.
	Forgotten func(id string) bool
	// NodeHint names the node that a volume was on as far as Kubernetes knows, for
	// error texts; "": not known. May be nil.
	NodeHint func(volumeID string) string

	// Fresh reports whether the volume of that name was first asked for after New, so
	// that no earlier controller can have begun it. Of the others, every node is
	// asked. nil: it is not known of any.
	Fresh func(name string) bool

	// Settle is how long after New a CreateVolume that several nodes could serve
	// waits for those of them that have no link: an earlier controller may have
	// begun the same volume there. Default: 2 minutes, four times as long as an
	// agent takes to link again.
	Settle time.Duration
}

// Router implements the CSI services that a controller has.
type Router struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedGroupControllerServer

	config   Config
	fleet    *fleet.Fleet
	log      *slog.Logger
	metrics  metrics
	attempts attempts
	claims   claims
	settled  time.Time

	pipe *bufconn.Listener
	conn *grpc.ClientConn
}

// New makes a Router. Its connection ([Router.Conn]) is served by [Router.Run].
func New(c Config) *Router {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Forgotten == nil {
		c.Forgotten = func(string) bool { return false }
	}
	if c.NodeHint == nil {
		c.NodeHint = func(string) string { return "" }
	}
	if c.Settle == 0 {
		c.Settle = 2 * time.Minute
	}
	r := &Router{
		config: c, fleet: c.Fleet, log: c.Log, metrics: newMetrics(),
		settled: time.Now().Add(c.Settle), pipe: bufconn.Listen(1 << 16),
	}
	var err error
	r.conn, err = grpc.NewClient("passthrough:///router",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return r.pipe.DialContext(ctx) }))
	if err != nil {
		panic(fmt.Sprintf("router: connection within the process: %v", err)) // the options are wrong
	}
	return r
}

// Conn is a connection to the router within the process. Calls wait until Run runs.
func (r *Router) Conn() *grpc.ClientConn { return r.conn }

// Run serves [Router.Conn] until ctx ends, and closes it.
func (r *Router) Run(ctx context.Context) error {
	defer r.conn.Close()
	return r.Serve(ctx, r.pipe)
}

// Serve serves CSI on a listener until ctx ends, and closes it. Calls that are
// under way are cut short: their callers repeat them, to whoever leads then.
func (r *Router) Serve(ctx context.Context, l net.Listener) error {
	s := grpc.NewServer(grpc.ChainUnaryInterceptor(r.record, r.recover))
	r.Register(s)
	defer context.AfterFunc(ctx, s.Stop)()
	if err := s.Serve(l); ctx.Err() == nil {
		return fmt.Errorf("serve CSI on %s: %w", l.Addr(), err)
	}
	return nil
}

// Register adds the CSI services to a server.
func (r *Router) Register(s grpc.ServiceRegistrar) {
	csi.RegisterIdentityServer(s, r)
	csi.RegisterControllerServer(s, r)
	csi.RegisterGroupControllerServer(s, r)
}

// Describe implements prometheus.Collector.
func (r *Router) Describe(out chan<- *prometheus.Desc) {
	r.metrics.requests.Describe(out)
	r.metrics.nodes.Describe(out)
}

// Collect implements prometheus.Collector.
func (r *Router) Collect(out chan<- prometheus.Metric) {
	r.metrics.requests.Collect(out)
	r.metrics.nodes.Collect(out)
}
