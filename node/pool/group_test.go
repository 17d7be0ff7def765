package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
)

// holder freezes file systems that are not there, and remembers which.
type holder struct {
	mu     sync.Mutex
	frozen []string
	block  map[string]bool // devices without a file system
	// before is called before a device is frozen; nil: nothing is.
	before func(device string)
}

func (h *holder) Hold(device string) (func() error, bool, error) {
	if h.before != nil {
		h.before(device)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.block[device] {
		return nil, false, nil
	}
	if slices.Contains(h.frozen, device) {
		return nil, false, errors.New("device or resource busy")
	}
	h.frozen = append(h.frozen, device)
	return func() error { return h.Release(device) }, true, nil
}

func (h *holder) Release(device string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frozen = slices.DeleteFunc(h.frozen, func(d string) bool { return d == device })
	return nil
}

func (h *holder) list() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(slices.Values(h.frozen))
}

// grouped is a node with three volumes that pods use.
type grouped struct {
	*node
	holder  *holder
	sources []ID
	devices []string
}

func newGrouped(t *testing.T) *grouped {
	t.Helper()
	g := &grouped{node: newNode(t, spec(), "/dev/nvme0n1"), holder: &holder{block: map[string]bool{}}}
	g.restart(t)
	for i := range 3 {
		v := g.create(t, CreateVolume{Name: fmt.Sprint("v", i), Required: 64 * mib})
		d, err := g.OpenDevice(t.Context(), v.ID)
		if err != nil {
			t.Fatal(err)
		}
		write(t, g.device(t, v.ID), "before")
		if err := g.host.Open(d.Path); err != nil {
			t.Fatal(err)
		}
		g.sources, g.devices = append(g.sources, v.ID), append(g.devices, d.Path)
	}
	slices.SortFunc(g.sources, compareIDs)
	return g
}

// restart is the start of a new agent, after whatever became of the old one.
func (g *grouped) restart(t *testing.T) {
	t.Helper()
	g.host.Restart()
	g.Manager = NewManager(g.client, g.holder)
	if err := g.ensure(spec()); err != nil {
		t.Fatal(err)
	}
}

// part is one of a group that has a volume on another node too.
func (g *grouped) part(instant string, sources ...ID) GroupPart {
	if len(sources) == 0 {
		sources = g.sources
	}
	return GroupPart{Name: "backup", Sources: sources, First: g.sources[0], Total: len(sources) + 1, Instant: instant}
}

// complete fails unless there is just one group, with a snapshot of each volume.
func (g *grouped) complete(t *testing.T, got Group) {
	t.Helper()
	list, err := g.all(kindSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 3 || len(got.Snapshots) != 3 || got.ID != (ID{g.sources[0].VG, groupLV("backup")}) || got.Name != "backup" {
		t.Fatalf("%d snapshots, group %+v", len(list), got)
	}
	for i, s := range got.Snapshots {
		if s.Source != g.sources[i] || s.Group != got.ID {
			t.Errorf("snapshot %d: %+v", i, s)
		}
	}
	if frozen := g.holder.list(); len(frozen) > 0 {
		t.Errorf("frozen: %v", frozen)
	}
}

func TestGroup(t *testing.T) {
	g := newGrouped(t)
	group, err := g.CreateGroup(t.Context(), "backup", g.sources)
	if err != nil {
		t.Fatal(err)
	}
	g.complete(t, group)
	again, err := g.CreateGroup(t.Context(), "backup", []ID{g.sources[2], g.sources[1], g.sources[0], g.sources[1]})
	if err != nil {
		t.Fatal(err)
	}
	g.complete(t, again)
	for what, sources := range map[string][]ID{"fewer": g.sources[:2], "others": g.sources[1:]} {
		if _, err := g.CreateGroup(t.Context(), "backup", sources); !errors.Is(err, ErrConflict) {
			t.Errorf("of %s volumes: %v", what, err)
		}
	}
	for _, id := range g.sources {
		write(t, g.device(t, id), "later!") // blocks for ever if a source stayed suspended
	}
	var members []ID
	for i, s := range group.Snapshots {
		v := g.create(t, CreateVolume{Name: fmt.Sprint("r", i), Source: &Source{ID: s.ID, Snapshot: true}})
		if got := read(t, g.device(t, v.ID), 6); got != "before" {
			t.Errorf("snapshot of %s shows %q", s.Source, got)
		}
		if err := g.DeleteSnapshot(t.Context(), s.ID); !errors.Is(err, ErrInvalid) {
			t.Errorf("delete of a member: %v", err)
		}
		members = append(members, s.ID)
	}
	for _, list := range [][]ID{members[:2], append(slices.Clone(members), group.ID)} {
		if _, err := g.GetGroup(group.ID, Members{Here: list}); !errors.Is(err, ErrInvalid) {
			t.Errorf("get of %d members: %v", len(list), err)
		}
		if err := g.DeleteGroup(t.Context(), group.ID, Members{Here: list}); !errors.Is(err, ErrInvalid) {
			t.Errorf("delete of %d members: %v", len(list), err)
		}
	}
	if err := g.DeleteGroup(t.Context(), group.ID, Members{Here: members}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.GetGroup(group.ID, Members{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("after its deletion: %v", err)
	}
}

// A part answers for its own members, whichever volume group the whole is named
// after, and says nothing of a volume group that it does not know.
func TestPart(t *testing.T) {
	g := newGrouped(t)
	part := g.part("x", g.sources[1:]...)
	part.First = ID{"000000-0000-0000-0000-0000-0000-000000", g.sources[0].LV}
	group, err := g.make(t, part)
	if err != nil {
		t.Fatal(err)
	}
	members := []ID{group.Snapshots[0].ID, group.Snapshots[1].ID}
	if got, err := g.GetGroup(group.ID, Members{members, 3}); err != nil || got.ID != part.id() || len(got.Snapshots) != 2 {
		t.Errorf("get: %+v, %v", got, err)
	}
	gone := append(slices.Clone(members), ID{members[0].VG, part.id().LV})
	unknown := append(slices.Clone(members), ID{part.First.VG, members[0].LV})
	for _, tt := range []struct {
		what        string
		want        Members
		get, delete error
	}{
		{"no list", Members{}, ErrUnavailable, ErrUnavailable},
		{"one that is elsewhere", Members{unknown, 3}, ErrUnavailable, ErrUnavailable},
		{"too few here", Members{members[:1], 3}, ErrInvalid, ErrInvalid},
		{"too few in all", Members{Here: members}, ErrInvalid, ErrInvalid},
		{"too many in all", Members{members, 4}, ErrInvalid, ErrInvalid},
		{"one that is gone", Members{gone, 3}, ErrNotFound, nil},
	} {
		if _, err := g.GetGroup(group.ID, tt.want); !errors.Is(err, tt.get) {
			t.Errorf("get, %s: %v", tt.what, err)
		}
		if err := g.DeleteGroup(t.Context(), group.ID, tt.want); !errors.Is(err, tt.delete) {
			t.Errorf("delete, %s: %v", tt.what, err)
		}
	}
	if list, err := g.all(kindSnapshot); err != nil || len(list) != 0 {
		t.Errorf("left: %d, %v", len(list), err)
	}
	if err := g.DeleteGroup(t.Context(), group.ID, Members{members, 3}); err != nil {
		t.Errorf("again: %v", err)
	}
}

// A group that names its first volume group alone is found to lie elsewhere too.
func TestPartWithoutList(t *testing.T) {
	g := newGrouped(t)
	group, err := g.make(t, g.part("x"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.GetGroup(group.ID, Members{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("get: %v", err)
	}
	if err := g.DeleteGroup(t.Context(), group.ID, Members{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("delete: %v", err)
	}
}

// make does what the controller has a node do for its part.
func (g *grouped) make(t *testing.T, part GroupPart) (Group, error) {
	t.Helper()
	ready, err := g.PrepareGroup(t.Context(), part)
	if err != nil {
		return Group{}, fmt.Errorf("prepare: %w", err)
	}
	if ready != "" {
		part.Instant = ready
		return g.CommitGroup(t.Context(), part)
	}
	if err := g.snapshotHeld(t.Context(), part); err != nil {
		return Group{}, err
	}
	return g.CommitGroup(t.Context(), part)
}

func (g *grouped) snapshotHeld(ctx context.Context, part GroupPart) error {
	ctx, release := context.WithCancel(ctx)
	defer release()
	held, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- g.HoldGroup(ctx, part, func() error { close(held); return nil }) }()
	select {
	case <-held:
	case err := <-ended:
		return fmt.Errorf("hold: %w", err)
	}
	err := g.SnapshotHeld(ctx, part)
	release()
	return errors.Join(err, <-ended)
}

// Wherever a call that makes a group is cut, some member is ready only if all
// are there, and the call made again ends it or makes it anew.
func TestGroupCrash(t *testing.T) {
	for name, run := range map[string]func(*testing.T, *grouped, string) (Group, error){
		"here": func(t *testing.T, g *grouped, _ string) (Group, error) {
			return g.CreateGroup(t.Context(), "backup", g.sources)
		},
		"part": func(t *testing.T, g *grouped, instant string) (Group, error) { return g.make(t, g.part(instant)) },
	} {
		t.Run(name, func(t *testing.T) {
			g := newGrouped(t)
			before := g.host.Steps()
			if _, err := run(t, g, "first"); err != nil {
				t.Fatal(err)
			}
			steps := g.host.Steps() - before
			if steps < 12 {
				t.Fatalf("%d steps", steps)
			}
			for step := 1; step <= steps; step++ {
				t.Run(fmt.Sprint(step), func(t *testing.T) { cutGroup(t, step, run) })
			}
		})
	}
}

func cutGroup(t *testing.T, step int, run func(*testing.T, *grouped, string) (Group, error)) {
	g := newGrouped(t)
	g.host.CrashAt(step)
	_, _ = run(t, g, "first") // it may have been done when it was cut
	g.restart(t)
	if frozen := g.holder.list(); len(frozen) > 0 {
		t.Errorf("the new agent left frozen: %v", frozen)
	}
	members, err := g.members(groupLV("backup"))
	if err != nil {
		t.Fatal(err)
	}
	ready := slices.ContainsFunc(members, func(f found) bool { return f.tags[keyState] == stateReady })
	if ready && len(members) != 3 {
		t.Errorf("one of %d members is ready", len(members))
	}
	for _, id := range g.sources {
		write(t, g.device(t, id), "later!")
	}
	group, err := run(t, g, "second")
	if err != nil {
		t.Fatal(err)
	}
	g.complete(t, group)
	want := "later!"
	if ready {
		want = "before"
	}
	for i, s := range group.Snapshots {
		v := g.create(t, CreateVolume{Name: fmt.Sprint("r", i), Source: &Source{ID: s.ID, Snapshot: true}})
		if got := read(t, g.device(t, v.ID), 6); got != want {
			t.Errorf("snapshot of %s shows %q, want %q", s.Source, got, want)
		}
	}
}

// A deletion that was cut is ended by the same call.
func TestDeleteGroupCrash(t *testing.T) {
	run := func(g *grouped, step int) (steps int) {
		group, err := g.CreateGroup(t.Context(), "backup", g.sources)
		if err != nil {
			t.Fatal(err)
		}
		var members Members
		for _, s := range group.Snapshots {
			members.Here = append(members.Here, s.ID)
		}
		before := g.host.Steps()
		g.host.CrashAt(step)
		err = g.DeleteGroup(t.Context(), group.ID, members)
		steps = g.host.Steps() - before
		if step > 0 {
			g.restart(t)
			err = g.DeleteGroup(t.Context(), group.ID, members)
		}
		list, listErr := g.all(kindSnapshot)
		if err := errors.Join(err, listErr); err != nil || len(list) != 0 {
			t.Errorf("cut at step %d: left: %d, %v", step, len(list), err)
		}
		return steps
	}
	steps := run(newGrouped(t), 0)
	if steps < 6 {
		t.Fatalf("%d steps", steps)
	}
	for step := 1; step <= steps; step++ {
		run(newGrouped(t), step)
	}
}
