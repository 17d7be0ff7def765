// Package pools turns the labels of nodes into the pools that are wanted there,
// and says on each node, in conditions and events, how its pools are.
//
// A label pool.lamina.dev/<pool>=<profile> asks for a pool. The profiles are the
// keys of the ConfigMap lamina-profiles; nvme is built in unless it is one of them.
// A label that names none of them, an empty one too, changes nothing on the node:
// an event says so, and a pool that is there already stays as it is.
//
// What cannot be read is not taken for empty. While the ConfigMap has not been
// read, no pools are set: it might redefine nvme. When it is deleted, what it said
// last still counts.
package pools

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/lamina-csi/lamina/driver/link"
)

// ProfilesConfigMap holds the profiles: a key is a name, its value one profile in
// YAML.
const ProfilesConfigMap = "lamina-profiles"

const (
	// concurrency bounds the patches under way.
	concurrency = 4
	// coalesce is how long a change waits for others of the same node.
	coalesce = 500 * time.Millisecond
	// retryLeast and retryMost bound the wait after an error of the API.
	retryLeast, retryMost = time.Second, 5 * time.Minute
	// noResync: the other users of the informers want all objects again at times.
	noResync = 0
)

// Fleet is what is used of the agents; *fleet.Fleet is one.
type Fleet interface {
	// SetDesired sets all the pools that are wanted on a node.
	SetDesired(node string, pools []*link.Pool)
	// Forget drops what is known of a node that has left the cluster.
	Forget(node string)
	// Status is what the node's agent said last, and whether its link is up.
	Status(node string) (pools []*link.PoolStatus, linked bool)
	// Subscribe has fn called after every change of a node's status or link.
	Subscribe(fn func(node string))
}

// Recorder records events; a record.EventRecorder is one.
type Recorder interface {
	Event(object runtime.Object, eventtype, reason, message string)
}

// Config is what [Pools] works with. Log and Metrics may be nil.
type Config struct {
	Client kubernetes.Interface
	// Informers gives the nodes, with their labels and conditions. The caller starts
	// it after New.
	Informers informers.SharedInformerFactory
	Fleet     Fleet
	Recorder  Recorder
	Namespace string // of the ConfigMap
	Log       *slog.Logger
	Metrics   prometheus.Registerer
}

// Pools keeps the pools of all nodes as their labels say.
type Pools struct {
	config Config
	log    *slog.Logger
	nodes  cache.SharedIndexInformer
	lister corelisters.NodeLister
	queue  workqueue.TypedRateLimitingInterface[string] // of node names
	writes prometheus.Counter

	mu       sync.Mutex
	profiles map[string]string // nil: never read
	states   map[string]*state
}

// New makes a Pools and registers its metric.
func New(c Config) *Pools {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	nodes := c.Informers.Core().V1().Nodes()
	p := &Pools{
		config: c, log: c.Log, nodes: nodes.Informer(), lister: nodes.Lister(),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](retryLeast, retryMost)),
		writes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lamina_pool_condition_writes_total",
			Help: "Patches of nodes that set or remove conditions of pools.",
		}),
		states: map[string]*state{},
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(p.writes)
	}
	return p
}

// Run works until ctx ends.
func (p *Pools) Run(ctx context.Context) error {
	defer p.queue.ShutDown()
	registered, err := p.nodes.AddEventHandlerWithResyncPeriod(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(n any) { p.queue.Add(n.(*corev1.Node).Name) },
		UpdateFunc: p.nodeChanged,
		DeleteFunc: func(n any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(n); err == nil {
				p.queue.Add(key)
			}
		},
	}, noResync)
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	profiles, err := p.watchProfiles()
	if err != nil {
		return fmt.Errorf("watch ConfigMap %s: %w", ProfilesConfigMap, err)
	}
	profiles.Start(ctx.Done())
	defer profiles.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), registered.HasSynced) {
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

func (p *Pools) next(ctx context.Context) bool {
	node, stop := p.queue.Get()
	if stop {
		return false
	}
	defer p.queue.Done(node)
	again, err := p.reconcile(ctx, node)
	if err != nil && ctx.Err() == nil {
		p.log.Warn("tell of the pools of a node", "node", node, "error", err)
		p.queue.AddRateLimited(node)
		return true
	}
	p.queue.Forget(node)
	if again > 0 {
		p.queue.AddAfter(node, again)
	}
	return true
}

// nodeChanged passes over what kubelet and others write.
func (p *Pools) nodeChanged(before, after any) {
	old, n := before.(*corev1.Node), after.(*corev1.Node)
	if old.UID != n.UID || !maps.Equal(poolLabels(old), poolLabels(n)) || !maps.Equal(poolConditions(old), poolConditions(n)) {
		p.queue.Add(n.Name)
	}
}

// watchProfiles reads one ConfigMap, so that the right to read that one is enough.
// Nothing waits for it: without it nodes are still told of.
func (p *Pools) watchProfiles() (informers.SharedInformerFactory, error) {
	f := informers.NewSharedInformerFactoryWithOptions(p.config.Client, 0,
		informers.WithNamespace(p.config.Namespace),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, ProfilesConfigMap).String()
		}))
	set := func(c any) {
		if c := c.(*corev1.ConfigMap); c.Name == ProfilesConfigMap {
			p.setProfiles(c.Data)
		}
	}
	_, err := f.Core().V1().ConfigMaps().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    set,
		UpdateFunc: func(_, c any) { set(c) },
		DeleteFunc: func(any) {
			p.log.Warn("the profiles are gone; what they were still counts until this program ends", "configmap", ProfilesConfigMap)
		},
	})
	return f, err
}

// setProfiles has every node with a pool looked at again.
func (p *Pools) setProfiles(data map[string]string) {
	p.mu.Lock()
	first := p.profiles == nil
	p.profiles = maps.Clone(data)
	if p.profiles == nil {
		p.profiles = map[string]string{}
	}
	p.mu.Unlock()
	for _, obj := range p.nodes.GetStore().List() {
		// A node without labels gets its empty set with the first profiles.
		if n := obj.(*corev1.Node); first || len(poolLabels(n)) > 0 {
			p.queue.Add(n.Name)
		}
	}
}
