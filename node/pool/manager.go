package pool

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lamina-csi/lamina/lvm"
)

// Manager holds the pools of a node.
type Manager struct {
	lvm    *lvm.Client
	dm     lvm.Kernel
	holder Holder // nil: none
	keys   keyLock

	mu     sync.Mutex
	looked bool                     // Discover has seen the disks once
	pools  map[string]*Pool         // by VG UUID
	held   map[lvm.LVName]*heldPart // by the name of the group
	idle   map[ID]time.Time         // volumes that were released, and when
	probes map[lvm.DevicePath]*probe
}

// NewManager makes a Manager that knows no pool yet; see [Manager.Ensure].
// holder may be nil: then only volumes that nobody uses are snapshotted together.
func NewManager(c *lvm.Client, holder Holder) *Manager {
	m := &Manager{lvm: c, dm: c.Kernel(), holder: holder, pools: map[string]*Pool{}, held: map[lvm.LVName]*heldPart{}, idle: map[ID]time.Time{}, probes: map[lvm.DevicePath]*probe{}}
	c.OnFailure(m.mendGroup)
	return m
}

// Pool is a volume group that carries our tag.
type Pool struct {
	spec  Spec
	uuid  string
	group lvm.Group
	// wanted is false once the spec was taken away: its volumes stay and work,
	// new ones are refused.
	wanted bool
	// admit is held from the check for room until the volume is in the metadata.
	admit chan struct{}
}

// ThinPoolLV is the thin pool of every pool in thin mode.
const ThinPoolLV = "thinpool"

var thinPoolLV = mustLV(ThinPoolLV)

// snapshot copies the pools, sorted by name, so that no lock is held during I/O.
func (m *Manager) snapshot() []*Pool {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []*Pool
	for _, p := range m.pools {
		copied := *p
		out = append(out, &copied)
	}
	slices.SortFunc(out, func(a, b *Pool) int { return strings.Compare(a.spec.Name, b.spec.Name) })
	return out
}

// known is the pools once the disks were looked at. Before that, that there is no
// pool or no volume says nothing.
func (m *Manager) known() ([]*Pool, error) {
	m.mu.Lock()
	looked := m.looked
	m.mu.Unlock()
	if !looked {
		return nil, fmt.Errorf("%w: the disks of this node have not been looked at yet", ErrUnavailable)
	}
	return m.snapshot(), nil
}

// byName finds a pool by its name. Which of two is meant, only a person knows.
func (m *Manager) byName(name string) (*Pool, error) {
	var have []string
	var pool *Pool
	pools, err := m.known()
	if err != nil {
		return nil, err
	}
	for _, p := range pools {
		if p.spec.Name == name && pool != nil {
			return nil, fmt.Errorf("pool %s: %w: volume groups %s (%s) and %s (%s) both carry its tag", name, ErrUnavailable, pool.group.Name, pool.uuid, p.group.Name, p.uuid)
		}
		if p.spec.Name == name {
			pool = p
		}
		have = append(have, p.spec.Name)
	}
	if pool != nil {
		return pool, nil
	}
	return nil, fmt.Errorf("pool %.40q: %w: this node has %s", name, ErrNotFound, listOr(have, "no pool"))
}

// byVG finds a pool by the UUID of its volume group. One that is not known may
// be on a disk that is missing: that is ErrUnavailable, never ErrNotFound.
func (m *Manager) byVG(uuid string) (*Pool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.pools[uuid]
	if !ok {
		return nil, fmt.Errorf("volume group %s: %w: no pool of this node lies on it; is a disk missing?", uuid, ErrUnavailable)
	}
	copied := *p
	return &copied, nil
}

func listOr(list []string, none string) string {
	if len(list) == 0 {
		return none
	}
	return strings.Join(list, ", ")
}

// found is an LV of ours with where it lies.
type found struct {
	pool *Pool
	vg   *lvm.VG
	lv   *lvm.LV
	tags tagSet
}

func (f found) id() ID           { return ID{f.vg.UUID, f.lv.Name} }
func (f found) group() lvm.Group { return f.pool.group }

// readVG reads the pool's metadata. Whatever stands in the way (a disk that is
// gone, or fails, or holds something else now) is ErrUnavailable: nothing is known.
func (m *Manager) readVG(p *Pool) (*lvm.VG, error) {
	vg, err := m.lvm.ReadVG(p.group)
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w: %w", p.spec.Name, ErrUnavailable, err)
	}
	// A group of the same name may have come on other disks under the same paths.
	if vg.UUID != p.uuid {
		return nil, fmt.Errorf("pool %s: %w: its disks now hold volume group %s, not %s", p.spec.Name, ErrUnavailable, vg.UUID, p.uuid)
	}
	return vg, nil
}

// find reads the LV of an id. ErrNotFound means that the volume group was read
// and does not have it. ErrForeign: it is there without our tags.
func (m *Manager) find(id ID, kind string) (found, error) {
	p, err := m.byVG(id.VG)
	if err != nil {
		return found{}, err
	}
	vg, err := m.readVG(p)
	if err != nil {
		return found{}, fmt.Errorf("find %s: %w", id, err)
	}
	lv, ok := vg.LV(id.LV)
	if !ok {
		return found{}, fmt.Errorf("%s %s: %w", kind, id, ErrNotFound)
	}
	f := found{p, vg, lv, readTags(lv.Tags)}
	if f.tags[keyKind] != kind {
		return found{}, fmt.Errorf("%s: %w: it is no %s of ours (tags: %.300s)", id, ErrForeign, kind, listTags(lv.Tags))
	}
	return f, nil
}

// lockSource finds an LV that another is made from, and keeps its deletion, which
// discards before it removes, off it until unlock. It is looked for before the
// lock too: a request may name itself as its source.
func (m *Manager) lockSource(ctx context.Context, id ID, kind string) (f found, unlock func(), err error) {
	if _, err := m.find(id, kind); err != nil {
		return found{}, nil, err
	}
	if unlock, err = m.keys.lock(ctx, id.LV.String()); err != nil {
		return found{}, nil, err
	}
	if f, err = m.find(id, kind); err != nil {
		unlock()
		return found{}, nil, err
	}
	return f, unlock, nil
}

// findByLV looks for an LV name in every pool: a CSI name is unique on a node. The group
// that the call is about must be read: the name might be there. Another one that cannot
// be, because its disk is gone, is passed over, or one pool's fault would stop all.
func (m *Manager) findByLV(name lvm.LVName, in string) (found, error) {
	pools, err := m.known()
	if err != nil {
		return found{}, err
	}
	for _, p := range pools {
		vg, err := m.readVG(p)
		if err != nil && in != "" && p.uuid != in {
			continue
		}
		if err != nil {
			return found{}, fmt.Errorf("look for %s: %w", name, err)
		}
		if lv, ok := vg.LV(name); ok {
			return found{p, vg, lv, readTags(lv.Tags)}, nil
		}
	}
	return found{}, fmt.Errorf("%s: %w", name, ErrNotFound)
}

// all lists our LVs of a kind in every pool, sorted by id.
func (m *Manager) all(kind string) ([]found, error) {
	var out []found
	pools, err := m.known()
	if err != nil {
		return nil, err
	}
	for _, p := range pools {
		vg, err := m.readVG(p)
		if err != nil {
			return nil, fmt.Errorf("list volumes: %w", err)
		}
		for i := range vg.LVs {
			if kindOf(vg.LVs[i].Tags) == kind {
				out = append(out, found{p, vg, &vg.LVs[i], readTags(vg.LVs[i].Tags)})
			}
		}
	}
	slices.SortFunc(out, func(a, b found) int { return strings.Compare(a.id().String(), b.id().String()) })
	return out, nil
}

func listTags(tags []lvm.Tag) string {
	var out []string
	for _, t := range tags {
		out = append(out, t.String())
	}
	return listOr(out, "none")
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// keyLock makes operations on one volume follow each other.
type keyLock struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock waits for the key under ctx and returns what releases it.
func (k *keyLock) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		if k.held == nil {
			k.held = map[string]chan struct{}{}
		}
		busy, taken := k.held[key]
		if !taken {
			done := make(chan struct{})
			k.held[key] = done
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(done)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w: an earlier operation on it has not ended", key, ErrPending)
		}
	}
}
