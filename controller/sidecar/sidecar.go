// Package sidecar runs what stock installations run as five sidecar containers,
// in this process: external-provisioner (with sig-storage-lib), external-resizer
// (expansion and VolumeAttributesClass) and external-snapshotter (snapshots and
// group snapshots). They share the caller's informers and speak CSI on one
// connection, the router's.
//
// What of them is not used, and why:
//
//   - Their leader elections and their connection code: both end the process on
//     their own account. The caller holds the one lease.
//   - The provisioner's capacity controller: it polls, and its queue never joins
//     equal entries (external-provisioner issue 1161).
//   - The provisioner's SnapshotFinalizerController: it keeps every VolumeSnapshot
//     of the cluster in an informer of its own. See [protection].
//   - Cross-namespace sources (ReferenceGrant): alpha, and the Gateway API would
//     have to be installed. The gate stays off, as is its default.
//   - The resizer's Pod informer: it serves drivers that cannot expand a volume
//     in use.
//
// Their log goes to klog: the program calls klog.SetSlogLogger before [New]. Their
// feature gates are global to the process and stay at their defaults, among which
// VolumeAttributesClass is on.
package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	snapshotclient "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	snapshotinformers "github.com/kubernetes-csi/external-snapshotter/client/v8/informers/externalversions"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"github.com/kubernetes-csi/csi-lib-utils/rpc"
)

// Config says what the sidecars work on. All fields but Log and Registry are
// required.
type Config struct {
	DriverName string // CSI name of the driver
	// Client should have no client-side rate limit: a burst of claims means three
	// writes for each, and the API server's own fairness sets the pace.
	Client kubernetes.Interface
	// Snapshots is a clientset whether or not the snapshot CRDs are installed.
	Snapshots snapshotclient.Interface
	// Informers gives claims, volumes, StorageClasses, CSINodes, Nodes and, where
	// they are served, VolumeAttributesClasses. A transform may take managedFields
	// from claims and volumes and nothing else: claims are written back whole. Of
	// a Node the name and the topology label are read, of a CSINode the driver's
	// entry. No Node that runs the driver may be filtered out: a Node that is not
	// there counts as deleted. A resync period (10 minutes or more) should be set.
	Informers informers.SharedInformerFactory
	Conn      *grpc.ClientConn      // to the router
	Log       *slog.Logger          // nil: nothing is logged
	Registry  prometheus.Registerer // for provisioning and deletion metrics; nil: none
}

// Sidecar runs the controllers.
type Sidecar struct {
	config      Config
	log         *slog.Logger
	csi         *client
	provisioner *provisioner
	controller  *controller.ProvisionController
	protection  *protection
	snapshots   snapshotinformers.SharedInformerFactory // of the single ones
	workers     sync.WaitGroup                          // of controller
	firstPoll   time.Duration                           // of an API that is not served yet
	infeasible  time.Duration                           // infeasibleRetry, but in tests
}

// New makes a Sidecar and asks nobody anything. It must be called before anything
// in this process uses a Kubernetes client, and once for an informer factory:
// sig-storage-lib's constructor writes to client-go's global scheme, which other
// goroutines read without a lock, and adds an index to the claims' informer.
func New(c Config) (*Sidecar, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Sidecar{config: c, log: c.Log, csi: newClient(c.DriverName, c.Conn), firstPoll: time.Second, infeasible: infeasibleRetry}
	s.protection = newProtection(c.Snapshots, c.Informers.Core().V1().PersistentVolumeClaims().Lister(), c.Log)
	s.snapshots = s.snapshotInformers()
	if err := s.newProvisionController(); err != nil {
		return nil, err
	}
	return s, nil
}

// Run runs the controllers until ctx ends, which is when leadership ends; it is
// called once. It starts those informers that nobody has started; none of them
// can be started again afterwards, so the process should end.
func (s *Sidecar) Run(ctx context.Context) error {
	if err := s.csi.learn(ctx); ctx.Err() != nil {
		return nil
	} else if err != nil {
		return fmt.Errorf("start the provisioner, resizer and snapshotter: %w", err)
	}
	if err := s.provisioner.connect(s); err != nil {
		return err
	}
	cloning := s.cloningProtection()
	resizing, err := s.resizeController()
	if err != nil {
		return err
	}
	s.config.Informers.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), s.synced()...) {
		return nil
	}
	var running sync.WaitGroup
	running.Go(func() { s.controller.Run(ctx) })
	running.Go(func() { cloning.Run(ctx, 1, nil) })
	running.Go(func() { resizing.Run(resizeWorkers, ctx, nil) })
	running.Go(func() { s.runModify(ctx) })
	running.Go(func() { s.runSnapshots(ctx) })
	running.Go(func() { s.runGroups(ctx) })
	running.Go(func() { s.runProtection(ctx) })
	s.log.Info("provisioner and resizer run", "driver", s.config.DriverName)
	running.Wait()
	// A volume that was just made gets its PV before the next leader looks.
	s.workers.Wait()
	return nil
}

// synced tells when the informers that provisioning and expansion need are full.
func (s *Sidecar) synced() []cache.InformerSynced {
	core, storage := s.config.Informers.Core().V1(), s.config.Informers.Storage().V1()
	return []cache.InformerSynced{
		core.PersistentVolumeClaims().Informer().HasSynced,
		core.PersistentVolumes().Informer().HasSynced,
		core.Nodes().Informer().HasSynced,
		storage.StorageClasses().Informer().HasSynced,
		storage.CSINodes().Informer().HasSynced,
	}
}

// capabilities is what the driver offers.
type capabilities struct {
	plugin     rpc.PluginCapabilitySet
	controller rpc.ControllerCapabilitySet
	group      rpc.GroupControllerCapabilitySet
}

func learn(ctx context.Context, conn *grpc.ClientConn) (capabilities, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var c capabilities
	var plugin, ctrl, group error
	c.plugin, plugin = rpc.GetPluginCapabilities(ctx, conn)
	c.controller, ctrl = rpc.GetControllerCapabilities(ctx, conn)
	c.group, group = rpc.GetGroupControllerCapabilities(ctx, conn)
	if err := errors.Join(plugin, ctrl, group); err != nil {
		return c, fmt.Errorf("ask the driver for its capabilities: %w", err)
	}
	return c, nil
}
