package sidecar

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	snapshotscheme "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned/scheme"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	clienttesting "k8s.io/client-go/testing"

	"github.com/lamina-csi/lamina/driver/drivertest"
	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/node/pool"
)

const (
	mib = int64(1) << 20

	namespace = "default"
	selected  = "volume.kubernetes.io/selected-node"
	elsewhere = "node-2" // a node whose agent is not in the test
)

var (
	claimsGVR    = corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims")
	volumesGVR   = corev1.SchemeGroupVersion.WithResource("persistentvolumes")
	nodesGVR     = corev1.SchemeGroupVersion.WithResource("nodes")
	csiNodesGVR  = storagev1.SchemeGroupVersion.WithResource("csinodes")
	eventsGVR    = corev1.SchemeGroupVersion.WithResource("events")
	snapshotsGVR = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshots"}
	contentsGVR  = schema.GroupVersionResource{Group: "snapshot.storage.k8s.io", Version: "v1", Resource: "volumesnapshotcontents"}
	groupsGVR    = schema.GroupVersionResource{Group: "groupsnapshot.storage.k8s.io", Version: "v1", Resource: "volumegroupsnapshotcontents"}
)

// cluster is an API server without its controllers, which the test plays, a
// driver in memory, and the sidecars between them.
type cluster struct {
	t       testing.TB
	node    *drivertest.Node
	kube    kube
	snaps   snaps
	sidecar *Sidecar
	changed chan struct{}
	writes  chan string // what the sidecars wrote: "create persistentvolumes", …
	stop    func()      // ends the sidecars
}

// options change a cluster.
type options struct {
	intercept  grpc.UnaryClientInterceptor // on the way to the driver; nil: none
	api        map[string][]string         // that is served; nil: all
	infeasible time.Duration               // replaces infeasibleRetry
}

func allAPIs() map[string][]string {
	return map[string][]string{
		"storage.k8s.io/v1":               {"VolumeAttributesClass"},
		"snapshot.storage.k8s.io/v1":      {"VolumeSnapshot", "VolumeSnapshotContent", "VolumeSnapshotClass"},
		"groupsnapshot.storage.k8s.io/v1": {"VolumeGroupSnapshotContent", "VolumeGroupSnapshotClass"},
	}
}

// start makes a cluster of two nodes with the class "fast" and these objects, and
// runs the sidecars until the test ends.
func start(t testing.TB, o options, objects ...runtime.Object) *cluster {
	t.Helper()
	if o.api == nil {
		o.api = allAPIs()
	}
	c := &cluster{t: t, changed: make(chan struct{}, 1), writes: make(chan string, 1000)}
	c.node = drivertest.New(t, drivertest.Spec("fast", pool.Thin))
	var core, snapshots []runtime.Object
	for _, obj := range append(objects, nodeObjects(drivertest.NodeID, elsewhere)...) {
		if isSnapshotKind(obj) {
			snapshots = append(snapshots, obj)
		} else {
			core = append(core, obj)
		}
	}
	c.kube = newKube(o.api, append(core, class("fast"))...)
	c.snaps = newSnaps(snapshots...)
	c.finalize()
	c.list()
	c.record(&c.kube.Fake)
	c.record(&c.snaps.Fake)
	c.watch(c.kube.Tracker(), claimsGVR, volumesGVR, eventsGVR)
	c.watch(c.snaps.Tracker(), snapshotsGVR, contentsGVR, groupsGVR)
	c.run(o)
	return c
}

func (c *cluster) run(o options) {
	dial := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if o.intercept != nil {
		dial = append(dial, grpc.WithUnaryInterceptor(o.intercept))
	}
	conn, err := grpc.NewClient("unix://"+c.node.Endpoint, dial...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.sidecar, err = New(Config{
		DriverName: link.DriverName,
		Client:     c.kube,
		Snapshots:  c.snaps,
		Informers:  informers.NewSharedInformerFactory(c.kube, time.Hour),
		Conn:       conn,
		Log:        slog.New(slog.NewTextHandler(c.t.Output(), nil)),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.sidecar.firstPoll = time.Millisecond
	if o.infeasible != 0 {
		c.sidecar.infeasible = o.infeasible
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.sidecar.Run(ctx) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			c.t.Errorf("Run: %v", err)
		}
	})
	c.t.Cleanup(func() {
		c.stop()
		if err := conn.Close(); err != nil {
			c.t.Error(err)
		}
	})
}

func (c *cluster) record(f *clienttesting.Fake) {
	f.PrependReactor("*", "*", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if slices.Contains([]string{"create", "update", "patch", "delete"}, a.GetVerb()) {
			what := a.GetResource().Resource
			if a.GetSubresource() != "" {
				what += "/" + a.GetSubresource()
			}
			c.writes <- a.GetVerb() + " " + what
		}
		return false, nil, nil
	})
}

func (c *cluster) watch(tracker clienttesting.ObjectTracker, resources ...schema.GroupVersionResource) {
	for _, gvr := range resources {
		w, err := tracker.Watch(gvr, "")
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(w.Stop)
		go func() {
			for range w.ResultChan() {
				select {
				case c.changed <- struct{}{}:
				default:
				}
			}
		}()
	}
}

// await returns once ok is true, which it asks after each change.
func (c *cluster) await(what string, ok func() bool) {
	c.t.Helper()
	hung := time.After(time.Minute)
	for !ok() {
		select {
		case <-c.changed:
		case <-hung:
			c.t.Fatalf("%s: not in a minute; events: %v", what, c.events())
		}
	}
}

// find gives an object of a tracker; the zero value where there is none.
func find[T runtime.Object](c *cluster, tracker clienttesting.ObjectTracker, gvr schema.GroupVersionResource, ns, name string) (object T) {
	c.t.Helper()
	o, err := tracker.Get(gvr, ns, name)
	if apierrors.IsNotFound(err) {
		return object
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return o.(T)
}

func (c *cluster) pv(name string) *corev1.PersistentVolume {
	return find[*corev1.PersistentVolume](c, c.kube.Tracker(), volumesGVR, "", name)
}

func (c *cluster) claim(name string) *corev1.PersistentVolumeClaim {
	return find[*corev1.PersistentVolumeClaim](c, c.kube.Tracker(), claimsGVR, namespace, name)
}

// set creates or replaces an object as another client does.
func (c *cluster) set(s *server, gvr schema.GroupVersionResource, o runtime.Object) {
	c.t.Helper()
	if err := s.set(gvr, o); err != nil {
		c.t.Fatal(err)
	}
}

// setClaim changes a claim.
func (c *cluster) setClaim(name string, change func(*corev1.PersistentVolumeClaim)) {
	c.t.Helper()
	if err := c.kube.Tracker().change(claimsGVR, namespace, name, func(o runtime.Object) {
		change(o.(*corev1.PersistentVolumeClaim))
	}); err != nil {
		c.t.Fatal(err)
	}
}

// events is the reasons of all events, sorted, each as often as it occurred.
func (c *cluster) events() (reasons []string) {
	c.t.Helper()
	list, err := c.kube.Tracker().List(eventsGVR, corev1.SchemeGroupVersion.WithKind("Event"), "")
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range list.(*corev1.EventList).Items {
		reasons = append(reasons, slices.Repeat([]string{e.Reason}, int(e.Count))...)
	}
	slices.Sort(reasons)
	return reasons
}

// occurred is how often an event with this reason occurred.
func (c *cluster) occurred(reason string) (n int) {
	c.t.Helper()
	for _, r := range c.events() {
		if r == reason {
			n++
		}
	}
	return n
}

// provision makes a claim, waits for its volume and binds the two.
func (c *cluster) provision(claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolume {
	c.t.Helper()
	c.set(c.kube.Tracker(), claimsGVR, claim)
	pvName := "pvc-" + string(claim.UID)
	c.await("volume of "+claim.Name, func() bool { return c.pv(pvName) != nil })
	pv := c.pv(pvName)
	pv.Status.Phase = corev1.VolumeBound
	c.set(c.kube.Tracker(), volumesGVR, pv)
	c.setClaim(claim.Name, func(p *corev1.PersistentVolumeClaim) {
		p.Spec.VolumeName = pv.Name
		p.Status.Phase = corev1.ClaimBound
		p.Status.Capacity = pv.Spec.Capacity
	})
	return pv
}

// volumes is the ids of the volumes that the node has.
func (c *cluster) volumes() (ids []string) {
	c.t.Helper()
	list, err := c.node.ListVolumes(c.t.Context(), &csi.ListVolumesRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range list.GetEntries() {
		ids = append(ids, e.GetVolume().GetVolumeId())
	}
	return ids
}

func isSnapshotKind(o runtime.Object) bool {
	_, _, err := snapshotscheme.Scheme.ObjectKinds(o)
	return err == nil
}

func nodeObjects(names ...string) (objects []runtime.Object) {
	for _, name := range names {
		objects = append(objects,
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{link.TopologyKey: name}}},
			&storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{
				{Name: link.DriverName, NodeID: name, TopologyKeys: []string{link.TopologyKey}},
			}}},
		)
	}
	return objects
}

func class(poolName string) *storagev1.StorageClass {
	return &storagev1.StorageClass{
		ObjectMeta:        metav1.ObjectMeta{Name: poolName},
		Provisioner:       link.DriverName,
		Parameters:        map[string]string{"pool": poolName},
		ReclaimPolicy:     new(corev1.PersistentVolumeReclaimDelete),
		VolumeBindingMode: new(storagev1.VolumeBindingWaitForFirstConsumer),
	}
}

// newClaim is a claim of class fast for which the scheduler has chosen the node.
// n makes its UID.
func newClaim(n int, size int64) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Name:      fmt.Sprintf("data-%d", n),
			Namespace: namespace,
			UID:       types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", n)),
			Annotations: map[string]string{
				"volume.kubernetes.io/storage-provisioner": link.DriverName,
				selected: drivertest.NodeID,
			},
		},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: new("fast"),
			AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceStorage: *resource.NewQuantity(size, resource.BinarySI),
			}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
}
