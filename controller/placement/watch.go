package placement

import (
	"context"
	"fmt"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/lamina-csi/lamina/driver/link"
)

const (
	// bySource is the index of the claims that wait for a volume by their sources.
	bySource = "lamina-source"
	// bySnapshot is the index of contents by their snapshots, namespace/name.
	bySnapshot = "lamina-snapshot"
)

// The other users of the informers want all objects again at times.
const noResync = 0

// watch has claims put into the queue that something may have been found out for.
func (p *Placement) watch() (synced []cache.InformerSynced, err error) {
	if err := p.claims.AddIndexers(cache.Indexers{bySource: func(obj any) ([]string, error) {
		if c := obj.(*corev1.PersistentVolumeClaim); waits(c) {
			return []string{sourceKey(c)}, nil
		}
		return nil, nil
	}}); err != nil {
		return nil, fmt.Errorf("index claims: %w", err)
	}
	for _, w := range []struct {
		what     string
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandlerFuncs
	}{
		{"claims", p.claims, cache.ResourceEventHandlerFuncs{
			AddFunc:    func(c any) { p.claimChanged(nil, c.(*corev1.PersistentVolumeClaim)) },
			UpdateFunc: func(o, c any) { p.claimChanged(o.(*corev1.PersistentVolumeClaim), c.(*corev1.PersistentVolumeClaim)) },
			DeleteFunc: p.claimGone,
		}},
		{"storage classes", p.classes, cache.ResourceEventHandlerFuncs{
			AddFunc: p.classChanged, UpdateFunc: func(_, c any) { p.classChanged(c) },
		}},
		{"nodes", p.nodes, cache.ResourceEventHandlerFuncs{AddFunc: func(any) { p.wakeWaiting(func(string) bool { return true }) }}},
	} {
		registered, err := w.informer.AddEventHandlerWithResyncPeriod(w.handler, noResync)
		if err != nil {
			return nil, fmt.Errorf("watch %s: %w", w.what, err)
		}
		synced = append(synced, registered.HasSynced)
	}
	return synced, nil
}

// claimChanged: a claim may wait for its source, or be the source of others.
func (p *Placement) claimChanged(old, c *corev1.PersistentVolumeClaim) {
	key := c.Namespace + "/" + c.Name
	if waits(c) || old != nil && waits(old) {
		p.queue.Add(key)
	}
	if bound(c) && (old == nil || !bound(old)) {
		p.wake(kindClaim + "/" + key)
	}
}

func (p *Placement) claimGone(obj any) {
	key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		return
	}
	p.mu.Lock()
	_, known := p.written[key]
	for _, keys := range p.waiting {
		known = known || keys[key]
	}
	p.mu.Unlock()
	if known {
		p.queue.Add(key)
	}
}

// classChanged: a claim may come before its class.
func (p *Placement) classChanged(obj any) {
	if c, ok := obj.(*storagev1.StorageClass); !ok || c.Provisioner != link.DriverName {
		return
	}
	for _, source := range p.claims.GetIndexer().ListIndexFuncValues(bySource) {
		p.wake(source)
	}
}

// wake has the claims of a source looked at.
func (p *Placement) wake(source string) {
	keys, err := p.claims.GetIndexer().IndexKeys(bySource, source)
	if err != nil {
		return // there is such an index
	}
	for _, key := range keys {
		p.queue.Add(key)
	}
}

// nodeShows wakes the claims that wait for a volume group that this node has.
func (p *Placement) nodeShows(node string) {
	p.wakeWaiting(func(vg string) bool {
		owner, ok := p.config.Fleet.NodeOf(vg)
		return ok && owner == node
	})
}

func (p *Placement) wakeWaiting(known func(vg string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for vg, keys := range p.waiting {
		if !known(vg) {
			continue
		}
		for key := range keys {
			p.queue.Add(key)
		}
	}
}

// watchContents follows the contents from when there are any. It returns nil also
// when ctx ended before.
func (p *Placement) watchContents(ctx context.Context) error {
	contents := p.config.Contents(ctx)
	if contents == nil {
		return nil
	}
	if err := contents.AddIndexers(cache.Indexers{bySnapshot: func(obj any) ([]string, error) {
		ref := obj.(*snapshotv1.VolumeSnapshotContent).Spec.VolumeSnapshotRef
		return []string{ref.Namespace + "/" + ref.Name}, nil
	}}); err != nil {
		return fmt.Errorf("index snapshot contents: %w", err)
	}
	p.mu.Lock()
	p.contents = contents.GetIndexer()
	p.mu.Unlock()
	changed := func(obj any) {
		if c := obj.(*snapshotv1.VolumeSnapshotContent); ready(c) {
			ref := c.Spec.VolumeSnapshotRef
			p.wake(kindSnapshot + "/" + ref.Namespace + "/" + ref.Name)
		}
	}
	_, err := contents.AddEventHandlerWithResyncPeriod(cache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, obj any) { changed(obj) },
	}, noResync)
	if err != nil {
		return fmt.Errorf("watch snapshot contents: %w", err)
	}
	return nil
}
