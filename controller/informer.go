package controller

import (
	"sync"
	"time"
	"unique"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
)

// resync is how often the sidecars look at everything again.
const resync = 15 * time.Minute

// newInformers makes the informers that all parts share.
func newInformers(client kubernetes.Interface) informers.SharedInformerFactory {
	var s sharer
	return informers.NewSharedInformerFactoryWithOptions(client, resync, informers.WithTransform(s.strip))
}

// strip takes from an object what nobody here reads, before it is cached, and shares
// what is the same in many. managedFields are a third of a claim. Nothing else may go
// from what is written back whole, as the provisioner does with claims. Nodes are
// only ever patched; their lists of images and volumes are most of what they weigh.
// Who changes an object of the cache copies it first.
func (s *sharer) strip(obj any) (any, error) {
	if m, err := meta.Accessor(obj); err == nil {
		m.SetManagedFields(nil)
		shareStrings(m.GetAnnotations())
		shareStrings(m.GetLabels())
	}
	switch o := obj.(type) {
	case *corev1.Node:
		o.Annotations = nil
		o.Status = corev1.NodeStatus{Conditions: o.Status.Conditions}
	case *corev1.PersistentVolume:
		o.Spec.Capacity = s.list(o.Spec.Capacity)
		o.Spec.StorageClassName = share(o.Spec.StorageClassName)
		if o.Spec.CSI != nil {
			o.Spec.CSI.Driver = share(o.Spec.CSI.Driver)
			shareStrings(o.Spec.CSI.VolumeAttributes)
		}
	case *corev1.PersistentVolumeClaim:
		o.Spec.Resources.Requests = s.list(o.Spec.Resources.Requests)
		o.Status.Capacity = s.list(o.Status.Capacity)
		o.Status.AllocatedResources = s.list(o.Status.AllocatedResources)
		if o.Spec.StorageClassName != nil {
			*o.Spec.StorageClassName = share(*o.Spec.StorageClassName)
		}
	}
	return obj, nil
}

func share(s string) string { return unique.Make(s).Value() }

// shareStrings shares the values of a map; its keys stay those that were decoded.
func shareStrings(m map[string]string) {
	for k, v := range m {
		m[k] = share(v)
	}
}

// maxShared bounds how many different lists are shared.
const maxShared = 10_000

// sharer shares lists of resources: one with a single entry takes most of a KiB, and
// most volumes have one of a few sizes.
type sharer struct {
	mu    sync.Mutex
	lists map[string]corev1.ResourceList
}

// list returns a list equal to l, and no other for the next equal one.
func (s *sharer) list(l corev1.ResourceList) corev1.ResourceList {
	q, ok := l[corev1.ResourceStorage]
	if !ok || len(l) != 1 {
		return l
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := q.String()
	if have, ok := s.lists[key]; ok {
		return have
	}
	if s.lists == nil {
		s.lists = map[string]corev1.ResourceList{}
	}
	if len(s.lists) < maxShared {
		s.lists[key] = l
	}
	return l
}
