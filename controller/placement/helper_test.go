package placement

import (
	"context"
	"encoding/json"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	snapshotfake "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned/fake"
	snapshotinformers "github.com/kubernetes-csi/external-snapshotter/client/v8/informers/externalversions"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/lamina-csi/lamina/driver/link"
)

// vgs is what the links have shown.
type vgs struct {
	mu     sync.Mutex
	owner  map[string]string
	notify []func(string)
}

func (v *vgs) NodeOf(vg string) (string, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	node, ok := v.owner[vg]
	return node, ok
}

func (v *vgs) Subscribe(fn func(string)) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.notify = append(v.notify, fn)
}

// show is a node's link that shows a volume group.
func (v *vgs) show(node, vg string) {
	v.mu.Lock()
	v.owner[vg] = node
	notify := v.notify
	v.mu.Unlock()
	for _, fn := range notify {
		fn(node)
	}
}

// rig is a Placement over fake API servers. It lives in a synctest bubble.
type rig struct {
	t       *testing.T
	kube    *fake.Clientset
	snaps   *snapshotfake.Clientset
	vgs     *vgs
	install chan struct{} // closed: the snapshot CRDs are installed
	patches atomic.Int32
	stop    func()
}

// newRig has the nodes a and b and the class fast.
func newRig(t *testing.T, objects ...runtime.Object) *rig {
	t.Helper()
	r := &rig{t: t, vgs: &vgs{owner: map[string]string{}}, install: make(chan struct{})}
	core, snaps := []runtime.Object{node("a"), node("b"), class("fast")}, []runtime.Object{}
	for _, o := range objects {
		switch o.(type) {
		case *snapshotv1.VolumeSnapshot, *snapshotv1.VolumeSnapshotContent:
			snaps = append(snaps, o)
		default:
			core = append(core, o)
		}
	}
	r.kube, r.snaps = fake.NewClientset(core...), snapshotfake.NewSimpleClientset(snaps...)
	r.kube.PrependReactor("patch", "persistentvolumeclaims", r.patch)
	// A fake server cannot stream what it has, and these informers do not ask it
	// whether it can.
	r.snaps.PrependWatchReactor("*", func(a clienttesting.Action) (bool, watch.Interface, error) {
		if w, ok := a.(clienttesting.WatchActionImpl); ok && w.ListOptions.SendInitialEvents != nil {
			return true, nil, apierrors.NewMethodNotSupported(a.GetResource().GroupResource(), "watch list")
		}
		return false, nil, nil
	})
	return r
}

// patch refuses what is not for the claim as it is, as an API server does.
func (r *rig) patch(a clienttesting.Action) (bool, runtime.Object, error) {
	p := a.(clienttesting.PatchAction)
	var body struct{ Metadata metav1.ObjectMeta }
	if err := json.Unmarshal(p.GetPatch(), &body); err != nil {
		return true, nil, err
	}
	obj, err := r.kube.Tracker().Get(p.GetResource(), p.GetNamespace(), p.GetName())
	if err != nil {
		return true, nil, err
	}
	r.patches.Add(1)
	c := obj.(*corev1.PersistentVolumeClaim)
	if c.UID != body.Metadata.UID || c.ResourceVersion != body.Metadata.ResourceVersion {
		return true, nil, apierrors.NewConflict(p.GetResource().GroupResource(), p.GetName(), nil)
	}
	c = c.DeepCopy()
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, selectedNode, body.Metadata.Annotations[selectedNode])
	c.ResourceVersion += "+"
	return true, c, r.kube.Tracker().Update(p.GetResource(), c, p.GetNamespace())
}

func (r *rig) start() {
	r.t.Helper()
	factory := informers.NewSharedInformerFactory(r.kube, 0)
	contents := snapshotinformers.NewSharedInformerFactory(r.snaps, 0)
	p := New(Config{
		Client: r.kube, Snapshots: r.snaps, Informers: factory, Fleet: r.vgs, Metrics: prometheus.NewRegistry(),
		Contents: func(ctx context.Context) cache.SharedIndexInformer {
			select {
			case <-r.install:
			case <-ctx.Done():
				return nil
			}
			i := contents.Snapshot().V1().VolumeSnapshotContents().Informer()
			contents.Start(ctx.Done())
			return i
		},
	})
	ctx, cancel := context.WithCancel(r.t.Context())
	factory.Start(ctx.Done())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("Run: %v", err)
		}
		factory.Shutdown()
		contents.Shutdown()
	}
	r.settle()
}

// settle lets what is due at once happen.
func (r *rig) settle() { r.pass(100 * time.Millisecond) }

func (r *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// set creates or replaces an object as another client does.
func (r *rig) set(gvr schema.GroupVersionResource, o runtime.Object) {
	r.t.Helper()
	tracker := r.kube.Tracker()
	if gvr.Group == snapshotv1.GroupName {
		tracker = r.snaps.Tracker()
	}
	m, err := meta.Accessor(o)
	if err != nil {
		r.t.Fatal(err)
	}
	err = tracker.Update(gvr, o, m.GetNamespace())
	if apierrors.IsNotFound(err) {
		err = tracker.Create(gvr, o, m.GetNamespace())
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.settle()
}

var (
	claimsGVR    = corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims")
	nodesGVR     = corev1.SchemeGroupVersion.WithResource("nodes")
	classesGVR   = storagev1.SchemeGroupVersion.WithResource("storageclasses")
	snapshotsGVR = schema.GroupVersionResource{Group: snapshotv1.GroupName, Version: "v1", Resource: "volumesnapshots"}
	contentsGVR  = schema.GroupVersionResource{Group: snapshotv1.GroupName, Version: "v1", Resource: "volumesnapshotcontents"}
)

// selected is the node in the claim new; "": none.
func (r *rig) selected() string {
	r.t.Helper()
	c, err := r.kube.CoreV1().PersistentVolumeClaims("ns").Get(r.t.Context(), "new", metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return c.Annotations[selectedNode]
}

// choose writes the annotation of the claim new as the scheduler does, or takes it
// off ("") as the provisioner does.
func (r *rig) choose(node string) {
	r.t.Helper()
	c, err := r.kube.CoreV1().PersistentVolumeClaims("ns").Get(r.t.Context(), "new", metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	c = c.DeepCopy()
	c.ResourceVersion += "+"
	metav1.SetMetaDataAnnotation(&c.ObjectMeta, selectedNode, node)
	if node == "" {
		delete(c.Annotations, selectedNode)
	}
	r.set(claimsGVR, c)
}

func node(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func class(name string, change ...func(*storagev1.StorageClass)) *storagev1.StorageClass {
	c := &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: link.DriverName,
		VolumeBindingMode: new(storagev1.VolumeBindingWaitForFirstConsumer),
	}
	for _, ch := range change {
		ch(c)
	}
	return c
}

func claim(name string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), ResourceVersion: "1"},
		Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: new("fast")},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	for _, ch := range change {
		ch(c)
	}
	return c
}

// clone is the claim new, made from the claim old.
func clone(c *corev1.PersistentVolumeClaim) {
	c.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "old"}
}

// restored is the claim new, made from the snapshot snap.
func restored(c *corev1.PersistentVolumeClaim) {
	c.Spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: new(snapshotv1.GroupName), Kind: "VolumeSnapshot", Name: "snap"}
}

func isBound(c *corev1.PersistentVolumeClaim) {
	c.Spec.VolumeName, c.Status.Phase = "pv", corev1.ClaimBound
}

// volume is the PV of the claim old, in volume group vg on that node.
func volume(node string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "pv"},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: link.DriverName, VolumeHandle: "vg/pvc-1"}},
			NodeAffinity:           affinity(node),
		},
	}
}

func affinity(nodes ...string) *corev1.VolumeNodeAffinity {
	return &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchExpressions: []corev1.NodeSelectorRequirement{{Key: link.TopologyKey, Operator: corev1.NodeSelectorOpIn, Values: nodes}},
	}}}}
}

func snapshot(uid types.UID) *snapshotv1.VolumeSnapshot {
	return &snapshotv1.VolumeSnapshot{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "snap", UID: uid}}
}

// content is that of the snapshot of that UID, in volume group vg.
func content(uid types.UID, ready bool) *snapshotv1.VolumeSnapshotContent {
	return &snapshotv1.VolumeSnapshotContent{
		ObjectMeta: metav1.ObjectMeta{Name: "content-" + string(uid)},
		Spec: snapshotv1.VolumeSnapshotContentSpec{
			Driver:            link.DriverName,
			VolumeSnapshotRef: corev1.ObjectReference{Namespace: "ns", Name: "snap", UID: uid},
		},
		Status: &snapshotv1.VolumeSnapshotContentStatus{ReadyToUse: &ready, SnapshotHandle: new("vg/snap-1")},
	}
}

// raced has the scheduler write its choice just before the first patch.
func raced(r *rig, once *bool) clienttesting.ReactionFunc {
	return func(clienttesting.Action) (bool, runtime.Object, error) {
		if !*once {
			return false, nil, nil
		}
		*once = false
		c := claim("new", clone)
		c.ResourceVersion = "2"
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, selectedNode, "b")
		if err := r.kube.Tracker().Update(claimsGVR, c, "ns"); err != nil {
			return true, nil, err
		}
		return false, nil, nil
	}
}
