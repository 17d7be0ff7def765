package pool

import (
	"context"
	"fmt"
	"slices"
)

// Members is what a caller believes a group of snapshots to be; the zero value is
// no claim, for a group that lies on this node alone.
type Members struct {
	Here  []ID // snapshots on this node
	Total int  // how many there are on all nodes; 0: all are here
}

// GetGroup reads a group of snapshots, or the part of one that lies on this node.
func (m *Manager) GetGroup(id ID, want Members) (Group, error) {
	members, err := m.groupMembers(id, want)
	if err != nil {
		return Group{}, err
	}
	ready := !slices.ContainsFunc(members, func(f found) bool { return f.tags[keyState] != stateReady })
	if len(members) == 0 || !ready || len(want.Here) > len(members) {
		return Group{}, fmt.Errorf("group snapshot %s: %w", id, ErrNotFound)
	}
	if len(want.Here) == 0 && len(members) != total(members) {
		return Group{}, elsewhere(id, members)
	}
	return groupOf(members), nil
}

// DeleteGroup removes the snapshots of a group, or of the part of one that lies
// on this node. A group that is known not to exist is no error. What a deletion
// that was cut short has left goes too.
func (m *Manager) DeleteGroup(ctx context.Context, id ID, want Members) error {
	unlock, err := m.keys.lock(ctx, id.LV.String())
	if err != nil {
		return err
	}
	defer unlock()
	members, err := m.groupMembers(id, want)
	if err != nil {
		return err
	}
	reported := slices.ContainsFunc(members, func(f found) bool { return f.tags[keyState] == stateReady })
	if len(want.Here) == 0 && reported && len(members) != total(members) {
		return elsewhere(id, members)
	}
	for _, f := range members {
		if err := m.removeLV(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// groupMembers lists what this node has of a group and compares it with the
// caller's list, as the specification wishes. Each volume group in question must
// be known: one that is not may be on a missing disk.
func (m *Manager) groupMembers(id ID, want Members) ([]found, error) {
	asked := want.Here
	if len(asked) == 0 {
		asked = []ID{id}
	}
	for _, a := range asked {
		if _, err := m.byVG(a.VG); err != nil {
			return nil, err
		}
	}
	members, err := m.members(id.LV)
	if err != nil {
		return nil, err
	}
	members = slices.DeleteFunc(members, func(f found) bool { return f.tags[keyGroup] != id.String() })
	if len(want.Here) == 0 || len(members) == 0 {
		return members, nil
	}
	if want.Total == 0 {
		want.Total = len(want.Here)
	}
	same := want.Total == total(members)
	var have []string
	for _, f := range members {
		have = append(have, f.id().String())
		same = same && slices.Contains(want.Here, f.id())
	}
	if !same {
		return nil, fmt.Errorf("%w: snapshot_ids do not match group snapshot %s, which has %d members, on this node %v", ErrInvalid, id, total(members), have)
	}
	return members, nil
}

// total is how many members the whole group has.
func total(members []found) int { return int(members[0].tags.int(keyGroupSize)) }

// elsewhere refuses a request about a group of which only a part is here.
func elsewhere(id ID, members []found) error {
	return fmt.Errorf("group snapshot %s: %w: %d of its %d members are on this node; say which by snapshot_ids", id, ErrUnavailable, len(members), total(members))
}
