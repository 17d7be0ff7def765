package fleet_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/lamina-csi/lamina/controller/fleet"
	"github.com/lamina-csi/lamina/controller/fleettest"
	"github.com/lamina-csi/lamina/driver/link"
)

// cluster is a fleet over links in memory, inside a synctest bubble: whatever the
// links and agents set off has happened after synctest.Wait.
type cluster struct {
	*fleet.Fleet
	links *fleettest.Links
}

func start(t *testing.T) cluster {
	c := cluster{links: fleettest.NewLinks(t)}
	c.Fleet = fleet.New(c.links, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("fleet: %v", err)
		}
	})
	return c
}

// join links an agent that has those pools.
func (c cluster) join(t *testing.T, node string, pools ...*link.PoolStatus) *fleettest.Agent {
	a := fleettest.NewAgent(pools...)
	c.links.Up(t, node, a.Server())
	synctest.Wait()
	return a
}

func (c cluster) leave(node string) {
	c.links.Down(node)
	synctest.Wait()
}

// pool is a pool on a disk, or one that lists no disk.
func pool(vg string, disks ...string) *link.PoolStatus {
	return &link.PoolStatus{Name: "fast", Vg: "lamina-fast", VgUuid: vg, Disks: disks}
}

func wants(names ...string) []*link.Pool {
	pools := []*link.Pool{}
	for _, n := range names {
		pools = append(pools, &link.Pool{Name: n, Profile: "nvme"})
	}
	return pools
}

func equal[T any](t *testing.T, what string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// metrics is what the fleet exports, by name and label.
func metrics(t *testing.T, c cluster) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	if err := r.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			out[name] = m.GetGauge().GetValue()
		}
	}
	return out
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		check := func(what string, linked bool, pools ...*link.PoolStatus) {
			t.Helper()
			got, up := c.Status("a")
			equal(t, what, linked, up)
			equal(t, what, pools, got)
		}
		check("before", false)
		a := c.join(t, "a", pool("vg1", "nvme0"))
		check("linked", true, pool("vg1", "nvme0"))
		a.Show(pool("vg1", "nvme0", "nvme1"), pool("vg2", "nvme2"))
		synctest.Wait()
		check("changed", true, pool("vg1", "nvme0", "nvme1"), pool("vg2", "nvme2"))
		c.leave("a")
		check("away", false, pool("vg1", "nvme0", "nvme1"), pool("vg2", "nvme2"))
		c.join(t, "a", pool("vg2", "nvme2"))
		check("back", true, pool("vg2", "nvme2"))
	})
}

// A link that was there before the fleet ran is followed too.
func TestEarlyLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := cluster{links: fleettest.NewLinks(t)}
		c.join(t, "a", pool("vg1", "nvme0"))
		c.Fleet = fleet.New(c.links, nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Run(ctx) }()
		synctest.Wait()
		equal(t, "nodes", []string{"a"}, c.Nodes())
		pools, _ := c.Status("a")
		equal(t, "status", []*link.PoolStatus{pool("vg1", "nvme0")}, pools)
		cancel()
		equal(t, "Run", nil, <-ended)
		_, linked := c.Status("a")
		equal(t, "linked after Run", false, linked)
	})
}

// A new link replaces an old one that nobody has noticed to be dead.
func TestReplacedLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		old := c.join(t, "a", pool("vg1", "nvme0"))
		c.SetDesired("a", wants("fast"))
		synctest.Wait()
		<-old.Applied
		a := c.join(t, "a", pool("vg2", "nvme0"))
		equal(t, "applied to the new link", wants("fast"), <-a.Applied)
		pools, linked := c.Status("a")
		equal(t, "linked", true, linked)
		equal(t, "status", []*link.PoolStatus{pool("vg2", "nvme0")}, pools)
	})
}

func TestNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		c.join(t, "b")
		c.join(t, "a")
		c.SetDesired("wanted", wants("fast"))
		c.SetDesired("of another kind", nil) // a node that never gets an agent
		equal(t, "nodes", []string{"a", "b"}, c.Nodes())
		equal(t, "away", []string{"wanted"}, c.Away())
		c.leave("b")
		equal(t, "nodes", []string{"a", "b"}, c.Nodes())
		equal(t, "away", []string{"b", "wanted"}, c.Away())
		equal(t, "metrics", map[string]float64{
			"lamina_controller_duplicate_volume_groups": 0,
			"lamina_controller_nodes away":              2,
			"lamina_controller_nodes linked":            1,
		}, metrics(t, c))
		c.Forget("b")
		c.Forget("wanted")
		c.Forget("never seen")
		c.Forget("a") // has a link: stays until that ends
		equal(t, "nodes", []string{"a"}, c.Nodes())
		equal(t, "away", nil, c.Away())
		c.leave("a")
		equal(t, "nodes", nil, c.Nodes())
	})
}

func TestApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		a := c.join(t, "a")
		applied := func(what string, want ...[]*link.Pool) {
			t.Helper()
			synctest.Wait()
			var got [][]*link.Pool
			for len(a.Applied) > 0 {
				got = append(got, <-a.Applied)
			}
			equal(t, what, want, got)
		}
		applied("nothing known")
		c.SetDesired("a", wants("fast"))
		applied("first", wants("fast"))
		c.SetDesired("a", wants("fast"))
		applied("the same again")
		c.SetDesired("a", wants("fast", "slow"))
		applied("more", wants("fast", "slow"))
		c.SetDesired("a", wants())
		applied("none", nil)
		c.leave("a")
		c.SetDesired("a", wants("slow"))
		a = c.join(t, "a")
		applied("known before the link", wants("slow"))
		c.leave("a")
		c.Forget("a")
		a = c.join(t, "a")
		applied("forgotten")
	})
}

// An agent that refuses is asked again, and gets only the newest wish. Others are
// not held up.
func TestAgentRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		a, b := fleettest.NewAgent(pool("vg1", "nvme0")), fleettest.NewAgent()
		a.Refuse(errors.New("out of order"))
		c.links.Up(t, "a", a.Server())
		c.links.Up(t, "b", b.Server())
		c.SetDesired("a", wants("old"))
		c.SetDesired("b", wants("fast"))
		synctest.Wait()
		equal(t, "other node", wants("fast"), <-b.Applied)
		c.SetDesired("a", wants("new"))
		time.Sleep(10 * time.Minute) // of the bubble
		_, linked := c.Status("a")
		equal(t, "linked", true, linked)
		a.Refuse(nil)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		equal(t, "applied in the end", wants("new"), <-a.Applied)
		equal(t, "applied twice", 0, len(a.Applied))
		pools, _ := c.Status("a")
		equal(t, "status", []*link.PoolStatus{pool("vg1", "nvme0")}, pools)
	})
}

func TestSubscribe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		var mu sync.Mutex
		seen := map[string]int{}
		c.Subscribe(func(node string) {
			mu.Lock()
			defer mu.Unlock()
			seen[node]++
			c.Status(node) // no lock is held
		})
		a := c.join(t, "a") // link and status
		c.join(t, "b")
		a.Show(pool("vg1", "nvme0"))
		synctest.Wait()
		c.leave("b")
		mu.Lock()
		defer mu.Unlock()
		equal(t, "calls", map[string]int{"a": 3, "b": 3}, seen)
		equal(t, "nodes", []string{"a", "b"}, slices.Sorted(maps.Keys(seen)))
	})
}
