package sidecar

import (
	"context"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	groupv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	snapshotscheme "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned/scheme"
	snapshotinformers "github.com/kubernetes-csi/external-snapshotter/client/v8/informers/externalversions"
	contentinformers "github.com/kubernetes-csi/external-snapshotter/client/v8/informers/externalversions/volumesnapshot/v1"
	contentlisters "github.com/kubernetes-csi/external-snapshotter/client/v8/listers/volumesnapshot/v1"
	groupsnapshotter "github.com/kubernetes-csi/external-snapshotter/v8/pkg/group_snapshotter"
	sidecarcontroller "github.com/kubernetes-csi/external-snapshotter/v8/pkg/sidecar-controller"
	"github.com/kubernetes-csi/external-snapshotter/v8/pkg/snapshotter"
	"google.golang.org/grpc/codes"
	"k8s.io/apimachinery/pkg/api/meta"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
)

// Events about snapshots need their types in the scheme that recorders read. Only
// here is nobody reading it.
func init() { utilruntime.Must(snapshotscheme.AddToScheme(scheme.Scheme)) }

const (
	// LVs of snapshots are named after these.
	snapshotPrefix = "snapshot"
	groupPrefix    = "groupsnapshot"
)

// runSnapshots makes and deletes snapshots, from when the CRDs are installed.
func (s *Sidecar) runSnapshots(ctx context.Context) {
	if !s.csi.controller[csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT] || !s.snapshotsServed(ctx) {
		return
	}
	s.runSnapshotter(ctx, s.snapshots, s.snapshots.Snapshot().V1().VolumeSnapshotContents(), false)
}

// runGroups makes and deletes group snapshots, from when their CRDs are installed,
// which may be long after the others. It is a second instance of the same
// controller, and sees no content of a single snapshot.
func (s *Sidecar) runGroups(ctx context.Context) {
	if !s.csi.group[csi.GroupControllerServiceCapability_RPC_CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT] || !s.snapshotsServed(ctx) {
		return
	}
	if !s.served(ctx, groupv1.SchemeGroupVersion.String(), "VolumeGroupSnapshotContent", "VolumeGroupSnapshotClass") {
		return
	}
	s.runSnapshotter(ctx, s.snapshotInformers(), noContents{}, true)
}

// Contents waits until the snapshot CRDs are installed and gives the informer of
// VolumeSnapshotContents that the snapshotter has. It is started and may not be full
// yet. It is nil when ctx ended before.
func (s *Sidecar) Contents(ctx context.Context) cache.SharedIndexInformer {
	if !s.snapshotsServed(ctx) {
		return nil
	}
	contents := s.snapshots.Snapshot().V1().VolumeSnapshotContents().Informer()
	s.snapshots.Start(ctx.Done())
	return contents
}

func (s *Sidecar) snapshotsServed(ctx context.Context) bool {
	return s.served(ctx, snapshotv1.SchemeGroupVersion.String(), "VolumeSnapshot", "VolumeSnapshotContent", "VolumeSnapshotClass")
}

func (s *Sidecar) snapshotInformers() snapshotinformers.SharedInformerFactory {
	return snapshotinformers.NewSharedInformerFactoryWithOptions(s.config.Snapshots, resync,
		snapshotinformers.WithTransform(stripManagedFields))
}

// stripManagedFields drops what nobody here reads.
func stripManagedFields(o any) (any, error) {
	if m, err := meta.Accessor(o); err == nil {
		m.SetManagedFields(nil)
	}
	return o, nil
}

func (s *Sidecar) runSnapshotter(ctx context.Context, factory snapshotinformers.SharedInformerFactory, contents contentinformers.VolumeSnapshotContentInformer, groups bool) {
	group := factory.Groupsnapshot().V1()
	c := sidecarcontroller.NewCSISnapshotSideCarController(
		s.config.Snapshots,
		s.config.Client,
		s.config.DriverName,
		contents,
		factory.Snapshot().V1().VolumeSnapshotClasses(),
		snapshots{snapshotter.NewSnapshotter(s.config.Conn)},
		groupSnapshots{groupsnapshotter.NewGroupSnapshotter(s.config.Conn)},
		callTimeout,
		resync,
		snapshotPrefix,
		wholeUUID,
		groupPrefix,
		wholeUUID,
		true, // extra-create-metadata
		retries(),
		groups,
		group.VolumeGroupSnapshotContents(),
		group.VolumeGroupSnapshotClasses(),
		retries(),
	)
	factory.Start(ctx.Done())
	s.log.Info("snapshotter runs", "groups", groups)
	c.Run(snapshotWorkers, ctx.Done(), nil)
}

// snapshots and groupSnapshots give a full pool's refusal a final code. With
// ResourceExhausted the snapshotter keeps its mark "being created" on the object,
// which then cannot be deleted for as long as the pool is full.
type snapshots struct{ snapshotter.Snapshotter }

// CreateSnapshot implements [snapshotter.Snapshotter].
func (s snapshots) CreateSnapshot(ctx context.Context, name, volume string, parameters, secrets map[string]string) (driver, id string, created time.Time, size int64, ready bool, err error) {
	driver, id, created, size, ready, err = s.Snapshotter.CreateSnapshot(ctx, name, volume, parameters, secrets)
	if err != nil {
		err = final(err, codes.FailedPrecondition)
	}
	return driver, id, created, size, ready, err
}

type groupSnapshots struct {
	groupsnapshotter.GroupSnapshotter
}

// CreateGroupSnapshot implements [groupsnapshotter.GroupSnapshotter].
func (s groupSnapshots) CreateGroupSnapshot(ctx context.Context, name string, volumes []string, parameters, secrets map[string]string) (driver, id string, members []*csi.Snapshot, created time.Time, ready bool, err error) {
	driver, id, members, created, ready, err = s.GroupSnapshotter.CreateGroupSnapshot(ctx, name, volumes, parameters, secrets)
	if err != nil {
		err = final(err, codes.FailedPrecondition)
	}
	return driver, id, members, created, ready, err
}

// noContents is an informer of VolumeSnapshotContents that has none. It has the
// methods that the snapshot controller calls; the others, of the nil interface,
// would panic.
type noContents struct{ cache.SharedIndexInformer }

// Informer implements [contentinformers.VolumeSnapshotContentInformer].
func (n noContents) Informer() cache.SharedIndexInformer { return n }

// Lister implements [contentinformers.VolumeSnapshotContentInformer].
func (n noContents) Lister() contentlisters.VolumeSnapshotContentLister {
	return contentlisters.NewVolumeSnapshotContentLister(cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil))
}

// AddEventHandlerWithResyncPeriod implements [cache.SharedIndexInformer].
func (noContents) AddEventHandlerWithResyncPeriod(cache.ResourceEventHandler, time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return nil, nil
}

// HasSynced implements [cache.SharedIndexInformer].
func (noContents) HasSynced() bool { return true }
