// Package controller is the program lamina-controller: it elects a leader, and the
// leader runs the parts that stand between Kubernetes and the agents on the nodes.
//
// A standby answers /healthz and /readyz, waits for the lease, and does nothing
// else. Who loses the lease ends its process: informers cannot start again, and a
// second leader must not find the first one still at work.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/tools/leaderelection"

	"github.com/lamina-csi/lamina/controller/cert"
)

// Config says where and for whom the controller works.
type Config struct {
	Version string
	Clients Clients
	// Namespace has the lease, the Secret and the ConfigMaps, and the agents'
	// ServiceAccount.
	Namespace string
	// Pod is the name of this program's own pod; empty outside of a cluster. It gets
	// the label by which the Service finds the leader.
	Pod string
	// Identity names this process in the lease. It must be its own: two processes
	// of one identity would both lead.
	Identity string
	// Elect is false for a controller that is alone.
	Elect bool
	// Listen is the TCP address for the agents' links, HTTP that for /metrics,
	// /healthz and /readyz; HTTP may be empty.
	Listen, HTTP string
	// Endpoint is the path of a unix socket that serves CSI to stock sidecars while
	// this process leads; empty: none.
	Endpoint string
	// Sidecars is false where the stock ones do that work. Both at once would do it
	// twice.
	Sidecars bool
	Log      *slog.Logger
}

// phase is how far a process has come.
type phase int32

const (
	standby phase = iota // somebody else leads, or nobody yet
	starting
	leading
)

// controller is a process.
type controller struct {
	Config
	log      *slog.Logger
	registry *prometheus.Registry
	phase    atomic.Int32
	watchdog *leaderelection.HealthzAdaptor
	certs    *cert.Keeper
	beacon   *beacon
	parts    *parts
}

// Run blocks until ctx ends, and then stops in order: what is under way ends, the
// pod is no longer the leader's, the lease is free. It returns nil then. A lost
// lease is an error.
func Run(ctx context.Context, config Config) error {
	c := &controller{
		Config:   config,
		log:      config.Log,
		registry: prometheus.NewRegistry(),
		watchdog: leaderelection.NewLeaderHealthzAdaptor(renewDeadline),
		certs:    cert.New(config.Clients.Kube, config.Namespace, config.Log),
	}
	if config.Pod != "" {
		c.beacon = &beacon{client: config.Clients.Kube, namespace: config.Namespace, pod: config.Pod, log: config.Log}
	}
	// Before any client is used: the sidecars' libraries set up globals.
	var err error
	if c.parts, err = c.build(); err != nil {
		return err
	}
	c.registry.MustRegister(c.certs, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "lamina_controller_leader",
		Help: "1 while this process leads and takes links.",
	}, func() float64 {
		if c.in(leading) {
			return 1
		}
		return 0
	}))

	g, ctx := errgroup.WithContext(ctx)
	if c.HTTP != "" {
		g.Go(func() error { return c.serveHTTP(ctx) })
	}
	g.Go(func() error { return c.elect(ctx) })
	return g.Wait()
}

// elect leads when it may.
func (c *controller) elect(ctx context.Context) error {
	if c.beacon != nil {
		// A container that was restarted finds its former life's label on the pod.
		if err := c.beacon.yield(ctx); err != nil {
			return err
		}
	}
	if !c.Elect {
		return c.lead(ctx, context.WithoutCancel(ctx))
	}
	e := &election{
		client: c.Clients.Lease, namespace: c.Namespace, identity: c.Identity,
		watchdog: c.watchdog, log: c.log,
	}
	return e.run(ctx, c.lead)
}

func (c *controller) in(p phase) bool { return phase(c.phase.Load()) == p }

// stopTimeout is how long calls that are under way have to end at a stop. One that
// is cut off there may have made a volume that no PV tells of, until the next
// leader asks for it again by its name. A pod's grace period must be longer.
const stopTimeout = 40 * time.Second

// lead does the leader's work. When ctx ends it stops in order; when lease ends,
// at once.
func (c *controller) lead(ctx, lease context.Context) error {
	if ctx.Err() != nil || lease.Err() != nil {
		return nil
	}
	lease, release := context.WithCancel(lease)
	defer release()
	c.phase.Store(int32(starting))
	defer c.phase.Store(int32(standby))
	if err := c.certs.Ensure(lease); err != nil {
		return err
	}
	l, err := c.listen(ctx, lease)
	if err != nil || l == nil {
		return err
	}

	// base is what carries calls: it ends after work, which makes them.
	base, baseCtx := errgroup.WithContext(lease)
	workCtx, stopWork := context.WithCancel(baseCtx)
	defer stopWork()
	stop := context.AfterFunc(ctx, stopWork)
	defer stop()
	work, workCtx := errgroup.WithContext(workCtx)

	for _, p := range c.parts.base(l) {
		base.Go(func() error { return p.run(baseCtx) })
	}
	if c.beacon != nil {
		base.Go(func() error { return part{"the leader's label", c.beacon.Run}.run(baseCtx) })
	}
	base.Go(func() error { return part{"certificates", c.certs.Run}.run(baseCtx) })
	for _, p := range c.work() {
		work.Go(func() error { return p.run(workCtx) })
	}
	c.phase.Store(int32(leading))
	c.log.Info("this process leads", "listen", l.Addr().String())

	workErr := c.waitForWork(work, workCtx)
	release()
	defer c.parts.informers.Shutdown()
	return errors.Join(workErr, base.Wait())
}

// waitForWork waits until the work has ended, but not for ever.
func (c *controller) waitForWork(work *errgroup.Group, ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- work.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(stopTimeout):
		c.log.Warn("calls had not ended when the controller stopped", "waited", stopTimeout)
		return nil
	}
}

// part is one of the things that run side by side until ctx ends.
type part struct {
	name string
	Run  func(ctx context.Context) error
}

// run gives nil after an orderly end. A part that ends by itself ends the process.
func (p part) run(ctx context.Context) error {
	err := p.Run(ctx)
	switch {
	case ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)):
		return nil
	case err == nil:
		return fmt.Errorf("run %s: it ended by itself", p.name)
	default:
		return fmt.Errorf("run %s: %w", p.name, err)
	}
}
