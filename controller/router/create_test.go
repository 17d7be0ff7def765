package router_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/controller/router"
	"github.com/lamina-csi/lamina/driver/drivertest"
	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/node/pool"
)

var full = status.Error(codes.ResourceExhausted, "no room in here")

func TestCandidates(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	other := c.Add(t, "d", drivertest.Spec("slow", pool.Thin))
	other.Link(t)
	c.node["d"] = other
	k := c.start(t)
	slow := func(r *csi.CreateVolumeRequest) *csi.CreateVolumeRequest {
		r.Parameters["pool"] = "slow"
		return r
	}

	k.create(t, "b", request("late binding", "b"))
	k.create(t, "c", request("preferred", "c", "a", "b"))
	k.create(t, "a", request("no topology"))
	k.create(t, "d", slow(request("no topology, other pool")))
	k.create(t, "d", slow(request("only one has the pool", "a", "b", "c", "d")))

	answers(c.node["c"], full, false)
	k.create(t, "a", request("first is full", "c", "a", "b"))
	_, err := k.CreateVolume(t.Context(), request("all are full", "c"))
	wantError(t, err, codes.ResourceExhausted, "node c", "no room in here")
	_, err = k.CreateVolume(t.Context(), slow(request("no such pool there", "a", "b")))
	wantError(t, err, codes.ResourceExhausted, `"slow"`, "fast")

	elsewhere := request("another cluster")
	elsewhere.AccessibilityRequirements = &csi.TopologyRequirement{Requisite: []*csi.Topology{{Segments: map[string]string{"zone": "z"}}}}
	_, err = k.CreateVolume(t.Context(), elsewhere)
	wantError(t, err, codes.ResourceExhausted, "another cluster", "topology.lamina.dev/node")
	bad := request("bad parameter")
	bad.Parameters["Pool"] = "x"
	_, err = k.CreateVolume(t.Context(), bad)
	wantError(t, err, codes.InvalidArgument, `"Pool"`)

	k.unlink(t, c.node["b"])
	_, err = k.CreateVolume(t.Context(), request("away", "b"))
	wantError(t, err, codes.Unavailable, "volume away", "node b")
	equal(t, "volumes", 6, len(c.volumes(t)))
}

func TestNoNodes(t *testing.T) {
	k := newCluster(t).start(t)
	_, err := k.CreateVolume(t.Context(), request("x"))
	wantError(t, err, codes.Unavailable, "no node has a link")
	_, err = k.CreateVolume(t.Context(), request("x", "a", "b"))
	wantError(t, err, codes.Unavailable, "nodes a, b")
	_, err = k.GetCapacity(t.Context(), &csi.GetCapacityRequest{})
	wantError(t, err, codes.Unavailable, "no node has a link")
	_, err = k.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	wantError(t, err, codes.Unavailable, "no node has a link")
}

// A node that is away may have room: that is not "no room".
func TestFullAndAway(t *testing.T) {
	c := newCluster(t, "a", "b")
	k := c.start(t, noSettle)
	answers(c.node["a"], full, false)
	k.unlink(t, c.node["b"])
	_, err := k.CreateVolume(t.Context(), request("x", "a", "b"))
	wantError(t, err, codes.Unavailable, "volume x", "node b", "no room in here")
	k.link(t, c.node["b"])
	k.create(t, "b", request("x", "a", "b"))
}

// A volume that may exist on a node is asked for there first, whatever the order.
func TestUncertainOutcome(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted, codes.Internal, codes.Unknown} {
		t.Run(code.String(), func(t *testing.T) {
			c := newCluster(t, "a", "b")
			k := c.start(t, noSettle)
			a := c.node["a"]
			answers(a, status.Error(code, "the answer was lost"), true)
			_, err := k.CreateVolume(t.Context(), request("x", "a", "b"))
			if code == codes.Canceled {
				code = codes.Unavailable // the caller cancelled nothing
			}
			wantError(t, err, code, "node a", "x", "the answer was lost")

			k.unlink(t, a)
			_, err = k.CreateVolume(t.Context(), request("x", "b", "a"))
			wantError(t, err, codes.Unavailable, "volume x", "node a", "may have created it")

			a.Around(nil)
			k.link(t, a)
			id := k.create(t, "a", request("x", "b", "a"))
			equal(t, "volumes", []string{id}, c.volumes(t))
		})
	}
}

// The node that was asked turns out to have nothing and no room: the next one is
// free to try.
func TestUncertainThenFull(t *testing.T) {
	c := newCluster(t, "a", "b")
	k := c.start(t)
	answers(c.node["a"], status.Error(codes.Unavailable, "not now"), false)
	_, err := k.CreateVolume(t.Context(), request("x", "a", "b"))
	wantError(t, err, codes.Unavailable, "not now")
	answers(c.node["a"], full, false)
	id := k.create(t, "b", request("x", "a", "b"))
	equal(t, "volumes", []string{id}, c.volumes(t))
}

// Whoever asks knows that the first node is no choice any more.
func TestUncertainNodeIsNoChoice(t *testing.T) {
	c := newCluster(t, "a", "b")
	k := c.start(t)
	answers(c.node["a"], status.Error(codes.Unavailable, "lost"), true)
	_, err := k.CreateVolume(t.Context(), request("x", "a"))
	wantError(t, err, codes.Unavailable, "lost")
	k.create(t, "b", request("x", "b"))
	if log := k.log.String(); !strings.Contains(log, `"node":"a"`) || !strings.Contains(log, "nobody knows of") {
		t.Errorf("no word about node a in the log:\n%s", log)
	}
}

// Names that the agents turn into LV names.
var names = []string{
	"pvc-01234567-89ab-cdef-0123-456789abcdef", "pvc-01234567-89AB-cdef-0123-456789abcdef", "pvc-1", "v-", "x",
	"@tag", "../../x", "a b", "größe", strings.Repeat("x", 128),
}

// A controller ends while it makes a volume; the next one gets the same request.
func TestNewController(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	k := c.start(t)
	ids := map[string]string{}
	for i, name := range names {
		// Each on another node, as if those before were full.
		nodes := []string{"a", "b", "c"}
		for _, n := range nodes[:i%3] {
			answers(c.node[n], full, false)
		}
		resp, err := k.CreateVolume(t.Context(), request(name, nodes...))
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = resp.GetVolume().GetVolumeId()
		for _, n := range nodes {
			c.node[n].Around(nil)
		}
	}
	k.stop()
	k = c.start(t)
	for name, want := range ids {
		resp, err := k.CreateVolume(t.Context(), request(name, "c", "a", "b"))
		if err != nil || resp.GetVolume().GetVolumeId() != want {
			t.Errorf("%.20q: got %s %v, want %s", name, resp.GetVolume().GetVolumeId(), err, want)
		}
	}
	equal(t, "volumes", len(names), len(c.volumes(t)))
}

// The node that an earlier controller has asked has no link to the new one yet.
func TestNewControllerBeforeLinks(t *testing.T) {
	c := newCluster(t, "a", "b")
	k := c.start(t)
	answers(c.node["a"], status.Error(codes.Unavailable, "lost"), true)
	_, err := k.CreateVolume(t.Context(), request("x", "a", "b"))
	wantError(t, err, codes.Unavailable, "lost")
	k.stop()
	c.node["a"].Around(nil)
	c.node["a"].Unlink()

	k = c.start(t)
	_, err = k.CreateVolume(t.Context(), request("x", "a", "b"))
	wantError(t, err, codes.Unavailable, "volume x", "node a", "earlier controller")
	k.link(t, c.node["a"])
	id := k.create(t, "a", request("x", "b", "a"))
	equal(t, "volumes", []string{id}, c.volumes(t))
}

// A node that stays away does not keep volumes from the others for ever, nor does
// one that cannot say what it has.
func TestSettled(t *testing.T) {
	c := newCluster(t, "a", "b", "sick")
	c.node["a"].Unlink()
	c.node["sick"].Host.FailDisk("/dev/nvme0n1")
	k := c.start(t)
	k.fleet.SetDesired("a", []*link.Pool{{Name: "fast", Profile: "nvme"}})
	nodes := []string{"a", "sick", "b"}
	_, err := k.CreateVolume(t.Context(), request("x", nodes...))
	wantError(t, err, codes.Unavailable, "volume x", "nodes a, sick")
	_, err = k.CreateVolume(t.Context(), request("x")) // pools are wanted on a
	wantError(t, err, codes.Unavailable, "volume x", "nodes a, sick")
	k.stop()

	k = c.start(t, noSettle)
	k.create(t, "b", request("x", "a", "b"))
}

func TestSameNameAtOnce(t *testing.T) {
	c := newCluster(t, "a")
	k := c.start(t)
	entered, leave := make(chan struct{}), make(chan struct{})
	c.node["a"].Around(func(_ context.Context, _ string, call func() error) error {
		entered <- struct{}{}
		<-leave
		return call()
	})
	first := make(chan error, 1)
	go func() {
		_, err := k.CreateVolume(context.Background(), request("x", "a"))
		first <- err
	}()
	<-entered
	c.node["a"].Around(nil)
	_, err := k.CreateVolume(t.Context(), request("x", "a"))
	wantError(t, err, codes.Aborted, "volume x")
	k.create(t, "a", request("y", "a"))
	close(leave)
	equal(t, "first call", nil, <-first)
	k.create(t, "a", request("x", "a"))
	equal(t, "volumes", 2, len(c.volumes(t)))
}

// Many callers, few names: one volume a name.
func TestConcurrentCreates(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	k := c.start(t)
	const callers, volumes = 12, 4
	done := make(chan error)
	for i := range callers {
		go func() {
			for j := range volumes {
				r := request(fmt.Sprintf("v%d", (i+j)%volumes), "a", "b", "c")
				_, err := k.CreateVolume(context.Background(), r)
				for status.Code(err) == codes.Aborted {
					_, err = k.CreateVolume(context.Background(), r)
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range callers {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	equal(t, "volumes", volumes, len(c.volumes(t)))
}

func TestContentSource(t *testing.T) {
	c := newCluster(t, "a", "b")
	k := c.start(t)
	origin := k.create(t, "b", request("origin", "b"))
	snap := k.snapshot(t, "s", origin)
	from := func(name string, nodes ...string) *csi.CreateVolumeRequest {
		r := request(name, nodes...)
		r.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
			Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: snap},
		}}
		return r
	}
	k.create(t, "b", from("restored"))
	k.create(t, "b", from("restored where it may", "a", "b"))
	clone := request("clone")
	clone.VolumeContentSource = &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: origin},
	}}
	k.create(t, "b", clone)

	_, err := k.CreateVolume(t.Context(), from("elsewhere", "a"))
	wantError(t, err, codes.ResourceExhausted, "volume elsewhere", "snapshot "+snap, "node b")
	snap = "malformed"
	_, err = k.CreateVolume(t.Context(), from("x"))
	wantError(t, err, codes.NotFound, "source snapshot_id")
	snap = unknownVG + "/snap-1"
	_, err = k.CreateVolume(t.Context(), from("x"))
	wantError(t, err, codes.Unavailable, snap)
	k.unlink(t, c.node["b"])
	_, err = k.CreateVolume(t.Context(), clone)
	wantError(t, err, codes.Unavailable, origin, "node b")
}

const unknownVG = "AAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG"

// A call ends with its caller's, and the node knows the caller's deadline.
func TestDeadline(t *testing.T) {
	c := newCluster(t, "a")
	k := c.start(t)
	entered := make(chan bool, 1)
	c.node["a"].Around(func(ctx context.Context, _ string, _ func() error) error {
		_, limited := ctx.Deadline()
		entered <- limited
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	ended := make(chan error, 1)
	go func() {
		_, err := k.CreateVolume(ctx, request("x", "a"))
		ended <- err
	}()
	equal(t, "deadline at the node", true, <-entered)
	cancel()
	wantError(t, <-ended, codes.Canceled)
	c.node["a"].Around(nil)
	_, err := k.CreateVolume(t.Context(), request("x", "a"))
	for status.Code(err) == codes.Aborted { // until the router has noticed, too
		_, err = k.CreateVolume(t.Context(), request("x", "a"))
	}
	equal(t, "create again", nil, err)
}

// Nobody is asked for a volume that no earlier controller can have begun; a node that
// may have it from an earlier call is.
func TestFreshNamesAreNotLookedFor(t *testing.T) {
	c := newCluster(t, "a", "b")
	k := c.start(t, func(r *router.Config) { r.Fresh = func(name string) bool { return name != "old" } })
	var mu sync.Mutex
	calls := map[string]int{}
	lost := false
	for _, n := range c.node {
		n.Around(func(_ context.Context, method string, call func() error) error {
			mu.Lock()
			defer mu.Unlock()
			calls[method]++
			if err := call(); err != nil || !lost {
				return err
			}
			return status.Error(codes.Unavailable, "lost")
		})
	}
	count := func(what string, want map[string]int) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		equal(t, what, want, calls)
		clear(calls)
	}
	k.create(t, "a", request("new", "a", "b"))
	count("a fresh name", map[string]int{"CreateVolume": 1})
	k.create(t, "a", request("old", "a", "b"))
	count("another", map[string]int{"CreateVolume": 1, "ControllerGetVolume": 2})

	lost = true
	_, err := k.CreateVolume(t.Context(), request("newer", "a", "b"))
	wantError(t, err, codes.Unavailable, "lost")
	lost = false
	k.create(t, "a", request("newer", "b", "a"))
	equal(t, "volumes", 3, len(c.volumes(t)))
}
