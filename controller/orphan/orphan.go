// Package orphan finds what has lost its other half: volumes on a node without a
// PersistentVolume, and PersistentVolumes whose volume their node does not have. It
// tells of them, in a metric and in events, and removes nothing, ever. The second
// thing here is [Forget]: volumes that a person gives up together with their node.
//
// A node is asked soon after its link is up, and every ten minutes then. Of a node
// without a link, or whose agent has not looked at its disks yet, nothing is said.
// An orphan is what two looks at least a minute apart found, and:
//
//   - a volume counts only if no PersistentVolume has its id, and no claim that
//     still waits for a volume has its name. So a volume that is being made, however
//     long that takes, is none. The volumes are read before the PersistentVolumes.
//   - a PersistentVolume counts only if it is not being deleted and its volume group
//     is whole. The PersistentVolumes are read before the volumes.
package orphan

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/lamina-csi/lamina/controller/placement"
	"github.com/lamina-csi/lamina/driver/link"
)

const (
	// concurrency bounds the nodes that are asked at the same time.
	concurrency = 16
	// lookTimeout bounds one look at a node.
	lookTimeout = time.Minute
)

// Fleet is what is used of the agents; *fleet.Fleet is one.
type Fleet interface {
	// Nodes are those that have, or had, a link.
	Nodes() []string
	// NodeOf is the node that a volume group was last seen on.
	NodeOf(vgUUID string) (node string, ok bool)
	// Conn is the connection over a node's link; an error if it has none.
	Conn(node string) (*grpc.ClientConn, error)
	// Subscribe has fn called after every change of a node's status or link.
	Subscribe(fn func(node string))
}

// Recorder records events; a record.EventRecorder is one.
type Recorder interface {
	Event(object runtime.Object, eventtype, reason, message string)
}

// Config is what a [Finder] works with. Log and Metrics may be nil.
type Config struct {
	// Informers gives claims, volumes and Nodes. The caller starts it after New.
	Informers informers.SharedInformerFactory
	Fleet     Fleet
	Recorder  Recorder
	Log       *slog.Logger
	Metrics   prometheus.Registerer
}

// Finder looks for orphans.
type Finder struct {
	config  Config
	log     *slog.Logger
	claims  cache.SharedIndexInformer
	volumes cache.SharedIndexInformer
	volume  corelisters.PersistentVolumeLister
	nodes   cache.SharedIndexInformer
	node    corelisters.NodeLister
	queue   workqueue.TypedDelayingInterface[string] // of node names

	// soon is how long after its link is up a node is first asked, or up to twice as
	// long, since all nodes may come at once; and how long one has to wait that has not
	// settled. apart is the least time between the two looks that find an orphan; cycle
	// is the time between looks otherwise. Both are up to a quarter longer.
	soon, apart, cycle time.Duration

	mu    sync.Mutex
	views map[string]*view // of the nodes with a link
}

// New makes a Finder and registers its metric.
func New(c Config) *Finder {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	core := c.Informers.Core().V1()
	f := &Finder{
		config: c, log: c.Log,
		claims:  core.PersistentVolumeClaims().Informer(),
		volumes: core.PersistentVolumes().Informer(), volume: core.PersistentVolumes().Lister(),
		nodes: core.Nodes().Informer(), node: core.Nodes().Lister(),
		queue: workqueue.NewTypedDelayingQueue[string](),
		soon:  30 * time.Second, apart: time.Minute, cycle: 10 * time.Minute,
		views: map[string]*view{},
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(f)
	}
	return f
}

// Run works until ctx ends.
func (f *Finder) Run(ctx context.Context) error {
	defer f.queue.ShutDown()
	if err := index(f.volumes); err != nil {
		return err
	}
	if !cache.WaitForCacheSync(ctx.Done(), f.claims.HasSynced, f.volumes.HasSynced, f.nodes.HasSynced) {
		return nil
	}
	f.config.Fleet.Subscribe(f.changed)
	for _, node := range f.config.Fleet.Nodes() {
		f.changed(node)
	}
	var workers sync.WaitGroup
	for range concurrency {
		workers.Go(func() {
			for f.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	f.queue.ShutDown()
	workers.Wait()
	return nil
}

// changed begins with a node whose link is up, and ends with one whose link is not.
func (f *Finder) changed(node string) {
	_, err := f.config.Fleet.Conn(node)
	f.mu.Lock()
	defer f.mu.Unlock()
	_, known := f.views[node]
	switch {
	case err != nil:
		delete(f.views, node)
	case !known:
		f.views[node] = &view{suspects: map[string]*suspect{}}
		f.queue.AddAfter(node, f.soon+rand.N(f.soon+1))
	}
}

func (f *Finder) next(ctx context.Context) bool {
	node, stop := f.queue.Get()
	if stop {
		return false
	}
	defer f.queue.Done(node)
	f.mu.Lock()
	v := f.views[node]
	f.mu.Unlock()
	if v == nil {
		return true
	}
	seen, err := f.look(ctx, node)
	switch {
	case errors.Is(err, errUnsettled):
		f.queue.AddAfter(node, about(f.soon))
	case err != nil:
		if ctx.Err() == nil {
			f.log.Warn("look for orphans on a node", "node", node, "error", err)
		}
		f.queue.AddAfter(node, about(f.cycle))
	default:
		found, again := f.take(node, v, seen)
		f.queue.AddAfter(node, again)
		f.tell(node, found)
	}
	return true
}

// about is a duration, up to a quarter longer.
func about(d time.Duration) time.Duration { return d + rand.N(d/4+1) }

// view is what is known of a node over its link that is up now.
type view struct {
	looked   bool // at least one look was complete
	suspects map[string]*suspect
}

// suspect is what may be an orphan: it is one when told.
type suspect struct {
	orphan
	first time.Time
	told  bool
}

// orphan is half of something.
type orphan struct {
	kind string // see below
	id   string // of the volume
	text string // for people
	// pv is the object, for the kind of that name.
	pv *corev1.PersistentVolume
}

// Kinds of orphans, as the metric names them.
const (
	kindVolume = "volume"
	kindPV     = "persistentvolume"
)

// take compares a look with those before. found are the orphans that are new.
func (f *Finder) take(node string, v *view, seen look) (found []orphan, again time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.views[node] != v {
		return nil, f.soon // the link ended meanwhile
	}
	before := v.suspects
	v.looked, v.suspects = true, map[string]*suspect{}
	again = about(f.cycle)
	for _, o := range seen.orphans {
		key := o.kind + " " + o.id
		s := before[key]
		if s == nil {
			s = &suspect{first: seen.began}
		}
		s.orphan = o
		v.suspects[key] = s
		switch {
		case s.told:
		case seen.began.Sub(s.first) >= f.apart:
			s.told = true
			found = append(found, o)
		default:
			again = about(f.apart)
		}
	}
	return found, again
}

// Describe implements prometheus.Collector.
func (f *Finder) Describe(out chan<- *prometheus.Desc) { out <- gauge }

var gauge = prometheus.NewDesc("lamina_orphans",
	"Volumes on a linked node that have no PersistentVolume (volume), and PersistentVolumes whose volume their node does not have (persistentvolume).",
	[]string{"kind", "node"}, nil)

// Collect implements prometheus.Collector.
func (f *Finder) Collect(out chan<- prometheus.Metric) {
	type row struct {
		node       string
		lvs, lacks int
	}
	f.mu.Lock()
	var rows []row
	for node, v := range f.views {
		if !v.looked {
			continue
		}
		r := row{node: node}
		for _, s := range v.suspects {
			switch {
			case !s.told:
			case s.kind == kindVolume:
				r.lvs++
			default:
				r.lacks++
			}
		}
		rows = append(rows, r)
	}
	f.mu.Unlock()
	for _, r := range rows {
		out <- prometheus.MustNewConstMetric(gauge, prometheus.GaugeValue, float64(r.lvs), kindVolume, r.node)
		out <- prometheus.MustNewConstMetric(gauge, prometheus.GaugeValue, float64(r.lacks), kindPV, r.node)
	}
}

// Indexes of PersistentVolumes of ours.
const (
	byHandle = "lamina-handle"
	byNode   = "lamina-node"
)

// index adds the indexes that are not there yet.
func index(volumes cache.SharedIndexInformer) error {
	add := cache.Indexers{
		byHandle: func(obj any) ([]string, error) {
			if pv := obj.(*corev1.PersistentVolume); ours(pv) {
				return []string{pv.Spec.CSI.VolumeHandle}, nil
			}
			return nil, nil
		},
		byNode: func(obj any) ([]string, error) {
			if pv := obj.(*corev1.PersistentVolume); ours(pv) && placement.NodeOf(pv) != "" {
				return []string{placement.NodeOf(pv)}, nil
			}
			return nil, nil
		},
	}
	for name := range volumes.GetIndexer().GetIndexers() {
		delete(add, name)
	}
	if err := volumes.AddIndexers(add); err != nil {
		return fmt.Errorf("index volumes: %w", err)
	}
	return nil
}

func ours(pv *corev1.PersistentVolume) bool {
	return pv.Spec.CSI != nil && pv.Spec.CSI.Driver == link.DriverName
}

// volumesBy are the PersistentVolumes of an index.
func volumesBy(volumes cache.SharedIndexInformer, name, value string) ([]*corev1.PersistentVolume, error) {
	found, err := volumes.GetIndexer().ByIndex(name, value)
	if err != nil {
		return nil, err
	}
	out := make([]*corev1.PersistentVolume, 0, len(found))
	for _, obj := range found {
		out = append(out, obj.(*corev1.PersistentVolume))
	}
	return out, nil
}
