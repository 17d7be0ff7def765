// Package drivertest is a node in memory that serves CSI: the real driver, the
// real pool and mount packages, and below them lvmtest and mounttest.
package drivertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lamina-csi/lamina/driver"
	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/mount/mounttest"
	"github.com/lamina-csi/lamina/node/pool"
	"github.com/lamina-csi/lamina/test/invariant"
)

// NodeID is the name of a node that [New] makes.
const NodeID = "node-1"

// DiskSize is the size in bytes of the one disk that each pool lies on.
const DiskSize = 1 << 30

// Node serves CSI on a unix socket.
type Node struct {
	csi.IdentityClient
	csi.ControllerClient
	csi.NodeClient
	csi.GroupControllerClient

	Name       string
	Host       *lvmtest.Host
	System     *mounttest.System
	Mounter    *mount.Mounter
	Pools      *pool.Manager
	Driver     *driver.Driver
	KubeletDir string
	CgroupRoot string // an empty cgroup v2 hierarchy; see [Node.AddPod]
	Endpoint   string // path of the socket
	Log        *Log
	After      *invariant.Watch // what must be true in the end
}

// Log collects what the driver logs.
type Log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// Spec is a pool with the built-in profile's settings.
func Spec(name string, mode pool.Mode) pool.Spec {
	return pool.Spec{Name: name, Mode: mode, Layout: lvm.Linear, Overprovision: 3, Reserve: 5, FullAt: 90}
}

// devices lets mounttest write to the host's devices.
type devices struct{ host *lvmtest.Host }

func (d devices) Device(path string) (mounttest.Device, error) { return d.host.Device(path) }

// New makes a node with those pools, each on a disk of its own, and serves it
// until the test ends.
func New(t testing.TB, specs ...pool.Spec) *Node {
	t.Helper()
	return NewNamed(t, NodeID, specs...)
}

// NewNamed is [New] for a node of that name.
func NewNamed(t testing.TB, name string, specs ...pool.Spec) *Node {
	t.Helper()
	n := &Node{Name: name, Host: lvmtest.New(), Log: &Log{}}
	// Not t.TempDir: its path holds the test's name and outgrows a socket's 108 bytes.
	dir, err := os.MkdirTemp("", "csi-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n.KubeletDir = filepath.Join(dir, "kubelet")
	n.Endpoint = filepath.Join(dir, "csi.sock")
	n.CgroupRoot = filepath.Join(dir, "cgroup")
	for _, d := range []string{n.KubeletDir, n.CgroupRoot} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(n.CgroupRoot, "cgroup.controllers"), []byte("cpu io memory\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.System = mounttest.New(devices{n.Host})
	n.After = invariant.After(t, n.Host, n.System)
	n.Mounter = mount.New(n.System.Config(n.KubeletDir))
	n.Pools = pool.NewManager(lvm.New(n.Host, n.Host, lvm.Options{}), n.Mounter)
	for i, s := range specs {
		n.AddPool(t, s, "/dev/nvme"+string(rune('0'+i))+"n1")
	}
	n.Serve(t, nil)
	return n
}

// AddPool makes a pool on a new disk.
func (n *Node) AddPool(t testing.TB, s pool.Spec, disk string) {
	t.Helper()
	n.Host.AddDisk(disk, DiskSize)
	path, err := lvm.ParseDevicePath(disk)
	if err != nil {
		t.Fatal(err)
	}
	report, err := n.Pools.Discover(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Pools.Ensure(t.Context(), s, report, []lvm.DevicePath{path}); err != nil {
		t.Fatal(err)
	}
}

// AddPod makes a pod's cgroup, as kubelet does, and returns its io.max: a file that
// keeps what was written last.
func (n *Node) AddPod(t testing.TB, uid string) (ioMax string) {
	t.Helper()
	dir := filepath.Join(n.CgroupRoot, "kubepods", "burstable", "pod"+uid)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ioMax = filepath.Join(dir, "io.max")
	if err := os.WriteFile(ioMax, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return ioMax
}

// Serve starts a driver, as a new agent does, and connects to it. change may
// alter its configuration. An earlier driver of this node must have ended.
func (n *Node) Serve(t testing.TB, change func(*driver.Config)) {
	t.Helper()
	c := driver.Config{
		Version:    "test",
		NodeID:     n.Name,
		Endpoint:   n.Endpoint,
		Pools:      n.Pools,
		Mounter:    n.Mounter,
		CgroupRoot: n.CgroupRoot,
		Log:        slog.New(slog.NewJSONHandler(io.Writer(n.Log), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&c)
		n.Endpoint = strings.TrimPrefix(c.Endpoint, "unix://")
	}
	n.Driver = driver.New(c)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Driver.Run(ctx) }()
	conn, err := grpc.NewClient("unix://"+n.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		// The first attempt may come before the socket is there.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.6, MaxDelay: time.Second}, MinConnectTimeout: time.Second}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := conn.Close()
		cancel()
		if err := errors.Join(err, <-ended); err != nil {
			t.Errorf("driver: %v", err)
		}
		if t.Failed() {
			t.Logf("log of the driver:\n%s", n.Log)
		}
	})
	n.IdentityClient = csi.NewIdentityClient(conn)
	n.ControllerClient = csi.NewControllerClient(conn)
	n.NodeClient = csi.NewNodeClient(conn)
	n.GroupControllerClient = csi.NewGroupControllerClient(conn)
	if _, err := n.Probe(ctx, &csi.ProbeRequest{}); err != nil {
		t.Fatal(err)
	}
}
