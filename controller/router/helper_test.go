package router_test

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/lamina-csi/lamina/controller/fleet"
	"github.com/lamina-csi/lamina/controller/fleettest"
	"github.com/lamina-csi/lamina/controller/router"
	"github.com/lamina-csi/lamina/driver/drivertest"
	"github.com/lamina-csi/lamina/node/pool"
)

const mib = int64(1) << 20

// cluster is nodes with a thin pool fast each, and links to all of them.
type cluster struct {
	*fleettest.Cluster
	node map[string]*fleettest.Node
}

func newCluster(t testing.TB, names ...string) cluster {
	c := cluster{fleettest.NewCluster(t), map[string]*fleettest.Node{}}
	for _, name := range names {
		n := c.Add(t, name, drivertest.Spec("fast", pool.Thin))
		c.node[name] = n
		n.Link(t)
	}
	return c
}

// volumes lists the ids of all volumes on all nodes, as the nodes have them.
func (c cluster) volumes(t testing.TB) []string {
	t.Helper()
	var out []string
	for _, n := range c.node {
		list, err := n.Pools.ListVolumes()
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range list {
			out = append(out, v.ID.String())
		}
	}
	slices.Sort(out)
	return out
}

// controller is one life of a controller, as its callers see it.
type controller struct {
	csi.ControllerClient
	csi.GroupControllerClient
	csi.IdentityClient
	router *router.Router
	fleet  *fleet.Fleet
	log    *logBuffer
	stop   func()
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// start starts a controller that knows the nodes which have a link.
func (c cluster) start(t testing.TB, change ...func(*router.Config)) *controller {
	t.Helper()
	k := &controller{log: &logBuffer{}}
	log := slog.New(slog.NewJSONHandler(k.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	k.fleet = fleet.New(c.Links, log)
	config := router.Config{Fleet: k.fleet, Version: "test", Log: log}
	for _, f := range change {
		f(&config)
	}
	k.router = router.New(config)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { ended(t, "fleet", k.fleet.Run(ctx)) })
	running.Go(func() { ended(t, "router", k.router.Run(ctx)) })
	k.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(k.stop)
	k.ControllerClient = csi.NewControllerClient(k.router.Conn())
	k.GroupControllerClient = csi.NewGroupControllerClient(k.router.Conn())
	k.IdentityClient = csi.NewIdentityClient(k.router.Conn())
	k.until(t, func() bool {
		for name := range c.node {
			if _, err := c.Conn(name); err == nil && !k.sees(name) {
				return false
			}
		}
		return true
	})
	return k
}

func ended(t testing.TB, what string, err error) {
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// sees reports whether the node has a link and has sent its status.
func (k *controller) sees(name string) bool {
	pools, linked := k.fleet.Status(name)
	return linked && pools != nil
}

// until waits for what changes of links and statuses bring about.
func (k *controller) until(t testing.TB, holds func() bool) {
	t.Helper()
	changed := make(chan struct{}, 1)
	k.fleet.Subscribe(func(string) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	for !holds() {
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatal("the test ended first")
		}
	}
}

// link and unlink wait until the controller knows.
func (k *controller) link(t testing.TB, n *fleettest.Node) {
	t.Helper()
	n.Link(t)
	k.until(t, func() bool { return k.sees(n.Name) })
}

func (k *controller) unlink(t testing.TB, n *fleettest.Node) {
	t.Helper()
	n.Unlink()
	k.until(t, func() bool { return !k.sees(n.Name) })
}

func noSettle(c *router.Config) { c.Settle = 1 }

// request is a CreateVolume that works on one of those nodes, the first preferred.
func request(name string, nodes ...string) *csi.CreateVolumeRequest {
	r := &csi.CreateVolumeRequest{
		Name:          name,
		CapacityRange: &csi.CapacityRange{RequiredBytes: 64 * mib},
		Parameters:    map[string]string{"pool": "fast"},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		}},
	}
	if len(nodes) > 0 {
		r.AccessibilityRequirements = &csi.TopologyRequirement{}
		for _, n := range nodes {
			r.AccessibilityRequirements.Preferred = append(r.AccessibilityRequirements.Preferred, topology(n))
			r.AccessibilityRequirements.Requisite = slices.Insert(r.AccessibilityRequirements.Requisite, 0, topology(n))
		}
	}
	return r
}

func topology(node string) *csi.Topology {
	return &csi.Topology{Segments: map[string]string{"topology.lamina.dev/node": node}}
}

// create makes a volume, which must lie on that node.
func (k *controller) create(t testing.TB, node string, r *csi.CreateVolumeRequest) string {
	t.Helper()
	resp, err := k.CreateVolume(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "topology of "+r.GetName(), []*csi.Topology{topology(node)}, resp.GetVolume().GetAccessibleTopology())
	return resp.GetVolume().GetVolumeId()
}

func (k *controller) snapshot(t testing.TB, name, volume string) string {
	t.Helper()
	resp, err := k.CreateSnapshot(t.Context(), &csi.CreateSnapshotRequest{Name: name, SourceVolumeId: volume})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetSnapshot().GetSnapshotId()
}

func equal[T any](t testing.TB, what string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// wantError checks an error's code and that its text has all those words.
func wantError(t testing.TB, err error, code codes.Code, words ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("got %v, want code %s", err, code)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

// answers has the node answer every CreateVolume with that error; after says
// whether it does so after it has made the volume.
func answers(n *fleettest.Node, err error, after bool) {
	n.Around(func(_ context.Context, method string, call func() error) error {
		if method != "CreateVolume" {
			return call()
		}
		if after {
			if err := call(); err != nil {
				return err
			}
		}
		return err
	})
}
