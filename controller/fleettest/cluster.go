package fleettest

import (
	"context"
	"fmt"
	"path"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/lamina-csi/lamina/driver"
	"github.com/lamina-csi/lamina/driver/drivertest"
	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/node/pool"
)

// Cluster is nodes in memory and their links.
type Cluster struct {
	*Links
	nodes int
}

// NewCluster makes a Cluster without nodes.
func NewCluster(t testing.TB) *Cluster { return &Cluster{Links: NewLinks(t)} }

// Node is a node that serves CSI and Pools over its link, and CSI on a socket of
// its own.
type Node struct {
	*drivertest.Node
	cluster *Cluster
	linked  *driver.Driver // what the link serves

	mu     sync.Mutex
	around func(ctx context.Context, method string, call func() error) error
}

// Add makes a node with those pools. It has no link yet.
func (c *Cluster) Add(t testing.TB, name string, specs ...pool.Spec) *Node {
	t.Helper()
	n := &Node{Node: drivertest.NewNamed(t, name), cluster: c}
	// Hosts in memory all count their UUIDs from the same number.
	for i := range c.nodes {
		disk := fmt.Sprintf("/dev/sd%c", 'a'+i)
		n.Host.AddDisk(disk, drivertest.DiskSize)
		n.Host.AddForeignVG(fmt.Sprintf("other-%d", i), nil, disk)
	}
	c.nodes++
	for i, s := range specs {
		n.AddPool(t, s, fmt.Sprintf("/dev/nvme%dn1", i))
	}
	n.serve()
	return n
}

// AddTwin makes a node that shows the disks of another one as its own, as one
// does to which they were carried, or copied. It has no link yet.
func (c *Cluster) AddTwin(t testing.TB, name string, of *Node) *Node {
	t.Helper()
	n := &Node{Node: drivertest.NewNamed(t, name), cluster: c}
	n.Host, n.Pools = of.Host, of.Pools
	n.serve()
	return n
}

func (n *Node) serve() {
	n.linked = driver.New(driver.Config{
		NodeID: n.Name, Version: "test", Pools: n.Pools, Mounter: n.Mounter,
		Agent: &poolAgent{pools: n.Pools, changed: make(chan struct{})},
	})
}

// Link makes the node's link, in place of one that is up.
func (n *Node) Link(t testing.TB) {
	t.Helper()
	options := append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(n.intercept)}, n.linked.ServerOptions()...)
	s := grpc.NewServer(options...)
	n.linked.Register(s)
	n.cluster.Up(t, n.Name, s)
}

// Unlink ends the node's link.
func (n *Node) Unlink() { n.cluster.Down(n.Name) }

// VolumeGroup is the UUID of the node's first volume group.
func (n *Node) VolumeGroup() string { return n.Pools.Statuses()[0].VGUUID }

// Around has f called for each unary call over the link, to make the call or not.
// The error that f returns is the answer.
func (n *Node) Around(f func(ctx context.Context, method string, call func() error) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.around = f
}

func (n *Node) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	n.mu.Lock()
	around := n.around
	n.mu.Unlock()
	if around == nil {
		return handler(ctx, req)
	}
	err = around(ctx, path.Base(info.FullMethod), func() error {
		resp, err = handler(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// poolAgent tells how the pools of a manager are. What is wanted changes nothing.
type poolAgent struct {
	pools *pool.Manager

	mu      sync.Mutex
	changed chan struct{}
}

// Apply implements driver.PoolAgent.
func (a *poolAgent) Apply([]*link.Pool) error { return nil }

// Told implements driver.PoolAgent.
func (a *poolAgent) Told() error { return nil }

// Changed implements driver.PoolAgent.
func (a *poolAgent) Changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}

// Touch implements driver.PoolAgent.
func (a *poolAgent) Touch() {
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.changed)
	a.changed = make(chan struct{})
}

// Statuses implements driver.PoolAgent.
func (a *poolAgent) Statuses() (out []*link.PoolStatus, settled bool) {
	for _, s := range a.pools.Statuses() {
		out = append(out, &link.PoolStatus{
			Name: s.Name, Vg: s.VG, VgUuid: s.VGUUID, Mode: string(s.Mode), Wanted: s.Wanted, Disks: s.Disks,
			Size: s.Size, Used: s.Used, Virtual: s.Virtual, Available: s.Free, MaxVolumeSize: s.Free,
			Volumes: int32(s.Volumes), Snapshots: int32(s.Snapshots), Health: string(s.Health), Text: s.Text,
		})
	}
	return out, true
}
