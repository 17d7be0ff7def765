package driver

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/node/cgroup"
	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/pool"
)

const (
	// Name is the CSI name of the driver.
	Name = link.DriverName
	// TopologyKey is the key of the one topology segment: the name of the node.
	TopologyKey = link.TopologyKey
	// PassphraseKey is the key in the node-stage secret that holds the LUKS2
	// passphrase of an encrypted volume. Its bytes are used as they are.
	PassphraseKey = "passphrase"
)

// Pools is what the driver uses of a [pool.Manager].
type Pools interface {
	CreateVolume(ctx context.Context, req pool.CreateVolume) (pool.Volume, error)
	DeleteVolume(ctx context.Context, id pool.ID) error
	ExpandVolume(ctx context.Context, id pool.ID, required, limit int64) (pool.Volume, error)
	GetVolume(id pool.ID) (pool.Volume, error)
	ListVolumes() ([]pool.Volume, error)
	SetLimits(ctx context.Context, id pool.ID, l pool.Limits) error

	CreateSnapshot(ctx context.Context, name string, source pool.ID) (pool.Snapshot, error)
	DeleteSnapshot(ctx context.Context, id pool.ID) error
	GetSnapshot(id pool.ID) (pool.Snapshot, error)
	ListSnapshots() ([]pool.Snapshot, error)

	CreateGroup(ctx context.Context, name string, sources []pool.ID) (pool.Group, error)
	DeleteGroup(ctx context.Context, id pool.ID, want pool.Members) error
	GetGroup(id pool.ID, want pool.Members) (pool.Group, error)
	PrepareGroup(ctx context.Context, part pool.GroupPart) (instant string, err error)
	HoldGroup(ctx context.Context, part pool.GroupPart, held func() error) error
	SnapshotHeld(ctx context.Context, part pool.GroupPart) error
	CommitGroup(ctx context.Context, part pool.GroupPart) (pool.Group, error)

	OpenDevice(ctx context.Context, id pool.ID) (pool.Device, error)
	Released(id pool.ID)
	Prezeroed(id pool.ID) (bool, error)
	MarkFormatted(ctx context.Context, id pool.ID, fs string) error
	ActiveDevice(id pool.ID) (string, error)
	Usage(id pool.ID) (pool.Usage, error)

	Capacity(name string) (pool.Capacity, error)
	Statuses() []pool.Status
}

// Mounter is what the driver uses of a [mount.Mounter]. The driver holds one lock
// per volume over its calls.
type Mounter interface {
	Stage(ctx context.Context, r mount.StageRequest) error
	StageBlock(ctx context.Context, r mount.StageRequest) (string, error)
	Unstage(ctx context.Context, stagingPath, luksName string) error
	Publish(ctx context.Context, r mount.PublishRequest) error
	PublishBlock(ctx context.Context, r mount.PublishBlockRequest) error
	Unpublish(ctx context.Context, target string) error
	Grow(ctx context.Context, r mount.GrowRequest) error
	MountedAt(device string) (map[string]bool, error)
	PodOf(target string) string
	DeviceNumber(path string) (major, minor uint32, err error)
	Stats(ctx context.Context, path string) (mount.Stats, error)
	Health(ctx context.Context, device, path string) (mount.Health, error)
}

var (
	_ Pools   = (*pool.Manager)(nil)
	_ Mounter = (*mount.Mounter)(nil)
)

// RunningCommand is an lvm command that changes a volume group and has not ended.
type RunningCommand struct {
	VG, Command string
	Since       time.Time
}

// Config says what a [Driver] serves and where. Pools, Mounter and NodeID are
// required; Run needs Endpoint too.
type Config struct {
	Name       string // of the driver; "": [Name]
	Version    string
	NodeID     string // the node's name in the cluster
	MaxVolumes int64  // that kubelet may publish here; 0: no limit of ours

	// Endpoint is the path of the CSI socket, with or without "unix://". Kubelet
	// dials it under the same path.
	Endpoint string
	// RegistrationDir is kubelet's plugins_registry; "": do not register.
	RegistrationDir string

	Pools   Pools
	Mounter Mounter
	// CgroupRoot is where cgroup v2 is mounted, for the limits of volumes; "":
	// [cgroup.DefaultRoot].
	CgroupRoot string

	// Agent has the pools wanted and tells how they are; nil: nobody does, and all
	// pools are served.
	Agent PoolAgent

	// Ready says why the agent cannot serve yet; nil: it always can.
	Ready func() error
	// Lacks says what this node lacks for a pool that is wanted; nil: nothing. /readyz
	// tells it, and calls about other pools are served all the same.
	Lacks func() error
	// Running lists the lvm commands that have not ended; nil: not known.
	Running func() []RunningCommand

	Log      *slog.Logger         // nil: nothing is logged
	Registry *prometheus.Registry // nil: a new one
	// StopTimeout is how long Run waits, once its context ends, for RPCs that are
	// under way. Default: 30 seconds.
	StopTimeout time.Duration
}

// Driver serves CSI. Its methods that the CSI services define return the errors
// of package pool and of package mount; the server's interceptor turns them into
// gRPC codes.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	csi.UnimplementedNodeServer
	csi.UnimplementedGroupControllerServer

	config  Config
	pools   Pools
	mounter Mounter
	cgroups cgroup.Tree
	log     *slog.Logger
	metrics *rpcMetrics
	volumes keyLock
}

// New makes a Driver and registers its metrics.
func New(c Config) *Driver {
	if c.Name == "" {
		c.Name = Name
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	if c.StopTimeout == 0 {
		c.StopTimeout = 30 * time.Second
	}
	if c.Ready == nil {
		c.Ready = func() error { return nil }
	}
	if c.Lacks == nil {
		c.Lacks = func() error { return nil }
	}
	if c.Running == nil {
		c.Running = func() []RunningCommand { return nil }
	}
	c.Endpoint = strings.TrimPrefix(c.Endpoint, "unix://")
	d := &Driver{config: c, pools: c.Pools, mounter: c.Mounter, cgroups: cgroup.Tree{Root: c.CgroupRoot}, log: c.Log, metrics: newRPCMetrics()}
	c.Registry.MustRegister(d.metrics.requests, &poolCollector{pools: c.Pools, running: c.Running})
	return d
}

// Register adds the CSI services and Pools to a server, which must be made with
// [Driver.ServerOptions].
func (d *Driver) Register(s grpc.ServiceRegistrar) {
	csi.RegisterIdentityServer(s, d)
	csi.RegisterControllerServer(s, d)
	csi.RegisterNodeServer(s, d)
	csi.RegisterGroupControllerServer(s, d)
	link.RegisterPoolsServer(s, &poolsServer{agent: d.config.Agent, driver: d})
}

// topology is where this node's volumes can be used.
func (d *Driver) topology() *csi.Topology {
	return &csi.Topology{Segments: map[string]string{TopologyKey: d.config.NodeID}}
}

// thin reports whether snapshots and clones are possible here: a pool is in thin
// mode, or there is none yet, which may come.
func (d *Driver) thin() bool {
	all := d.pools.Statuses()
	for _, s := range all {
		if s.Mode == pool.Thin {
			return true
		}
	}
	return len(all) == 0
}
