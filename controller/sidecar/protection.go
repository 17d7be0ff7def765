package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	snapshotclient "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/pager"
)

const (
	// restoreFinalizer is what external-provisioner puts on a VolumeSnapshot while
	// it makes a volume from it.
	restoreFinalizer = "provisioner.storage.kubernetes.io/volumesnapshot-as-source-protection"

	sweepInterval = time.Minute
)

// protection takes the provisioner's finalizer from VolumeSnapshots that nothing
// is restored from any more. The provisioner does so itself when it succeeds; when
// the claim is deleted before, or the process ends, the finalizer would stay and
// the snapshot could not be deleted.
//
// It knows the snapshots of the restores that it saw, and at the start of a
// leadership lists all once for what predecessors left. So it holds a name for
// each restore of the last minute, and no snapshot.
type protection struct {
	client snapshotclient.Interface
	claims corelisters.PersistentVolumeClaimLister
	log    *slog.Logger

	mu    sync.Mutex
	noted map[types.NamespacedName]bool
}

func newProtection(client snapshotclient.Interface, claims corelisters.PersistentVolumeClaimLister, log *slog.Logger) *protection {
	return &protection{client: client, claims: claims, log: log, noted: map[types.NamespacedName]bool{}}
}

// runProtection looks each minute, from when the CRDs are installed.
func (s *Sidecar) runProtection(ctx context.Context) {
	if !s.csi.controller[csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT] || !s.snapshotsServed(ctx) {
		return
	}
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	listed := false
	for {
		if !listed {
			err := s.protection.list(ctx)
			listed = err == nil
			if err != nil && ctx.Err() == nil {
				s.log.Warn("snapshots that an earlier leader protected may stay so", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.protection.sweep(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("a snapshot may not be deletable yet", "error", err)
		}
	}
}

// note remembers the snapshot that a claim is restored from.
func (p *protection) note(claim *corev1.PersistentVolumeClaim) {
	if name, restored := snapshotOf(claim); restored {
		p.add(name)
	}
}

func (p *protection) add(name types.NamespacedName) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noted[name] = true
}

// list notes all snapshots that have the finalizer.
func (p *protection) list(ctx context.Context) error {
	pages := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return p.client.SnapshotV1().VolumeSnapshots(metav1.NamespaceAll).List(ctx, o)
	})
	pages.PageBufferSize = 1
	err := pages.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		if s, ok := o.(*snapshotv1.VolumeSnapshot); ok && slices.Contains(s.Finalizers, restoreFinalizer) {
			p.add(types.NamespacedName{Namespace: s.Namespace, Name: s.Name})
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list the protected snapshots: %w", err)
	}
	return nil
}

// sweep frees the noted snapshots that no claim waits for.
func (p *protection) sweep(ctx context.Context) error {
	p.mu.Lock()
	var names []types.NamespacedName
	for name := range p.noted {
		names = append(names, name)
	}
	p.mu.Unlock()
	if len(names) == 0 {
		return nil
	}
	wanted, err := p.wanted()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if wanted[name] {
			continue
		}
		if err := p.free(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("free snapshot %s: %w", name, err))
			continue
		}
		p.mu.Lock()
		delete(p.noted, name)
		p.mu.Unlock()
	}
	return errors.Join(errs...)
}

// wanted is the snapshots that a claim without a volume names.
func (p *protection) wanted() (map[types.NamespacedName]bool, error) {
	claims, err := p.claims.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list claims: %w", err)
	}
	wanted := map[types.NamespacedName]bool{}
	for _, c := range claims {
		if c.Status.Phase != corev1.ClaimPending && c.Status.Phase != "" {
			continue
		}
		if name, restored := snapshotOf(c); restored {
			wanted[name] = true
		}
	}
	return wanted, nil
}

func (p *protection) free(ctx context.Context, name types.NamespacedName) error {
	snapshots := p.client.SnapshotV1().VolumeSnapshots(name.Namespace)
	s, err := snapshots.Get(ctx, name.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	n := len(s.Finalizers)
	s.Finalizers = slices.DeleteFunc(s.Finalizers, func(f string) bool { return f == restoreFinalizer })
	if len(s.Finalizers) == n {
		return nil
	}
	if _, err = snapshots.Update(ctx, s, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	p.log.Info("snapshot is free: nothing is restored from it", "snapshot", name.String())
	return nil
}

// snapshotOf is the VolumeSnapshot that a claim is to be restored from.
func snapshotOf(c *corev1.PersistentVolumeClaim) (name types.NamespacedName, restored bool) {
	if s := c.Spec.DataSource; s != nil {
		return types.NamespacedName{Namespace: c.Namespace, Name: s.Name}, isSnapshot(s.APIGroup, s.Kind)
	}
	if s := c.Spec.DataSourceRef; s != nil {
		name = types.NamespacedName{Namespace: c.Namespace, Name: s.Name}
		if s.Namespace != nil && *s.Namespace != "" {
			name.Namespace = *s.Namespace
		}
		return name, isSnapshot(s.APIGroup, s.Kind)
	}
	return name, false
}

func isSnapshot(group *string, kind string) bool {
	return kind == "VolumeSnapshot" && group != nil && *group == snapshotv1.GroupName
}
