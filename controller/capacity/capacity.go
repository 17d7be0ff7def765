// Package capacity tells the scheduler how much room the pools have: one
// CSIStorageCapacity for each node and StorageClass of ours, written when a value
// changes.
//
// No object says "no room here". So a node that lacks the pool has none, and the
// objects of a node whose agent is away go after a short while: a claim placed
// there would wait. What a program that starts finds stays until the agents have
// had time to link.
package capacity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/lamina-csi/lamina/driver/link"
)

// The labels that tell our objects from those of others; external-provisioner has
// the same two (pkg/capacity).
const (
	driverLabel  = "csi.storage.k8s.io/drivername"
	managerLabel = "csi.storage.k8s.io/managed-by"
	manager      = "lamina-controller"
)

const (
	// concurrency bounds the writes under way.
	concurrency = 8
	// coalesce is how long a change waits for others of the same node: a node is
	// written once a second at most.
	coalesce = time.Second
	// retryLeast and retryMost bound the wait after an error of the API.
	retryLeast, retryMost = time.Second, 5 * time.Minute
)

// Fleet is what is used of the agents; *fleet.Fleet is one.
type Fleet interface {
	// Status is what the node's agent said last, and whether its link is up.
	Status(node string) (pools []*link.PoolStatus, linked bool)
	// Subscribe has fn called after every change of a node's status or link.
	Subscribe(fn func(node string))
}

// Config is what a [Publisher] works with. Log and Metrics may be nil.
type Config struct {
	Client kubernetes.Interface
	// Informers gives nodes and StorageClasses. The caller starts it after New.
	Informers informers.SharedInformerFactory
	Fleet     Fleet
	Namespace string                // of the objects
	Owner     metav1.OwnerReference // of the objects; without UID they have none
	Log       *slog.Logger
	Metrics   prometheus.Registerer
}

// Publisher keeps the CSIStorageCapacity objects.
type Publisher struct {
	config  Config
	log     *slog.Logger
	nodes   cache.SharedIndexInformer
	node    corelisters.NodeLister
	classes cache.SharedIndexInformer
	class   storagelisters.StorageClassLister
	own     informers.SharedInformerFactory // of our objects only
	objects cache.SharedIndexInformer
	queue   workqueue.TypedRateLimitingInterface[string] // of node names
	writes  *prometheus.CounterVec

	mu    sync.Mutex
	known map[string]*sight // by object name
}

// New makes a Publisher and registers its metric.
func New(c Config) *Publisher {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	nodes, classes := c.Informers.Core().V1().Nodes(), c.Informers.Storage().V1().StorageClasses()
	own := informers.NewSharedInformerFactoryWithOptions(c.Client, 0,
		informers.WithNamespace(c.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = labels.FormatLabels(ourLabels()) }),
		informers.WithTransform(func(obj any) (any, error) {
			if o, ok := obj.(metav1.Object); ok {
				o.SetManagedFields(nil)
			}
			return obj, nil
		}))
	p := &Publisher{
		config: c, log: c.Log,
		nodes: nodes.Informer(), node: nodes.Lister(),
		classes: classes.Informer(), class: classes.Lister(),
		own: own, objects: own.Storage().V1().CSIStorageCapacities().Informer(),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](retryLeast, retryMost)),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lamina_capacity_writes_total",
			Help: "Calls that create, patch or delete CSIStorageCapacity objects.",
		}, []string{"verb"}),
		known: map[string]*sight{},
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(p.writes)
	}
	return p
}

// Run works until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	defer p.queue.ShutDown()
	if err := p.objects.AddIndexers(cache.Indexers{byNode: func(obj any) ([]string, error) {
		o := obj.(*storagev1.CSIStorageCapacity)
		if !ours(o) {
			return nil, nil
		}
		return []string{nodeOf(o)}, nil
	}}); err != nil {
		return fmt.Errorf("index capacities: %w", err)
	}
	synced, err := p.watch()
	if err != nil {
		return err
	}
	p.own.Start(ctx.Done())
	defer p.own.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return nil
	}
	p.config.Fleet.Subscribe(func(node string) { p.queue.AddAfter(node, coalesce) })
	var workers sync.WaitGroup
	for range concurrency {
		workers.Go(func() {
			for p.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	p.queue.ShutDown()
	workers.Wait()
	return nil
}

// watch has nodes put into the queue, for what concerns them.
func (p *Publisher) watch() (synced []cache.InformerSynced, err error) {
	for _, w := range []struct {
		what     string
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandlerFuncs
	}{
		{"nodes", p.nodes, cache.ResourceEventHandlerFuncs{AddFunc: p.nodeChanged, DeleteFunc: p.nodeChanged}},
		{"capacities", p.objects, cache.ResourceEventHandlerFuncs{
			AddFunc: p.objectChanged, UpdateFunc: func(_, o any) { p.objectChanged(o) }, DeleteFunc: p.objectChanged,
		}},
		{"storage classes", p.classes, cache.ResourceEventHandlerFuncs{
			AddFunc:    p.classChanged,
			UpdateFunc: func(_, o any) { p.classChanged(o) }, // nothing of ours in a class can be changed
			DeleteFunc: p.classChanged,
		}},
	} {
		// The other users of the informers want all objects again at times.
		const noResync = 0
		registered, err := w.informer.AddEventHandlerWithResyncPeriod(w.handler, noResync)
		if err != nil {
			return nil, fmt.Errorf("watch %s: %w", w.what, err)
		}
		synced = append(synced, registered.HasSynced)
	}
	return synced, nil
}

func (p *Publisher) nodeChanged(obj any) {
	if n, ok := last(obj).(*corev1.Node); ok {
		p.queue.Add(n.Name)
	}
}

// objectChanged is mostly about a write of our own. The other objects of the node
// may have been written too, and not be seen yet.
func (p *Publisher) objectChanged(obj any) {
	if o, ok := last(obj).(*storagev1.CSIStorageCapacity); ok && ours(o) {
		p.queue.AddAfter(nodeOf(o), coalesce)
	}
}

// classChanged concerns every node.
func (p *Publisher) classChanged(obj any) {
	if c, ok := last(obj).(*storagev1.StorageClass); ok && c.Provisioner == link.DriverName {
		for _, node := range p.nodes.GetStore().ListKeys() {
			p.queue.Add(node)
		}
	}
}

// last is an object, or the last state of one whose deletion was missed.
func last(obj any) any {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return gone.Obj
	}
	return obj
}

func (p *Publisher) next(ctx context.Context) bool {
	node, stop := p.queue.Get()
	if stop {
		return false
	}
	defer p.queue.Done(node)
	again, err := p.publish(ctx, node)
	if err != nil && ctx.Err() == nil {
		p.log.Warn("publish the capacity of a node", "node", node, "error", err)
		p.queue.AddRateLimited(node)
		return true
	}
	p.queue.Forget(node)
	if again > 0 {
		p.queue.AddAfter(node, again)
	}
	return true
}

// byNode is the index of our objects by the node that they speak of.
const byNode = "node"

// nodeOf is the node that an object speaks of; "": none, which is a mistake.
func nodeOf(o *storagev1.CSIStorageCapacity) string {
	if o.NodeTopology == nil {
		return ""
	}
	return o.NodeTopology.MatchLabels[link.TopologyKey]
}

func ourLabels() map[string]string {
	return map[string]string{driverLabel: link.DriverName, managerLabel: manager}
}

// ours holds although only such objects are asked for: others' are never deleted.
func ours(o *storagev1.CSIStorageCapacity) bool {
	return labels.SelectorFromSet(ourLabels()).Matches(labels.Set(o.Labels))
}

// objectName is always the same for a node and class. Both names together may be
// too long for a name.
func objectName(node, class string) string {
	sum := sha256.Sum256([]byte(node + "/" + class))
	return "csisc-" + hex.EncodeToString(sum[:16])
}
