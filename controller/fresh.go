package controller

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
)

// fresh knows the claims that were made since this process leads: no earlier
// controller can have begun their volumes.
type fresh struct {
	mu    sync.Mutex
	names map[string]bool // of volumes
}

// follow begins to watch claims. The informer must be started afterwards, and only
// while the lease is held: what its first list has, an earlier leader may have seen.
func (f *fresh) follow(claims cache.SharedIndexInformer) error {
	f.names = map[string]bool{}
	_, err := claims.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(obj any, first bool) {
			if c, ok := obj.(*corev1.PersistentVolumeClaim); ok && !first {
				f.set(c, c.Spec.VolumeName == "")
			}
		},
		UpdateFunc: func(_, obj any) {
			if c, ok := obj.(*corev1.PersistentVolumeClaim); ok && c.Spec.VolumeName != "" {
				f.set(c, false)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if c, ok := obj.(*corev1.PersistentVolumeClaim); ok {
				f.set(c, false)
			}
		},
	})
	return err
}

func (f *fresh) set(c *corev1.PersistentVolumeClaim, is bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := volumePrefix + string(c.UID)
	if is {
		f.names[name] = true
	} else {
		delete(f.names, name)
	}
}

// volume reports whether a volume's claim is fresh.
func (f *fresh) volume(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.names[name]
}

// volumePrefix and the UID of a claim are the name of its volume
// (external-provisioner, makeVolumeName).
const volumePrefix = "pvc-"
