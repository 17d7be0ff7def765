// Package placement has a claim that is restored from a snapshot, or cloned from
// another claim, made on the node where its source lies, before the scheduler
// guesses. A claim or StorageClass with the annotation lamina.dev/placement=any
// is left to the scheduler.
//
// The node is written where the scheduler would write its choice, into the claim's
// annotation volume.kubernetes.io/selected-node. Why that holds, in Kubernetes
// 1.37:
//
//   - The scheduler keeps to it: for a claim with the annotation, its volume binder
//     passes over every other node (FindPodVolumes in
//     pkg/scheduler/framework/plugins/volumebinding/binder.go). It writes the
//     annotation itself only after that.
//   - The volume is made at once, with or without a Pod: the annotation is all that
//     the PV controller (IsDelayBindingProvisioning in component-helpers,
//     storage/volume/pv_helpers.go) and the provisioner (shouldProvision in
//     sig-storage-lib-external-provisioner) wait for. From then on the PV's node
//     affinity says the same.
//   - A scheduler that chooses another node at the same moment updates the claim
//     whole (bindAPIUpdate, in binder.go), and this package patches one
//     resourceVersion: one of the two is refused. A refused scheduler looks again
//     and finds the annotation. Where it was first, the router answers
//     ResourceExhausted for the wrong node, on which the provisioner takes the
//     annotation off, and it is written here.
//
// What is not known is not guessed: a source that is not ready, or lies on a node
// that no link has shown, is waited for.
package placement

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	snapshotclient "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/util"

	"github.com/lamina-csi/lamina/driver/link"
)

const (
	// Annotation with the value [Any], on a claim or a StorageClass, leaves the choice
	// of the node to the scheduler.
	Annotation = "lamina.dev/placement"
	Any        = "any"

	selectedNode = "volume.kubernetes.io/selected-node"
)

const (
	// concurrency bounds the calls under way.
	concurrency = 8
	// retryLeast and retryMost bound the wait after an error of the API.
	retryLeast, retryMost = time.Second, time.Minute
	// againLeast and againMost bound the wait until a node is written again that the
	// provisioner took off: it takes it off at once when the node has no room.
	againLeast, againMost = 2 * time.Second, time.Minute
)

// Fleet is what is used of the agents; *fleet.Fleet is one.
type Fleet interface {
	// NodeOf is the node that a volume group was last seen on.
	NodeOf(vgUUID string) (node string, ok bool)
	// Subscribe has fn called after every change of a node's status or link.
	Subscribe(fn func(node string))
}

// Config is what a [Placement] works with. Log and Metrics may be nil.
type Config struct {
	Client    kubernetes.Interface
	Snapshots snapshotclient.Interface
	// Informers gives claims, volumes, StorageClasses and Nodes. The caller starts it
	// after New.
	Informers informers.SharedInformerFactory
	// Contents waits until the snapshot CRDs are installed and gives the informer of
	// VolumeSnapshotContents, which it starts; nil when ctx ended before.
	Contents func(ctx context.Context) cache.SharedIndexInformer
	Fleet    Fleet
	Log      *slog.Logger
	Metrics  prometheus.Registerer
}

// Placement chooses the nodes.
type Placement struct {
	config  Config
	log     *slog.Logger
	claims  cache.SharedIndexInformer
	classes cache.SharedIndexInformer
	nodes   cache.SharedIndexInformer
	claim   corelisters.PersistentVolumeClaimLister
	volume  corelisters.PersistentVolumeLister
	class   storagelisters.StorageClassLister
	node    corelisters.NodeLister
	queue   workqueue.TypedRateLimitingInterface[string] // of claims, namespace/name
	placed  prometheus.Counter

	mu       sync.Mutex
	contents cache.Indexer // nil while the CRDs are not installed
	written  map[string]*written
	waiting  map[string]map[string]bool // claims by the UUID of the VG that no node shows
}

// written is a claim whose node was chosen here.
type written struct {
	uid  types.UID
	next time.Time // not again before
	wait time.Duration
}

// New makes a Placement and registers its metric.
func New(c Config) *Placement {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	core, classes := c.Informers.Core().V1(), c.Informers.Storage().V1().StorageClasses()
	// The lister alone would not have the informer started.
	core.PersistentVolumes().Informer()
	p := &Placement{
		config: c, log: c.Log,
		claims: core.PersistentVolumeClaims().Informer(), claim: core.PersistentVolumeClaims().Lister(),
		volume:  core.PersistentVolumes().Lister(),
		classes: classes.Informer(), class: classes.Lister(),
		nodes: core.Nodes().Informer(), node: core.Nodes().Lister(),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](retryLeast, retryMost)),
		placed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lamina_placements_total",
			Help: "Claims that were given the node of their source, each time it was written.",
		}),
		written: map[string]*written{}, waiting: map[string]map[string]bool{},
	}
	if c.Metrics != nil {
		c.Metrics.MustRegister(p.placed)
	}
	return p
}

// Run works until ctx ends.
func (p *Placement) Run(ctx context.Context) error {
	defer p.queue.ShutDown()
	synced, err := p.watch()
	if err != nil {
		return err
	}
	if !cache.WaitForCacheSync(ctx.Done(), append(synced, p.config.Informers.Core().V1().PersistentVolumes().Informer().HasSynced)...) {
		return nil
	}
	p.config.Fleet.Subscribe(p.nodeShows)
	var running sync.WaitGroup
	for range concurrency {
		running.Go(func() {
			for p.next(ctx) {
			}
		})
	}
	err = p.watchContents(ctx)
	if err == nil {
		<-ctx.Done()
	}
	p.queue.ShutDown()
	running.Wait()
	return err
}

func (p *Placement) next(ctx context.Context) bool {
	key, stop := p.queue.Get()
	if stop {
		return false
	}
	defer p.queue.Done(key)
	again, err := p.place(ctx, key)
	if err != nil && ctx.Err() == nil {
		p.log.Warn("choose the node of a claim that has a source", "claim", key, "error", err)
		p.queue.AddRateLimited(key)
		return true
	}
	p.queue.Forget(key)
	if again > 0 {
		p.queue.AddAfter(key, again)
	}
	return true
}

// place writes the node of a claim's source into the claim, if it waits for one.
// again is when to look again; 0: when something changes.
func (p *Placement) place(ctx context.Context, key string) (again time.Duration, err error) {
	p.unblock(key)
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return 0, err
	}
	c, err := p.claim.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && !waits(c) {
		p.forget(key)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if _, chosen := c.Annotations[selectedNode]; chosen || !p.ours(c) {
		return 0, nil
	}
	if wait := p.early(key, c.UID); wait > 0 {
		return wait, nil
	}
	at, err := p.sourceOf(ctx, c)
	if err != nil {
		return 0, err
	}
	if !p.exists(at.node) {
		return p.block(key, at.vg), nil
	}
	return p.write(ctx, key, c, at.node)
}

func (p *Placement) exists(node string) bool {
	if node == "" {
		return false
	}
	_, err := p.node.Get(node) // the cache has no other error than NotFound
	return err == nil
}

// waits reports whether a claim has a source and no volume yet.
func waits(c *corev1.PersistentVolumeClaim) bool {
	return c.Spec.VolumeName == "" && c.DeletionTimestamp == nil && sourceKey(c) != ""
}

// ours reports whether this driver makes the claim's volume, and late. A volume
// that is bound at once needs no node: the router finds it.
func (p *Placement) ours(c *corev1.PersistentVolumeClaim) bool {
	class, err := p.class.Get(util.GetPersistentVolumeClaimClass(c))
	return err == nil && class.Provisioner == link.DriverName &&
		class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer &&
		c.Annotations[Annotation] != Any && class.Annotations[Annotation] != Any
}

// write is the one write of a claim.
func (p *Placement) write(ctx context.Context, key string, c *corev1.PersistentVolumeClaim, node string) (again time.Duration, err error) {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": c.UID, "resourceVersion": c.ResourceVersion,
		"annotations": map[string]string{selectedNode: node},
	}})
	if err != nil {
		return 0, err
	}
	_, err = p.config.Client.CoreV1().PersistentVolumeClaims(c.Namespace).Patch(ctx, c.Name, types.MergePatchType, body, metav1.PatchOptions{})
	switch {
	case apierrors.IsConflict(err):
		// Somebody else wrote the claim, the scheduler maybe. The informer brings it.
		return retryLeast, nil
	case apierrors.IsNotFound(err):
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("select node %s for claim %s: %w", node, key, err)
	}
	p.placed.Inc()
	p.log.Info("claim goes to the node of its source", "claim", key, "node", node)
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.written[key]
	if w == nil || w.uid != c.UID {
		w = &written{uid: c.UID}
		p.written[key] = w
	}
	w.wait = min(max(2*w.wait, againLeast), againMost)
	w.next = time.Now().Add(w.wait)
	return 0, nil
}

// early is how long a claim that was written before has to wait. It keeps also a
// claim whose write the informer has not seen yet from being written twice.
func (p *Placement) early(key string, uid types.UID) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.written[key]; w != nil && w.uid == uid {
		return time.Until(w.next)
	}
	return 0
}

func (p *Placement) forget(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.written, key)
}

// block has the claim looked at again when a node of the cluster shows the volume
// group.
func (p *Placement) block(key, vg string) (again time.Duration) {
	if vg == "" {
		return 0
	}
	p.mu.Lock()
	if p.waiting[vg] == nil {
		p.waiting[vg] = map[string]bool{}
	}
	p.waiting[vg][key] = true
	p.mu.Unlock()
	// A node may have shown it just before it was waited for.
	if node, _ := p.config.Fleet.NodeOf(vg); p.exists(node) {
		return retryLeast
	}
	return 0
}

func (p *Placement) unblock(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for vg, keys := range p.waiting {
		if delete(keys, key); len(keys) == 0 {
			delete(p.waiting, vg)
		}
	}
}
