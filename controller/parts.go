package controller

import (
	"context"
	"fmt"
	"net"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/lamina-csi/lamina/controller/auth"
	"github.com/lamina-csi/lamina/controller/capacity"
	"github.com/lamina-csi/lamina/controller/fleet"
	"github.com/lamina-csi/lamina/controller/orphan"
	"github.com/lamina-csi/lamina/controller/placement"
	"github.com/lamina-csi/lamina/controller/pools"
	"github.com/lamina-csi/lamina/controller/router"
	"github.com/lamina-csi/lamina/controller/sidecar"
	"github.com/lamina-csi/lamina/driver/link"
)

// parts are what the leader runs.
type parts struct {
	informers informers.SharedInformerFactory
	events    record.EventBroadcaster
	hub       *link.Hub
	fleet     *fleet.Fleet
	router    *router.Router
	sidecar   *sidecar.Sidecar
	pools     *pools.Pools
	placement *placement.Placement
	orphans   *orphan.Finder
	forget    *orphan.Forget
	capacity  *capacity.Publisher // made by listen
	fresh     fresh
}

// build makes the parts, which do nothing yet.
func (c *controller) build() (*parts, error) {
	kube := c.Clients.Kube
	p := &parts{informers: newInformers(kube), events: record.NewBroadcaster()}
	recorder := p.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "lamina-controller"})
	p.hub = link.NewHub(link.HubConfig{
		TLS:          c.certs.TLS(),
		Authenticate: auth.New(c.Clients.Reviews, c.Namespace).Authenticate,
		Log:          c.log,
	})
	p.fleet = fleet.New(p.hub, c.log)
	// The sidecars, made last, have the snapshots that the others follow.
	contents := func(ctx context.Context) cache.SharedIndexInformer { return p.sidecar.Contents(ctx) }
	var err error
	p.forget, err = orphan.NewForget(orphan.ForgetConfig{
		Client: kube, Informers: p.informers, Contents: contents, Fleet: p.fleet, Recorder: recorder, Log: c.log,
	})
	if err != nil {
		return nil, err
	}
	if err := p.fresh.follow(p.informers.Core().V1().PersistentVolumeClaims().Informer()); err != nil {
		return nil, err
	}
	p.router = router.New(router.Config{
		Fleet: p.fleet, Version: c.Version, Log: c.log,
		Forgotten: p.forget.Forgotten, NodeHint: p.forget.Node, Fresh: p.fresh.volume,
	})
	p.sidecar, err = sidecar.New(sidecar.Config{
		DriverName: link.DriverName,
		Client:     kube, Snapshots: c.Clients.Snapshots, Informers: p.informers,
		Conn: p.router.Conn(), Log: c.log, Registry: c.registry,
	})
	if err != nil {
		return nil, err
	}
	p.pools = pools.New(pools.Config{
		Client: c.Clients.Bulk, Informers: p.informers, Fleet: p.fleet, Recorder: recorder,
		Namespace: c.Namespace, Log: c.log, Metrics: c.registry,
	})
	p.placement = placement.New(placement.Config{
		Client: kube, Snapshots: c.Clients.Snapshots, Informers: p.informers, Contents: contents,
		Fleet: p.fleet, Log: c.log, Metrics: c.registry,
	})
	p.orphans = orphan.New(orphan.Config{
		Informers: p.informers, Fleet: p.fleet, Recorder: recorder, Log: c.log, Metrics: c.registry,
	})
	c.registry.MustRegister(p.fleet, p.router)
	return p, nil
}

// listen fills the caches, which live as long as the lease, and then listens for
// agents: the first of them is told at once what is wanted of it. It returns no
// listener when ctx ends before.
func (c *controller) listen(ctx, lease context.Context) (net.Listener, error) {
	owner, err := c.owner(lease)
	if err != nil {
		return nil, err
	}
	c.parts.capacity = capacity.New(capacity.Config{
		Client: c.Clients.Bulk, Informers: c.parts.informers, Fleet: c.parts.fleet,
		Namespace: c.Namespace, Owner: owner, Log: c.log, Metrics: c.registry,
	})
	c.parts.informers.Start(lease.Done())
	c.parts.informers.WaitForCacheSync(ctx.Done())
	if ctx.Err() != nil || lease.Err() != nil {
		return nil, nil
	}
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for agents: %w", err)
	}
	return l, nil
}

// deployment is the one that runs this program in a cluster.
const deployment = "lamina-controller"

// owner is the Deployment, with which the capacity objects go. A controller outside
// of a cluster has none: its objects stay.
func (c *controller) owner(ctx context.Context) (metav1.OwnerReference, error) {
	if c.Pod == "" {
		return metav1.OwnerReference{}, nil
	}
	d, err := c.Clients.Kube.AppsV1().Deployments(c.Namespace).Get(ctx, deployment, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return metav1.OwnerReference{}, nil
	}
	if err != nil {
		return metav1.OwnerReference{}, fmt.Errorf("find the Deployment %s/%s, with which the capacities go: %w", c.Namespace, deployment, err)
	}
	return metav1.OwnerReference{APIVersion: "apps/v1", Kind: "Deployment", Name: d.Name, UID: d.UID}, nil
}

// base are the parts that carry calls.
func (p *parts) base(l net.Listener) []part {
	return []part{
		{"links", func(ctx context.Context) error { return p.hub.Serve(ctx, l) }},
		{"fleet", p.fleet.Run},
		{"router", p.router.Run},
	}
}

// work are the parts that make calls.
func (c *controller) work() []part {
	p := c.parts
	work := []part{
		{"events", c.recordEvents},
		{"pools", p.pools.Run},
		{"capacity", p.capacity.Run},
		{"placement", p.placement.Run},
		{"orphans", p.orphans.Run},
		{"forget", p.forget.Run},
	}
	if c.Sidecars {
		work = append(work, part{"sidecars", p.sidecar.Run})
	}
	if c.Endpoint != "" {
		work = append(work, part{"CSI socket", func(ctx context.Context) error {
			return serveSocket(ctx, c.Endpoint, p.router.Serve)
		}})
	}
	return work
}

// recordEvents sends what the parts tell people to the API server.
func (c *controller) recordEvents(ctx context.Context) error {
	sending := c.parts.events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.Clients.Bulk.CoreV1().Events("")})
	<-ctx.Done()
	sending.Stop()
	c.parts.events.Shutdown()
	return nil
}
