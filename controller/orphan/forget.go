package orphan

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/lamina-csi/lamina/controller/placement"
	"github.com/lamina-csi/lamina/driver/link"
)

// ForgetAnnotation is a person's word that a volume or snapshot is given up
// together with its node. Its value is the node's name. It stands on the
// PersistentVolume, or on the VolumeSnapshotContent.
const ForgetAnnotation = "lamina.dev/forget"

// reasonRefused is that of the event about an annotation that does not count.
const reasonRefused = "ForgetRefused"

// askTimeout bounds the question whether a node exists.
const askTimeout = 10 * time.Second

// ForgetConfig is what a [Forget] works with. Log may be nil.
type ForgetConfig struct {
	Client kubernetes.Interface
	// Informers gives the volumes. The caller starts it after NewForget.
	Informers informers.SharedInformerFactory
	// Contents waits until the snapshot CRDs are installed and gives the informer of
	// VolumeSnapshotContents, which it starts; nil when ctx ended before.
	Contents func(ctx context.Context) cache.SharedIndexInformer
	Fleet    Fleet
	Recorder Recorder
	Log      *slog.Logger
}

// Forget judges which volumes and snapshots are given up. Its methods may be called
// at any time; before [Forget.Run] knows enough, nothing is.
type Forget struct {
	config  ForgetConfig
	log     *slog.Logger
	volumes cache.SharedIndexInformer

	mu       sync.Mutex
	contents cache.Indexer // nil while the CRDs are not installed
	// groups is the nodes that PersistentVolumes name by the UUID of their volume
	// group, also of those that are deleted since: a snapshot outlives its volume.
	groups map[string][]string
}

// NewForget makes a Forget.
func NewForget(c ForgetConfig) (*Forget, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	f := &Forget{config: c, log: c.Log, volumes: c.Informers.Core().V1().PersistentVolumes().Informer(), groups: map[string][]string{}}
	return f, index(f.volumes)
}

// Run follows volumes and snapshots until ctx ends.
func (f *Forget) Run(ctx context.Context) error {
	const noResync = 0
	if _, err := f.volumes.AddEventHandlerWithResyncPeriod(cache.ResourceEventHandlerFuncs{AddFunc: f.note}, noResync); err != nil {
		return fmt.Errorf("watch volumes: %w", err)
	}
	if contents := f.config.Contents(ctx); contents != nil {
		if err := f.know(contents); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return nil
}

// know makes the contents of snapshots known.
func (f *Forget) know(contents cache.SharedIndexInformer) error {
	if err := contents.AddIndexers(cache.Indexers{byHandle: func(obj any) ([]string, error) {
		return snapshotIDs(obj.(*snapshotv1.VolumeSnapshotContent)), nil
	}}); err != nil {
		return fmt.Errorf("index snapshot contents: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.contents = contents.GetIndexer()
	return nil
}

// note remembers on which node a volume group is.
func (f *Forget) note(obj any) {
	pv := obj.(*corev1.PersistentVolume)
	if !ours(pv) {
		return
	}
	vg, node := placement.VolumeGroup(pv.Spec.CSI.VolumeHandle), placement.NodeOf(pv)
	f.mu.Lock()
	defer f.mu.Unlock()
	if node != "" && !slices.Contains(f.groups[vg], node) {
		f.groups[vg] = append(f.groups[vg], node)
	}
}

// snapshotIDs are the ids that a content of ours has: one, or none yet.
func snapshotIDs(c *snapshotv1.VolumeSnapshotContent) []string {
	switch {
	case c.Spec.Driver != link.DriverName:
	case c.Status != nil && c.Status.SnapshotHandle != nil:
		return []string{*c.Status.SnapshotHandle}
	case c.Spec.Source.SnapshotHandle != nil:
		return []string{*c.Spec.Source.SnapshotHandle}
	}
	return nil
}

// Node is the node of a volume as its PersistentVolume names it; "": none does.
func (f *Forget) Node(volumeID string) string {
	pvs, err := volumesBy(f.volumes, byHandle, volumeID)
	if err != nil || len(pvs) != 1 {
		return ""
	}
	return placement.NodeOf(pvs[0])
}

// wish is an annotation.
type wish struct {
	object runtime.Object
	word   string // its value
	node   string // where the volume was; "": not known
	lack   string // why it is not known
}

// Forgotten reports whether the volume or snapshot of that id is given up: the
// annotation names the node where it was, the API server says that there is no such
// Node, and no link shows the volume group or comes from that node. Whatever is not
// certain is no. An annotation that does not count is told of in an event.
func (f *Forget) Forgotten(id string) bool {
	w, err := f.wish(id)
	if err != nil {
		f.log.Warn("look for the annotation "+ForgetAnnotation, "id", id, "error", err)
	}
	if w == nil {
		return false
	}
	if why := f.refuse(id, w); why != "" {
		f.config.Recorder.Event(w.object, corev1.EventTypeWarning, reasonRefused,
			fmt.Sprintf("annotation %s=%s does not count: %s", ForgetAnnotation, w.word, why))
		return false
	}
	f.log.Warn("given up by annotation", "id", id, "node", w.node)
	return true
}

// wish is the annotation about an id; nil: there is none.
func (f *Forget) wish(id string) (*wish, error) {
	pvs, err := volumesBy(f.volumes, byHandle, id)
	if err != nil {
		return nil, err
	}
	for _, pv := range pvs {
		if word, ok := pv.Annotations[ForgetAnnotation]; ok {
			w := &wish{object: pv, word: word, node: placement.NodeOf(pv), lack: "its node affinity does not name one node"}
			if len(pvs) > 1 {
				w.node, w.lack = "", "several PersistentVolumes have its volume"
			}
			return w, nil
		}
	}
	f.mu.Lock()
	contents := f.contents
	f.mu.Unlock()
	if contents == nil || len(pvs) > 0 {
		return nil, nil
	}
	found, err := contents.ByIndex(byHandle, id)
	for _, obj := range found {
		c := obj.(*snapshotv1.VolumeSnapshotContent)
		if word, ok := c.Annotations[ForgetAnnotation]; ok {
			w := &wish{object: c, word: word}
			w.node, w.lack = f.nodeOfGroup(placement.VolumeGroup(id))
			return w, nil
		}
	}
	return nil, err
}

// nodeOfGroup is where a snapshot was. It has no node affinity, but the volumes of
// its volume group have.
func (f *Forget) nodeOfGroup(vg string) (node, lack string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch nodes := f.groups[vg]; len(nodes) {
	case 0:
		return "", fmt.Sprintf("no PersistentVolume of volume group %s was seen that tells on which node it was; the finalizers of the content and of its VolumeSnapshot can be removed by hand", vg)
	case 1:
		return nodes[0], ""
	default:
		return "", fmt.Sprintf("PersistentVolumes of volume group %s name the nodes %q", vg, nodes)
	}
}

// refuse says why an annotation does not count; "": it does.
func (f *Forget) refuse(id string, w *wish) string {
	switch {
	case w.node == "":
		return w.lack
	case w.word != w.node:
		return fmt.Sprintf("it is on node %s", w.node)
	}
	if seen, ok := f.config.Fleet.NodeOf(placement.VolumeGroup(id)); ok && seen != w.node {
		return fmt.Sprintf("its volume group was last seen on node %s", seen)
	}
	if _, err := f.config.Fleet.Conn(w.node); err == nil {
		return fmt.Sprintf("the agent of node %s has a link", w.node)
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	// Not from a cache: one that lags could miss a Node that is back.
	_, err := f.config.Client.CoreV1().Nodes().Get(ctx, w.node, metav1.GetOptions{})
	switch {
	case err == nil:
		return fmt.Sprintf("Node %s is in the cluster", w.node)
	case !apierrors.IsNotFound(err) || apierrors.IsUnexpectedServerError(err): // the latter: a 404 of something in between
		return fmt.Sprintf("whether Node %s is in the cluster cannot be found out: %v", w.node, err)
	}
	return ""
}
