package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lamina-csi/lamina/driver"
	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/mount/mounttest"
	"github.com/lamina-csi/lamina/node/pool"
)

const (
	poolName    = "fast"
	profileName = "nvme"
	diskSize    = 100 << 30
	volumeSize  = 16 << 20
)

// agent is a simulated node: the real driver and link on LVM in memory. What makes
// pools from disks is not there: one pool exists, whatever is wanted.
type agent struct {
	name   string
	pools  *pool.Manager
	driver *driver.Driver
	server *grpc.Server
	fleet  *agents

	status *poolAgent
	told   atomic.Int64 // Apply calls
	took   sync.Map     // name of a volume → how long the driver took to make it
}

// agents are those of all nodes, and what they have seen since the last reset.
type agents struct {
	all    []*agent
	linked atomic.Int64 // links made
	ended  atomic.Int64 // links that ended
	shown  atomic.Int64 // streams of status that were opened
	told   atomic.Int64 // nodes that were told what is wanted
}

// newAgent makes a node with an empty pool. kubelet is kubelet's directory, in
// which nothing is mounted.
func newAgent(ctx context.Context, fleet *agents, kubelet string, i int) (*agent, error) {
	host := lvmtest.New()
	const disk = "/dev/nvme0n1"
	host.AddDisk(disk, diskSize)
	path, err := lvm.ParseDevicePath(disk)
	if err != nil {
		return nil, err
	}
	a := &agent{name: nodeName(i), fleet: fleet}
	mounter := mount.New(mounttest.New(devices{host}).Config(kubelet))
	a.pools = pool.NewManager(lvm.New(host, host, lvm.Options{}), mounter)
	report, err := a.pools.Discover(ctx)
	if err != nil {
		return nil, err
	}
	spec := pool.Spec{Name: poolName, Mode: pool.Thin, Layout: lvm.Linear, Overprovision: 3, Reserve: 5, FullAt: 90}
	if err := a.pools.Ensure(ctx, spec, report, []lvm.DevicePath{path}); err != nil {
		return nil, err
	}
	groups := newGroups(a.pools, i)
	a.status = &poolAgent{agent: a, pools: groups, changed: make(chan struct{})}
	a.driver = driver.New(driver.Config{Version: "bench", NodeID: a.name, Pools: groups, Mounter: mounter, Agent: a.status})
	options := append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(a.time), grpc.ChainStreamInterceptor(a.count)}, a.driver.ServerOptions()...)
	a.server = grpc.NewServer(options...)
	a.driver.Register(a.server)
	return a, nil
}

type devices struct{ host *lvmtest.Host }

// Device lets mounttest find the host's devices.
func (d devices) Device(path string) (mounttest.Device, error) { return d.host.Device(path) }

// dial keeps the agent linked until ctx ends, as lamina-node does.
func (a *agent) dial(ctx context.Context, c link.DialConfig) {
	l := &counting{Listener: link.Listen(ctx, c), fleet: a.fleet}
	go func() { _ = a.server.Serve(l) }() // ends with ctx
}

// serveAt has the agent serve on a unix socket too, and connects to it: the way
// of a create without a controller.
func (a *agent) serveAt(dir string) (*grpc.ClientConn, error) {
	path := filepath.Join(dir, a.name+".sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	go func() { _ = a.server.Serve(l) }() // ends with the process
	return grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// time notes how long the agent itself takes to make a volume.
func (a *agent) time(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	resp, err := handler(ctx, req)
	if r, ok := req.(*csi.CreateVolumeRequest); ok {
		a.took.Store(r.GetName(), time.Since(start))
	}
	return resp, err
}

func (a *agent) count(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	a.fleet.shown.Add(1)
	return handler(srv, stream)
}

// counting counts the links.
type counting struct {
	net.Listener
	fleet *agents
}

// Accept implements net.Listener.
func (l *counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.fleet.linked.Add(1)
	return &counted{Conn: c, end: sync.OnceFunc(func() { l.fleet.ended.Add(1) })}, nil
}

type counted struct {
	net.Conn
	end func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.end()
	return c.Conn.Close()
}

// reset begins to count anew.
func (f *agents) reset() {
	f.linked.Store(0)
	f.ended.Store(0)
	f.shown.Store(0)
	f.told.Store(0)
	for _, a := range f.all {
		a.told.Store(0)
	}
}

// poolAgent tells how the pools are.
type poolAgent struct {
	agent *agent
	pools *groups

	mu      sync.Mutex
	changed chan struct{}
}

// Apply implements driver.PoolAgent.
func (p *poolAgent) Apply(pools []*link.Pool) error {
	if len(pools) != 1 || pools[0].GetName() != poolName || pools[0].GetProfile() != profileName {
		return fmt.Errorf("wanted are %v, not the pool %s", pools, poolName)
	}
	if p.agent.told.Add(1) == 1 {
		p.agent.fleet.told.Add(1)
	}
	return nil
}

// Told implements driver.PoolAgent.
func (p *poolAgent) Told() error { return nil }

// Changed implements driver.PoolAgent.
func (p *poolAgent) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// Touch implements driver.PoolAgent.
func (p *poolAgent) Touch() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
}

// Statuses implements driver.PoolAgent.
func (p *poolAgent) Statuses() (out []*link.PoolStatus, settled bool) {
	for _, s := range p.pools.Statuses() {
		out = append(out, &link.PoolStatus{
			Name: s.Name, Vg: s.VG, VgUuid: s.VGUUID, Mode: string(s.Mode), Wanted: s.Wanted, Disks: s.Disks,
			Size: s.Size, Used: s.Used, MetadataSize: s.MetadataSize, MetadataUsed: s.MetadataUsed,
			Virtual: s.Virtual, Available: s.Free, MaxVolumeSize: s.Free,
			Volumes: int32(s.Volumes), Snapshots: int32(s.Snapshots), Health: string(s.Health), Text: s.Text,
		})
	}
	return out, true
}

// groups are the pools of a node under a UUID of its own: hosts in memory all
// count theirs from the same number.
type groups struct {
	*pool.Manager
	real, shown string
}

func newGroups(m *pool.Manager, i int) *groups {
	g := &groups{Manager: m, real: m.Statuses()[0].VGUUID}
	g.shown = g.real[:len(g.real)-6] + fmt.Sprintf("%06d", i)
	return g
}

func (g *groups) in(id pool.ID) pool.ID {
	if id.VG == g.shown {
		id.VG = g.real
	}
	return id
}

func (g *groups) out(v pool.Volume) pool.Volume {
	v.ID.VG = strings.Replace(v.ID.VG, g.real, g.shown, 1)
	return v
}

// CreateVolume implements driver.Pools.
func (g *groups) CreateVolume(ctx context.Context, req pool.CreateVolume) (pool.Volume, error) {
	v, err := g.Manager.CreateVolume(ctx, req)
	return g.out(v), err
}

// DeleteVolume implements driver.Pools.
func (g *groups) DeleteVolume(ctx context.Context, id pool.ID) error {
	return g.Manager.DeleteVolume(ctx, g.in(id))
}

// GetVolume implements driver.Pools.
func (g *groups) GetVolume(id pool.ID) (pool.Volume, error) {
	v, err := g.Manager.GetVolume(g.in(id))
	return g.out(v), err
}

// ListVolumes implements driver.Pools.
func (g *groups) ListVolumes() ([]pool.Volume, error) {
	list, err := g.Manager.ListVolumes()
	for i := range list {
		list[i] = g.out(list[i])
	}
	return list, err
}

// ActiveDevice implements driver.Pools.
func (g *groups) ActiveDevice(id pool.ID) (string, error) { return g.Manager.ActiveDevice(g.in(id)) }

// Usage implements driver.Pools.
func (g *groups) Usage(id pool.ID) (pool.Usage, error) { return g.Manager.Usage(g.in(id)) }

// Statuses implements driver.Pools.
func (g *groups) Statuses() []pool.Status {
	list := g.Manager.Statuses()
	for i := range list {
		list[i].VGUUID = g.shown
	}
	return list
}

// newAgents makes the nodes.
func newAgents(ctx context.Context, nodes int, kubelet string, log *slog.Logger) (*agents, error) {
	f := &agents{all: make([]*agent, nodes)}
	err := each(ctx, nodes, 4, func(ctx context.Context, i int) (err error) {
		f.all[i], err = newAgent(ctx, f, kubelet, i)
		return err
	})
	log.Info("nodes are in memory", "nodes", nodes)
	return f, err
}
