package router

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/driver/link"
)

// candidates lists the nodes that a volume may be made on, in the order in which
// they are to be tried.
func (c *creation) candidates() ([]string, error) {
	allowed := topologyNodes(c.req.GetAccessibilityRequirements())
	given := len(c.req.GetAccessibilityRequirements().GetRequisite())+len(c.req.GetAccessibilityRequirements().GetPreferred()) > 0
	if c.req.GetVolumeContentSource() != nil {
		t, err := c.router.findToChange(source(c.req.GetVolumeContentSource()))
		if err != nil {
			return nil, err
		}
		if given && !slices.Contains(allowed, t.node) {
			return nil, status.Errorf(codes.ResourceExhausted, "%s: its source, %s, lies on node %s, which accessibility_requirements do not allow", c.about, t.about, t.node)
		}
		return []string{t.node}, nil
	}
	if !given {
		allowed = slices.Concat(c.router.fleet.Nodes(), c.router.fleet.Away())
		slices.Sort(allowed)
		allowed = slices.Compact(allowed)
	}
	if len(allowed) == 0 {
		if given {
			return nil, status.Errorf(codes.ResourceExhausted, "%s: accessibility_requirements name no node (%s)", c.about, link.TopologyKey)
		}
		return nil, status.Errorf(codes.Unavailable, "%s: no node has a link to this controller", c.about)
	}
	return c.withPool(allowed), nil
}

// withPool leaves out the nodes that are known not to have the pool. If that is
// all of them, one is left to say so.
func (c *creation) withPool(nodes []string) []string {
	var out []string
	linked := nodes[0]
	for _, node := range nodes {
		pools, up := c.router.fleet.Status(node)
		if node == c.asked || pools == nil || slices.ContainsFunc(pools, func(p *link.PoolStatus) bool {
			return c.pool() == "" || p.GetName() == c.pool()
		}) {
			out = append(out, node)
		}
		if up {
			linked = node
		}
	}
	if len(out) == 0 {
		return []string{linked}
	}
	return out
}

// pool is the pool that the request names; "": none.
func (c *creation) pool() string { return c.req.GetParameters()["pool"] }

// topologyNodes lists the nodes that a requirement names, the preferred first.
func topologyNodes(r *csi.TopologyRequirement) []string {
	var out []string
	seen := map[string]bool{}
	for _, t := range slices.Concat(r.GetPreferred(), r.GetRequisite()) {
		if node := t.GetSegments()[link.TopologyKey]; node != "" && !seen[node] {
			seen[node] = true
			out = append(out, node)
		}
	}
	return out
}

func source(s *csi.VolumeContentSource) object {
	if s.GetSnapshot() != nil {
		return object{"snapshot", "source snapshot_id", s.GetSnapshot().GetSnapshotId()}
	}
	return object{"volume", "source volume_id", s.GetVolume().GetVolumeId()}
}

// provisionerName is how external-provisioner names volumes.
var provisionerName = regexp.MustCompile(`^pvc-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// volumeLV is the LV that an agent makes for a volume of that name: the names are
// part of what agents promise (docs/decisions/lvm-is-the-only-record.md).
func volumeLV(name string) string {
	if provisionerName.MatchString(name) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return "v-" + hex.EncodeToString(sum[:16])
}

// eachNode calls f for all nodes, for a few at the same time.
func eachNode(nodes []string, f func(i int, node string)) {
	var g errgroup.Group
	g.SetLimit(16)
	for i, node := range nodes {
		g.Go(func() error {
			f(i, node)
			return nil
		})
	}
	_ = g.Wait() // f has its own results
}
