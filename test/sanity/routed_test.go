package sanity

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/lamina-csi/lamina/controller/fleet"
	"github.com/lamina-csi/lamina/controller/fleettest"
	"github.com/lamina-csi/lamina/controller/router"
	"github.com/lamina-csi/lamina/driver/drivertest"
	"github.com/lamina-csi/lamina/node/pool"
)

// routed is a controller with that many thin nodes. The Node service is that of
// the first node, where volumes without a topology come to lie.
func routed(t *testing.T, nodes int, block bool) Target {
	t.Helper()
	cluster := fleettest.NewCluster(t)
	var all []*fleettest.Node
	for i := range nodes {
		n := cluster.Add(t, fmt.Sprintf("node-%d", i+1), drivertest.Spec("fast", pool.Thin))
		n.Link(t)
		all = append(all, n)
	}
	f := fleet.New(cluster, nil)
	changed := make(chan string, 100)
	f.Subscribe(func(node string) { changed <- node })
	r := router.New(router.Config{Fleet: f, Version: "test"})
	socket := filepath.Join(filepath.Dir(all[0].Endpoint), "controller.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for what, run := range map[string]func() error{
		"fleet":  func() error { return f.Run(ctx) },
		"router": func() error { return r.Serve(ctx, l) },
	} {
		running.Go(func() {
			if err := run(); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	t.Cleanup(func() { cancel(); running.Wait() })
	for seen := map[string]bool{}; len(seen) < nodes; {
		node := <-changed
		if pools, _ := f.Status(node); pools != nil {
			seen[node] = true
		}
	}
	// From here on nobody reads: the channel must not fill.
	go func() {
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	g := target(pool.Thin, block, all[0].Endpoint, all[0].KubeletDir)
	g.Name = fmt.Sprintf("%s behind a controller, %d nodes", g.Name, nodes)
	g.Controller = socket
	return g
}
