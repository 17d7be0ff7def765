package sidecar

import (
	"context"
	"errors"
	"strconv"
	"sync"

	snapshotfake "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned/fake"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// server is the objects of a fake clientset with what it lacks of a real API
// server: each write gives the object a new version, and a write that names another
// version than the present one is a conflict. The sidecars tell by the version
// which of two states is the older one; without it they act on what they have
// changed themselves.
//
// Writes need lock, the clientset's own: it holds it while it answers a client.
type server struct {
	clienttesting.ObjectTracker
	lock sync.Locker
	last map[schema.GroupVersionResource]int // version, counted as the tracker does for lists
}

func newServer(t clienttesting.ObjectTracker, f *clienttesting.Fake) *server {
	s := &server{ObjectTracker: t, lock: f, last: map[schema.GroupVersionResource]int{}}
	f.PrependReactor("*", "*", clienttesting.ObjectReaction(s))
	return s
}

// Create implements [clienttesting.ObjectTracker].
func (s *server) Create(gvr schema.GroupVersionResource, o runtime.Object, ns string, opts ...metav1.CreateOptions) error {
	return s.write(gvr, o, func() error { return s.ObjectTracker.Create(gvr, o, ns, opts...) })
}

// Update implements [clienttesting.ObjectTracker].
func (s *server) Update(gvr schema.GroupVersionResource, o runtime.Object, ns string, opts ...metav1.UpdateOptions) error {
	if err := s.check(gvr, o, ns); err != nil {
		return err
	}
	return s.write(gvr, o, func() error { return s.ObjectTracker.Update(gvr, o, ns, opts...) })
}

// Patch implements [clienttesting.ObjectTracker]. The object is the patched one.
func (s *server) Patch(gvr schema.GroupVersionResource, o runtime.Object, ns string, opts ...metav1.PatchOptions) error {
	if err := s.check(gvr, o, ns); err != nil {
		return err
	}
	return s.write(gvr, o, func() error { return s.ObjectTracker.Patch(gvr, o, ns, opts...) })
}

// write numbers the object itself: it is what a patch answers with.
func (s *server) write(gvr schema.GroupVersionResource, o runtime.Object, store func() error) error {
	m, err := meta.Accessor(o)
	if err != nil {
		return err
	}
	next := max(s.last[gvr], 1) + 1
	m.SetResourceVersion(strconv.Itoa(next))
	if err := store(); err != nil {
		return err
	}
	s.last[gvr] = next
	return nil
}

func (s *server) check(gvr schema.GroupVersionResource, o runtime.Object, ns string) error {
	m, err := meta.Accessor(o)
	if err != nil {
		return err
	}
	now, err := s.Get(gvr, ns, m.GetName())
	if err != nil {
		return err
	}
	nowMeta, err := meta.Accessor(now)
	if err != nil {
		return err
	}
	if v := m.GetResourceVersion(); v != "" && v != nowMeta.GetResourceVersion() {
		return apierrors.NewConflict(gvr.GroupResource(), m.GetName(), errors.New("the object has another version by now"))
	}
	return nil
}

// set creates or replaces an object, whatever its version.
func (s *server) set(gvr schema.GroupVersionResource, o runtime.Object) error {
	o = o.DeepCopyObject()
	m, err := meta.Accessor(o)
	if err != nil {
		return err
	}
	m.SetResourceVersion("")
	s.lock.Lock()
	defer s.lock.Unlock()
	err = s.Update(gvr, o, m.GetNamespace())
	if apierrors.IsNotFound(err) {
		err = s.Create(gvr, o, m.GetNamespace())
	}
	return err
}

// change changes an object while nobody else does.
func (s *server) change(gvr schema.GroupVersionResource, ns, name string, change func(runtime.Object)) error {
	s.lock.Lock()
	defer s.lock.Unlock()
	o, err := s.Get(gvr, ns, name)
	if err != nil {
		return err
	}
	change(o)
	return s.Update(gvr, o, ns)
}

// api is what the discovery of an API server answers.
type api struct {
	discovery.DiscoveryInterfaces
	mu     sync.Mutex
	served map[string][]string // kinds by group and version
}

func (a *api) serve(groupVersion string, kinds ...string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.served[groupVersion] = kinds
}

func (a *api) ServerResourcesForGroupVersionWithContext(_ context.Context, groupVersion string) (*metav1.APIResourceList, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	kinds, ok := a.served[groupVersion]
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{}, groupVersion)
	}
	list := &metav1.APIResourceList{GroupVersion: groupVersion}
	for _, k := range kinds {
		list.APIResources = append(list.APIResources, metav1.APIResource{Kind: k})
	}
	return list, nil
}

// kube is the fake clientset with a discovery that can change.
type kube struct {
	*fake.Clientset
	server *server
	api    *api
}

func newKube(served map[string][]string, objects ...runtime.Object) kube {
	c := fake.NewClientset(objects...)
	return kube{c, newServer(c.Tracker(), &c.Fake), &api{DiscoveryInterfaces: c.Discovery(), served: served}}
}

func (k kube) Discovery() discovery.DiscoveryInterfaces { return k.api }

func (k kube) Tracker() *server { return k.server }

// snaps is the fake clientset for snapshots.
type snaps struct {
	*snapshotfake.Clientset
	server *server
}

func newSnaps(objects ...runtime.Object) snaps {
	c := snapshotfake.NewSimpleClientset(objects...)
	return snaps{c, newServer(c.Tracker(), &c.Fake)}
}

func (s snaps) Tracker() *server { return s.server }

// finalize makes the fake API server keep a PV until its finalizers are gone.
func (c *cluster) finalize() {
	tracker := c.kube.Tracker()
	c.kube.PrependReactor("delete", "persistentvolumes", func(a clienttesting.Action) (bool, runtime.Object, error) {
		pv := c.pv(a.(clienttesting.DeleteAction).GetName())
		if pv == nil || len(pv.Finalizers) == 0 {
			return false, nil, nil
		}
		now := metav1.Now()
		pv.DeletionTimestamp = &now
		return true, nil, tracker.Update(volumesGVR, pv, "")
	})
	c.kube.PrependReactor("patch", "persistentvolumes", func(a clienttesting.Action) (bool, runtime.Object, error) {
		_, obj, err := clienttesting.ObjectReaction(tracker)(a)
		if pv, ok := obj.(*corev1.PersistentVolume); ok && err == nil && pv.DeletionTimestamp != nil && len(pv.Finalizers) == 0 {
			err = tracker.Delete(volumesGVR, "", pv.Name)
		}
		return true, obj, err
	})
}

// list makes informers list: a fake server cannot stream what it has (KEP-3157),
// and informers of older make do not ask it whether it can.
func (c *cluster) list() {
	c.snaps.PrependWatchReactor("*", func(a clienttesting.Action) (bool, watch.Interface, error) {
		if w, ok := a.(clienttesting.WatchActionImpl); ok && w.ListOptions.SendInitialEvents != nil {
			return true, nil, apierrors.NewMethodNotSupported(a.GetResource().GroupResource(), "watch list")
		}
		return false, nil, nil
	})
}
