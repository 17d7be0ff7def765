package fleet

import (
	"fmt"
	"slices"

	"github.com/lamina-csi/lamina/driver/link"
)

// Which node has a volume group?
//
// A node claims a group by a status that lists disks of it. Claims are kept by
// group, the newest last. A claim outlives the link, since a node that is away has
// its disks still, and it outlives a status without the group, since a disk that
// cannot be seen may come back: the last claim of a group is never dropped. It
// gives way to the claim of another node once it is not made any more: then the
// disks were carried there.
//
// Two nodes that claim a group at the same time show the same disk twice (a shared
// one) or a copy of one. Only a person knows which is meant.

// NodeOf is the node that a volume group was last seen on: the one with the newest
// link if several show it. ok is false for a group that no node has shown since
// the controller started, which does not mean that there is no such group.
func (f *Fleet) NodeOf(vgUUID string) (node string, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.owners[vgUUID]
	for _, name := range slices.Backward(list) {
		if f.shows(name, vgUUID) {
			return name, true
		}
	}
	if len(list) == 0 {
		return "", false
	}
	return list[len(list)-1], true
}

// ShownBy lists the linked nodes that show disks of a volume group now, sorted.
// More than one means that nothing may be changed in that group.
func (f *Fleet) ShownBy(vgUUID string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.shownBy(vgUUID)
}

func (f *Fleet) shownBy(vgUUID string) []string {
	var out []string
	for _, name := range f.owners[vgUUID] {
		if f.shows(name, vgUUID) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// shows reports whether a node shows disks of the group over a link that is up.
func (f *Fleet) shows(name, vgUUID string) bool {
	n := f.nodes[name]
	return n != nil && n.session != nil && n.session.shown && claims(n.status, vgUUID)
}

// claims reports whether a status lists disks of the group. A pool whose disks
// were all pulled out stays in the status of its node without them.
func claims(status []*link.PoolStatus, vgUUID string) bool {
	return slices.ContainsFunc(status, func(p *link.PoolStatus) bool {
		return p.GetVgUuid() == vgUUID && len(p.GetDisks()) > 0
	})
}

// index takes over the claims of a node's new status. first says that it is the
// first over this link. The caller holds mu. The work depends on the number of
// this node's pools only.
func (f *Fleet) index(name string, before []*link.PoolStatus, first bool) {
	n := f.nodes[name]
	now := n.status
	for _, p := range now {
		vg := p.GetVgUuid()
		if vg != "" && !n.groups[vg] && len(n.groups) >= maxGroups {
			f.log.Error("a node has shown more volume groups than any can have; this one is passed over", "node", name, "vg", clip(vg))
			continue
		}
		switch {
		case vg == "":
		case claims(now, vg):
			if first || !claims(before, vg) {
				f.claim(vg, name)
			}
		case len(f.owners[vg]) == 0: // better than nothing
			f.owners[vg] = []string{name}
			n.groups[vg] = true
		}
	}
	for _, p := range before {
		if vg := p.GetVgUuid(); !claims(now, vg) && len(f.owners[vg]) > 1 {
			f.unclaim(vg, name)
		}
	}
}

// claim makes a node's claim the newest. Those that nobody makes any more end.
func (f *Fleet) claim(vg, name string) {
	list := slices.DeleteFunc(f.owners[vg], func(other string) bool {
		return other == name || !f.shows(other, vg)
	})
	f.owners[vg] = append(list, name)
	f.nodes[name].groups[vg] = true
	if len(list) > 0 {
		f.log.Error("volume group is on several nodes at once: is a disk shared, or a copy of another? Nothing is changed in it until one of them is taken away",
			"vg", clip(vg), "nodes", f.shownBy(vg))
	}
}

// unclaim ends a claim.
func (f *Fleet) unclaim(vg, name string) {
	list := slices.DeleteFunc(f.owners[vg], func(other string) bool { return other == name })
	if len(list) == 0 {
		delete(f.owners, vg)
		return
	}
	f.owners[vg] = list
}

// clip keeps a text from an agent short.
func clip(s string) string { return fmt.Sprintf("%.80s", s) }
