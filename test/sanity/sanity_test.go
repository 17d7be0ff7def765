package sanity

import (
	"testing"

	"github.com/lamina-csi/lamina/driver/drivertest"
	"github.com/lamina-csi/lamina/node/pool"
)

// TestSanity judges the driver on the in-memory host: on its own, and behind a
// controller that routes to one node, or to one of three.
func TestSanity(t *testing.T) {
	var targets []Target
	for _, mode := range []pool.Mode{pool.Thin, pool.Thick} {
		for _, block := range []bool{false, true} {
			n := drivertest.New(t, drivertest.Spec("fast", mode))
			targets = append(targets, target(mode, block, n.Endpoint, n.KubeletDir))
		}
	}
	for _, nodes := range []int{1, 3} {
		for _, block := range []bool{false, true} {
			targets = append(targets, routed(t, nodes, block))
		}
	}
	Run(t, targets...)
}

func target(mode pool.Mode, block bool, endpoint, kubeletDir string) Target {
	g := Target{
		Name: string(mode) + " filesystem", Endpoint: endpoint, KubeletDir: kubeletDir, Block: block,
		VolumeSize: 64 << 20, Skips: thinSkips, Parameters: map[string]string{"pool": "fast"},
		Mutable: map[string]string{"readIOPS": "1000", "writeBandwidth": "50Mi"},
	}
	if block {
		g.Name = string(mode) + " block"
	}
	if mode == pool.Thick {
		g.Skips = thickSkips
	}
	return g
}
