package pool

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lamina-csi/lamina/lvm"
)

// Group is a set of snapshots taken at one instant. Of a group that lies on
// several nodes, a node knows its own part.
type Group struct {
	ID        ID
	Name      string
	Created   time.Time
	Snapshots []Snapshot // sorted by source
}

// GroupPart asks for what lies on this node of a group of snapshots.
type GroupPart struct {
	Name    string // CSI name of the group
	Sources []ID   // volumes of this node
	// First is the least id of all sources of the group, after which it is named on
	// every node, and Total is how many it has. Zero: all are here.
	First ID
	Total int
	// Instant tells this attempt to make the group from every other one. What is
	// tagged with one instant belongs together.
	Instant string
}

// maxGroup bounds how many volumes of a node hold their writers at the same time.
const maxGroup = 64

// maxInstant bounds the text of an instant, which becomes a tag.
const maxInstant = 64

// check sorts the sources and refuses a part that contradicts itself.
func (p GroupPart) check() (GroupPart, error) {
	if len(p.Sources) == 0 || len(p.Sources) > maxGroup {
		return p, p.errorf("%w: %d volumes; 1 to %d are possible", ErrInvalid, len(p.Sources), maxGroup)
	}
	p.Sources = slices.Clone(p.Sources)
	slices.SortFunc(p.Sources, compareIDs)
	p.Sources = slices.Compact(p.Sources)
	if p.Total == 0 {
		p.First, p.Total = p.Sources[0], len(p.Sources)
	}
	if p.Total < len(p.Sources) || compareIDs(p.First, p.Sources[0]) > 0 {
		return p, p.errorf("%w: %d volumes from %s on are no part of %d from %s on", ErrInvalid, len(p.Sources), p.Sources[0], p.Total, p.First)
	}
	if p.Instant == "" || len(p.Instant) > maxInstant {
		return p, p.errorf("%w: an instant of %d bytes; 1 to %d are possible", ErrInvalid, len(p.Instant), maxInstant)
	}
	return p, nil
}

func compareIDs(a, b ID) int { return strings.Compare(a.String(), b.String()) }

// id is that of the whole group.
func (p GroupPart) id() ID { return ID{p.First.VG, groupLV(p.Name)} }

func (p GroupPart) errorf(format string, args ...any) error {
	return fmt.Errorf("group snapshot %.80q: %w", p.Name, fmt.Errorf(format, args...))
}

// CreateGroup snapshots several volumes of this node at one instant, or finds
// the group that an earlier call made.
//
// The writers of all volumes are held first, then each volume is snapshotted,
// then they go on: a write that follows another one, on any of the volumes, is in
// no snapshot unless that one is too. Only then are the members marked as ready,
// so that one that is ready says that all exist. What a call that was cut short
// before has left is marked as creating and was never reported to anybody; the
// next call of that name makes it anew.
func (m *Manager) CreateGroup(ctx context.Context, name string, sources []ID) (Group, error) {
	part, unlock, err := m.lockGroup(ctx, GroupPart{Name: name, Sources: sources, Instant: rand.Text()})
	if err != nil {
		return Group{}, err
	}
	defer unlock()
	instant, err := m.prepare(ctx, part)
	if err != nil {
		return Group{}, err
	}
	if instant != "" {
		part.Instant = instant
		return m.commit(ctx, part)
	}
	err = m.holdPart(ctx, part, func(h *heldPart) error { return m.makeMembers(h.ctx, h) })
	if err != nil {
		return Group{}, err
	}
	g, err := m.commit(ctx, part)
	if errors.Is(err, ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrAborted, err)
	}
	return g, err
}

// prepare removes what calls that were cut short have left of a part. It removes
// nothing if a member is ready, which says that every member on every node was
// made: that instant is returned. The caller holds the group's lock.
func (m *Manager) prepare(ctx context.Context, part GroupPart) (instant string, err error) {
	members, err := m.members(part.id().LV)
	if err != nil {
		return "", err
	}
	for _, f := range members {
		if f.tags[keyState] != stateReady {
			continue
		}
		part.Instant = f.tags[keyInstant]
		if f.tags[keyGroup] != part.id().String() || f.tags.int(keyGroupSize) != int64(part.Total) || !part.made(members) {
			return "", part.errorf("%w: it is of other volumes, or members are gone", ErrConflict)
		}
		return part.Instant, nil
	}
	// From the first one on, as commit marks them: of two calls that overlap (a
	// command runs on when its caller is gone), one then finds that first one changed.
	for _, f := range members {
		if err := m.removeLV(ctx, f); err != nil {
			return "", err
		}
	}
	return "", nil
}

// lockSources finds the volumes of a part and locks them.
func (m *Manager) lockSources(ctx context.Context, part GroupPart) (sources []found, unlock func(), err error) {
	var unlocks []func()
	unlock = func() {
		for _, u := range unlocks {
			u()
		}
	}
	for _, id := range part.Sources { // sorted, so that two groups lock in one order
		src, u, err := m.snapshotSource(ctx, id)
		if err != nil {
			unlock()
			return nil, nil, part.errorf("%w", err)
		}
		sources, unlocks = append(sources, src), append(unlocks, u)
	}
	return sources, unlock, nil
}

// commit marks the members of an instant as ready; ErrNotFound: they are not all
// there, or others are. The caller holds the group's lock and knows that all
// members on all nodes were made.
func (m *Manager) commit(ctx context.Context, part GroupPart) (Group, error) {
	members, err := m.members(part.id().LV)
	if err != nil {
		return Group{}, err
	}
	if !part.made(members) {
		return Group{}, part.errorf("%w: its snapshots of instant %.80q", ErrNotFound, part.Instant)
	}
	for _, f := range members {
		if f.tags[keyState] == stateReady {
			continue
		}
		if err := m.setTags(ctx, f, tagSet{keyState: stateReady}); err != nil {
			return Group{}, err
		}
	}
	if members, err = m.members(part.id().LV); err != nil {
		return Group{}, err
	}
	if !part.made(members) {
		return Group{}, part.errorf("%w: members were changed by another hand", ErrConflict)
	}
	return groupOf(members), nil
}

// made reports whether the members show exactly the sources, at the instant.
func (p GroupPart) made(members []found) bool {
	var sources []ID
	for _, f := range members {
		if f.tags[keyInstant] != p.Instant || p.Instant == "" {
			return false
		}
		sources = append(sources, f.snapshot().Source)
	}
	slices.SortFunc(sources, compareIDs)
	return slices.Equal(sources, p.Sources)
}

// members lists what is tagged as made for a group, in every pool.
func (m *Manager) members(group lvm.LVName) ([]found, error) {
	list, err := m.all(kindSnapshot)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(f found) bool {
		id, err := ParseID(f.tags[keyGroup])
		return err != nil || id.LV != group
	}), nil
}

// groupOf builds the group of members; there is at least one.
func groupOf(members []found) Group {
	g := Group{ID: members[0].snapshot().Group, Name: members[0].tags[keyGroupName]}
	for _, f := range members {
		g.Snapshots = append(g.Snapshots, f.snapshot())
		if f.lv.Created.After(g.Created) {
			g.Created = f.lv.Created
		}
	}
	slices.SortFunc(g.Snapshots, func(a, b Snapshot) int { return compareIDs(a.Source, b.Source) })
	return g
}
