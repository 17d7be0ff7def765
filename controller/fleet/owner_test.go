package fleet_test

import (
	"testing"
	"testing/synctest"
)

// Where a volume group is, through the ways in which disks travel.
func TestOwner(t *testing.T) {
	type step struct {
		name  string
		do    func(t *testing.T, c cluster)
		node  string   // NodeOf; "": unknown
		shown []string // ShownBy
	}
	joins := func(node, vg string, disks ...string) func(*testing.T, cluster) {
		return func(t *testing.T, c cluster) { c.join(t, node, pool(vg, disks...)) }
	}
	empty := func(node string) func(*testing.T, cluster) {
		return func(t *testing.T, c cluster) { c.join(t, node) }
	}
	leaves := func(node string) func(*testing.T, cluster) {
		return func(_ *testing.T, c cluster) { c.leave(node) }
	}
	tests := map[string][]step{
		"a node goes and comes": {
			{"nobody", func(*testing.T, cluster) {}, "", nil},
			{"links", joins("a", "vg", "d"), "a", []string{"a"}},
			{"is away", leaves("a"), "a", nil},
			{"links again", joins("a", "vg", "d"), "a", []string{"a"}},
		},
		"a disk cannot be seen": {
			{"is there", joins("a", "vg", "d"), "a", []string{"a"}},
			{"is not listed", joins("a", "vg"), "a", nil},
			{"the agent started without it", empty("a"), "a", nil},
			{"is back", joins("a", "vg", "d"), "a", []string{"a"}},
		},
		"a disk is carried to another node that is off": {
			{"first node", joins("a", "vg", "d"), "a", []string{"a"}},
			{"is switched off", leaves("a"), "a", nil},
			{"second node", joins("b", "vg", "d"), "b", []string{"b"}},
			{"first node starts without it", empty("a"), "b", []string{"b"}},
			{"second node is away", leaves("b"), "b", nil},
			{"and back it goes", joins("a", "vg", "d"), "a", []string{"a"}},
		},
		"a disk is pulled and plugged in elsewhere": {
			{"first node", joins("a", "vg", "d"), "a", []string{"a"}},
			{"pulled: the pool has no disk", joins("a", "vg"), "a", nil},
			{"second node", joins("b", "vg", "d"), "b", []string{"b"}},
			{"second node is away", leaves("b"), "b", nil},
		},
		"first node has not noticed yet": {
			{"first node", joins("a", "vg", "d"), "a", []string{"a"}},
			{"second node", joins("b", "vg", "d"), "b", []string{"a", "b"}},
			{"first notices", empty("a"), "b", []string{"b"}},
			{"second node is away", leaves("b"), "b", nil},
		},
		"a disk and its copy": {
			{"first node", joins("a", "vg", "d"), "a", []string{"a"}},
			{"second node", joins("b", "vg", "d"), "b", []string{"a", "b"}},
			{"first links again", joins("a", "vg", "d"), "a", []string{"a", "b"}},
			{"first goes", leaves("a"), "b", []string{"b"}},
			{"and comes", joins("a", "vg", "d"), "a", []string{"a", "b"}},
			{"second goes without it", empty("b"), "a", []string{"a"}},
		},
		"a pool that has no disk yet": {
			{"links", joins("a", "vg"), "a", nil},
			{"its disk is elsewhere", joins("b", "vg", "d"), "b", []string{"b"}},
		},
		"a node is forgotten": {
			{"links", joins("a", "vg", "d"), "a", []string{"a"}},
			{"its disk is gone", empty("a"), "a", nil},
			{"it goes", leaves("a"), "a", nil},
			{"for good", func(_ *testing.T, c cluster) { c.Forget("a") }, "", nil},
		},
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := start(t)
				for _, s := range steps {
					s.do(t, c)
					node, ok := c.NodeOf("vg")
					equal(t, s.name+": node", s.node, node)
					equal(t, s.name+": known", s.node != "", ok)
					equal(t, s.name+": shown by", s.shown, c.ShownBy("vg"))
				}
			})
		})
	}
}

// A pool that is wanted and not made has no volume group.
func TestOwnerOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		c.join(t, "a", pool(""))
		c.join(t, "b", pool("", "refused?"))
		if node, ok := c.NodeOf(""); ok {
			t.Errorf("the volume group without a name is on %s", node)
		}
	})
}
