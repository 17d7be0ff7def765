package pool

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/lamina-csi/lamina/lvm"
)

// Discover looks at every disk of this node and registers each volume group that
// carries our tag, whether it is wanted or not: its volumes must work. A pool
// that is no longer seen stays registered, so that requests about it fail as
// unavailable. It returns all that LVM sees, for the caller's vetting of disks.
func (m *Manager) Discover(ctx context.Context) (lvm.Report, error) {
	report, err := m.lvm.FullReport(ctx)
	if err != nil && len(report.VGs) == 0 {
		return report, wrap(err, "look for pools")
	}
	var errs []error
	for _, vg := range report.VGs {
		// A name that no pool can have was not written by us.
		if name := readTags(vg.Tags)[keyPool]; poolName.MatchString(name) {
			errs = append(errs, m.register(name, vg))
		}
	}
	m.mu.Lock()
	m.looked = true
	m.mu.Unlock()
	return report, errors.Join(errs...)
}

// register adds a pool that is seen for the first time and notes where it lies
// now. What a killed command left behind is mended before any request can be
// about the pool.
func (m *Manager) register(name string, vg lvm.VGReport) error {
	group := placeOf(vg)
	m.mu.Lock()
	p, known := m.pools[vg.UUID]
	if known {
		p.group = group
	}
	m.mu.Unlock()
	if known {
		return nil
	}
	p = &Pool{uuid: vg.UUID, spec: defaultSpec(name, vg), group: group, admit: make(chan struct{}, 1)}
	err := m.mend(p)
	m.mu.Lock()
	m.pools[vg.UUID] = p
	m.mu.Unlock()
	return err
}

// Outdated says, by volume group, where the disks tell of another group than
// [Manager.Discover] saw: a person has added a disk, or renamed it.
func (m *Manager) Outdated() map[string]string {
	out := map[string]string{}
	for _, p := range m.snapshot() {
		vg, err := m.readVG(p)
		switch {
		case err != nil:
			out[p.uuid] = err.Error()
		case len(vg.PVs) != len(p.group.Devices):
			out[p.uuid] = fmt.Sprintf("%d disks", len(vg.PVs))
		}
	}
	return out
}

// defaultSpec describes a pool of which nothing is wanted: it serves what it has.
func defaultSpec(name string, vg lvm.VGReport) Spec {
	s := Spec{Name: name, Mode: Thick, Layout: lvm.Linear, Overprovision: 1, FullAt: 90}
	for _, lv := range vg.LVs {
		if lv.Name == ThinPoolLV {
			s.Mode = Thin
		}
	}
	return s
}

// placeOf lists the physical volumes that are there, and copies of them.
func placeOf(vg lvm.VGReport) lvm.Group {
	g := lvm.Group{Name: vg.Name}
	for _, pv := range vg.PVs {
		if dev, err := lvm.ParseDevicePath(pv.Device); err == nil && !pv.Missing {
			g.Devices = append(g.Devices, dev)
		}
		for _, c := range pv.Copies {
			if dev, err := lvm.ParseDevicePath(c); err == nil {
				g.Copies = append(g.Copies, dev)
			}
		}
	}
	return g
}

// Ensure brings a pool to what its spec says: it makes the volume group on the
// blank disks, or adopts an existing one, makes the thin pool once, and extends
// both when there is more room. The disks must have been vetted by the caller.
// Call [Manager.Discover] first; report is what it returned.
func (m *Manager) Ensure(ctx context.Context, spec Spec, report lvm.Report, blank []lvm.DevicePath) error {
	if err := spec.Validate(); err != nil {
		return err
	}
	if err := m.loadTargets(spec); err != nil {
		return err
	}
	p, err := m.registered(spec)
	if err != nil {
		return err
	}
	if p != nil {
		if err := m.sameMode(p, spec); err != nil {
			return err
		}
	}
	if p == nil {
		if err := m.makeVG(ctx, spec, report, blank); err != nil {
			return err
		}
		if _, err := m.Discover(ctx); err != nil {
			return err
		}
		if p, err = m.registered(spec); err != nil {
			return err
		}
		if p == nil {
			return fmt.Errorf("pool %s: %w: its volume group was made and is not seen", spec.Name, ErrUnavailable)
		}
	} else if len(blank) > 0 && spec.Adopt.IsZero() {
		if err := m.lvm.VGExtend(ctx, p.group, blank, textMetadataSize); err != nil {
			return wrap(err, "extend pool %s by %s", spec.Name, devices(blank))
		}
		m.mu.Lock()
		m.pools[p.uuid].group.Devices = append(append([]lvm.DevicePath{}, p.group.Devices...), blank...)
		m.mu.Unlock()
	}
	m.mu.Lock()
	m.pools[p.uuid].spec, m.pools[p.uuid].wanted = spec, true
	m.mu.Unlock()
	return m.bringUp(ctx, p.uuid)
}

// sameMode refuses a profile that would put thick volumes beside the thin pool.
func (m *Manager) sameMode(p *Pool, spec Spec) error {
	vg, err := m.readVG(p)
	if err != nil {
		return err
	}
	if _, ok := vg.LV(thinPoolLV); ok && spec.Mode == Thick {
		return fmt.Errorf("pool %s: %w: volume group %s has a thin pool, its profile says mode thick; a pool keeps its mode for life: change the profile back, or label the node with another pool",
			spec.Name, ErrConflict, vg.Name)
	}
	return nil
}

// Unwant stops new volumes in every pool that is not in the list. Nothing else
// changes.
func (m *Manager) Unwant(wanted map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pools {
		p.wanted = p.wanted && wanted[p.spec.Name]
	}
}

// registered finds the pool of a spec. Two volume groups with one pool's tag are
// an error: which of them is meant, only a person knows.
func (m *Manager) registered(spec Spec) (*Pool, error) {
	var have *Pool
	for _, p := range m.snapshot() {
		switch {
		case p.spec.Name != spec.Name:
		case have != nil:
			return nil, fmt.Errorf("pool %s: %w: volume groups %s and %s both carry its tag; remove the tag lamina.pool=%s from one of them (vgchange --deltag)",
				spec.Name, ErrConflict, have.group.Name, p.group.Name, spec.Name)
		case !spec.Adopt.IsZero() && p.group.Name != spec.Adopt:
			return nil, fmt.Errorf("pool %s: %w: it is volume group %s already, its profile says %s", spec.Name, ErrConflict, p.group.Name, spec.Adopt)
		default:
			have = p
		}
	}
	return have, nil
}

// textMetadataSize is each PV's metadata area: LVM's default of 1 MiB holds about
// 1,100 tagged LVs and cannot be enlarged later.
const textMetadataSize = 16 * mib

func (m *Manager) makeVG(ctx context.Context, spec Spec, report lvm.Report, blank []lvm.DevicePath) error {
	name, err := spec.vg()
	if err != nil {
		return wrap(err, "pool %s", spec.Name)
	}
	t, err := tag(keyPool, spec.Name)
	if err != nil {
		return err
	}
	for _, vg := range report.VGs {
		if vg.Name != name {
			continue
		}
		switch {
		case spec.Adopt.IsZero():
			return fmt.Errorf("pool %s: %w: a volume group %s without our tag is there; to use it, adopt it in the profile", spec.Name, ErrForeign, name)
		case vg.Missing > 0:
			return fmt.Errorf("pool %s: %w: %d disks of volume group %s are missing", spec.Name, ErrUnavailable, vg.Missing, name)
		case readTags(vg.Tags)[keyPool] != "":
			return fmt.Errorf("pool %s: %w: volume group %s is pool %s", spec.Name, ErrConflict, name, readTags(vg.Tags)[keyPool])
		}
		return wrap(m.lvm.VGAddTag(ctx, placeOf(vg), t), "adopt %s as pool %s", name, spec.Name)
	}
	if !spec.Adopt.IsZero() {
		return fmt.Errorf("pool %s: %w: there is no volume group %s to adopt", spec.Name, ErrUnavailable, name)
	}
	if need := disksFor(spec.Layout); len(blank) < need {
		return fmt.Errorf("pool %s: %w: its layout (%s) needs %d blank disks that match, %d are there", spec.Name, ErrUnavailable, spec.Layout, need, len(blank))
	}
	if report.Incomplete != nil {
		return fmt.Errorf("pool %s: %w: not every disk could be read, and the pool may lie on one of them: %w", spec.Name, ErrUnavailable, report.Incomplete)
	}
	g := lvm.Group{Name: name, Devices: blank}
	err = m.lvm.VGCreate(ctx, lvm.VGCreate{Group: g, Tags: []lvm.Tag{t}, MetadataSize: textMetadataSize})
	return wrap(err, "make pool %s on %s", spec.Name, devices(blank))
}

// disksFor is the least number of disks for a layout.
func disksFor(l lvm.LayoutType) int {
	switch l {
	case lvm.Striped, lvm.Raid1:
		return 2
	case lvm.Raid10:
		return 4
	}
	return 1
}

func devices(list []lvm.DevicePath) string {
	var out []string
	for _, d := range list {
		out = append(out, d.String())
	}
	return strings.Join(out, ", ")
}
