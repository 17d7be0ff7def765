package sidecar

import (
	"context"
	"errors"
	"fmt"
	"slices"

	upstream "github.com/kubernetes-csi/external-provisioner/v6/pkg/controller"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	csitrans "k8s.io/csi-translation-lib"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller/metrics"
)

const (
	// LVs are named after these: see the driver's naming of volumes.
	volumePrefix = "pvc"
	wholeUUID    = -1

	defaultFSType = "ext4"

	// deleteFinalizer is sig-storage-lib's on a PV whose volume exists.
	deleteFinalizer = "external-provisioner.volume.kubernetes.io/finalizer"

	// strictTopology: with a node selected, CreateVolume is asked for that node
	// only. Otherwise the request would name every node of the cluster with the
	// selected one preferred, and the volume could land where its Pod cannot run.
	strictTopology = true
	// immediateTopology: with none selected, CreateVolume may choose among all
	// nodes that run the driver. The order in which they are named spreads the
	// claims of a StatefulSet over the nodes.
	immediateTopology = true
)

// csiProvisioner is what external-provisioner's provisioner can do.
type csiProvisioner interface {
	controller.BlockProvisioner
	controller.Qualifier
}

// provisioner is external-provisioner's, which is there from connect on.
type provisioner struct {
	csiProvisioner
	volumes    corev1client.PersistentVolumeInterface
	nodes      corelisters.NodeLister
	topologies *upstream.InMemoryStore
	protection *protection
}

func (s *Sidecar) newProvisionController() error {
	core, storage := s.config.Informers.Core().V1(), s.config.Informers.Storage().V1()
	claims := core.PersistentVolumeClaims().Informer()
	// sig-storage-lib ends the process when its index exists.
	if _, taken := claims.GetIndexer().GetIndexers()["uid"]; taken {
		return errors.New("make the provisioner: the claims' informer has an index uid already; one informer factory serves one provisioner")
	}
	s.provisioner = &provisioner{
		volumes:    s.config.Client.CoreV1().PersistentVolumes(),
		nodes:      core.Nodes().Lister(),
		topologies: upstream.NewInMemoryStore(),
		protection: s.protection,
	}
	storage.CSINodes().Informer()
	options := []func(*controller.ProvisionController) error{
		controller.LeaderElection(false),
		controller.ClaimsInformer(claims),
		controller.VolumesInformer(core.PersistentVolumes().Informer()),
		controller.ClassesInformer(storage.StorageClasses().Informer()),
		controller.Threadiness(provisionWorkers),
		controller.RateLimiter(retries()),
		// Both without end.
		controller.FailedProvisionThreshold(0),
		controller.FailedDeleteThreshold(0),
		// A PV that cannot be written is tried again for ever. The library's other
		// way deletes the volume.
		controller.CreateProvisionedPVLimiter(retries()),
		// The finalizer that makes the reclaim policy hold when the PV is deleted
		// before its claim (KEP-2644).
		controller.AddFinalizer(true),
	}
	if s.config.Registry != nil {
		m := metrics.New("lamina_controller")
		if err := register(s.config.Registry, m); err != nil {
			return fmt.Errorf("make the provisioner: %w", err)
		}
		options = append(options, controller.MetricsInstance(m))
	}
	s.controller = controller.NewProvisionController(context.Background(), s.config.Client, s.config.DriverName, s.provisioner, options...)
	s.controller.ControllerWaitGroup(&s.workers)
	return nil
}

var _ controller.DeletionGuard = (*provisioner)(nil)

// connect makes the provisioner proper, which must know the driver's capabilities.
func (p *provisioner) connect(s *Sidecar) error {
	core, storage := s.config.Informers.Core().V1(), s.config.Informers.Storage().V1()
	made, ok := upstream.NewCSIProvisioner(
		s.config.Client,
		callTimeout,
		s.config.DriverName, // the identity that volume attributes show; there is one provisioner
		volumePrefix,
		wholeUUID,
		s.config.Conn,
		s.config.Snapshots,
		s.config.DriverName,
		s.csi.plugin,
		s.csi.controller,
		"", // replaces no in-tree plugin
		strictTopology,
		immediateTopology,
		csitrans.New(),
		storage.StorageClasses().Lister(),
		storage.CSINodes().Lister(),
		core.Nodes().Lister(),
		core.PersistentVolumeClaims().Lister(),
		nil,  // VolumeAttachments: the driver has none
		nil,  // ReferenceGrants
		true, // extra-create-metadata: the claim's name becomes a tag
		defaultFSType,
		nil,   // no deployment on each node
		false, // controller-publish-readonly
		true,  // prevent-volume-mode-conversion
		p.topologies,
	).(csiProvisioner)
	if !ok {
		return errors.New("make the provisioner: external-provisioner's lacks a method that it had")
	}
	p.csiProvisioner = made
	return nil
}

// Provision implements [controller.Provisioner].
//
// The store keeps for a claim in progress the topology that its first call named,
// so that a retry names the same: a volume that may exist on one node is not made
// on another. That would hold for ever a claim whose node is deleted meanwhile, so
// then the store forgets; the provisioner does not find the node either, and asks
// the scheduler for another. What may be left is an empty volume on a node that is
// gone. With no node selected the store would keep every node of the cluster for
// each waiting claim, a quarter of a megabyte at 5,000 nodes, and any node is right.
func (p *provisioner) Provision(ctx context.Context, o controller.ProvisionOptions) (*corev1.PersistentVolume, controller.ProvisioningState, error) {
	p.protection.note(o.PVC)
	if o.SelectedNodeName == "" {
		defer p.forget(o)
	} else if _, err := p.nodes.Get(o.SelectedNodeName); apierrors.IsNotFound(err) {
		p.forget(o)
	}
	return p.csiProvisioner.Provision(ctx, o)
}

func (p *provisioner) forget(o controller.ProvisionOptions) {
	_ = p.topologies.Delete(o.PVC.UID) // it has no error to return
}

// ShouldDelete implements [controller.DeletionGuard]. A PV that the library has
// just deleted still stands in the cache, and its last change makes the library
// look at it again: without this look at the API, nearly every volume would be
// deleted twice.
func (p *provisioner) ShouldDelete(ctx context.Context, pv *corev1.PersistentVolume) bool {
	if pv.DeletionTimestamp == nil || pv.Status.Phase != corev1.VolumeReleased {
		return true
	}
	now, err := p.volumes.Get(ctx, pv.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false
	}
	// An error here is no reason to wait: deleting twice does no harm.
	return err != nil || now.UID == pv.UID && slices.Contains(now.Finalizers, deleteFinalizer)
}

// cloningProtection takes the finalizer from the source of a clone when the clone
// is made.
func (s *Sidecar) cloningProtection() *upstream.CloningProtectionController {
	claims := s.config.Informers.Core().V1().PersistentVolumeClaims()
	return upstream.NewCloningProtectionController(s.config.Client, claims.Lister(), claims.Informer(), queue("clones"), s.csi.controller)
}
