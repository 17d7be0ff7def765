package fleet_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/lamina-csi/lamina/driver/link"
)

// An agent that invents volume groups without end fills no memory, and hides none
// of another node's.
func TestTooManyGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		c.join(t, "a", pool("vg1", "nvme0"))
		b := c.join(t, "b", pool("vg2", "nvme0"))
		for round := range 20 {
			list := []*link.PoolStatus{pool("vg2", "nvme0")}
			for i := range 100 {
				list = append(list, pool(fmt.Sprintf("vg-%d-%d", round, i), "nvme0"))
			}
			b.Show(list...)
			synctest.Wait()
		}
		known := 0
		for round := range 20 {
			for i := range 100 {
				if _, ok := c.NodeOf(fmt.Sprintf("vg-%d-%d", round, i)); ok {
					known++
				}
			}
		}
		equal(t, "groups that are remembered", 255, known)
		for vg, want := range map[string]string{"vg1": "a", "vg2": "b"} {
			node, _ := c.NodeOf(vg)
			equal(t, vg, want, node)
		}
	})
}

// A status of megabytes is not taken over; the node's last one still counts, and
// other nodes are not held up.
func TestHugeStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		b := c.join(t, "b", pool("vg2", "nvme0"))
		huge := pool("vg3", "nvme0")
		huge.Text = strings.Repeat("x", 3<<20)
		b.Show(huge)
		synctest.Wait()
		pools, linked := c.Status("b")
		equal(t, "status", []*link.PoolStatus{pool("vg2", "nvme0")}, pools)
		equal(t, "linked", true, linked)
		_, ok := c.NodeOf("vg3")
		equal(t, "its group is known", false, ok)
		c.join(t, "a", pool("vg1", "nvme0"))
		node, _ := c.NodeOf("vg1")
		equal(t, "vg1", "a", node)
	})
}

// A node that claims the volume group of another one does not become its owner: the
// group is shown twice, and nothing is changed in it until a person has looked.
func TestClaimOfAnothersGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t)
		c.join(t, "a", pool("vg1", "nvme0"))
		c.join(t, "b", pool("vg1", "nvme0"), pool("vg2", "nvme1"))
		equal(t, "shown by", []string{"a", "b"}, c.ShownBy("vg1"))
		equal(t, "vg2 shown by", []string{"b"}, c.ShownBy("vg2"))
		// The liar goes: all is as before.
		c.leave("b")
		c.Forget("b")
		node, _ := c.NodeOf("vg1")
		equal(t, "vg1", "a", node)
		equal(t, "shown by", []string{"a"}, c.ShownBy("vg1"))
	})
}
