package pool

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/lamina-csi/lamina/lvm"
)

// Health is the state of a pool in one word.
type Health string

// The states of a pool, from good to bad.
const (
	HealthOK          Health = "ok"
	HealthDegraded    Health = "degraded"     // a leg of a raid is gone
	HealthFull        Health = "full"         // no new volume is admitted
	HealthStuck       Health = "stuck"        // an lvm command does not end: nothing else can be changed
	HealthReadOnly    Health = "readonly"     // the thin pool takes no more writes to new blocks
	HealthMissingDisk Health = "missing-disk" // a physical volume is not there
	HealthError       Health = "error"
)

// Status is a pool as it is now.
type Status struct {
	Name   string
	VG     string
	VGUUID string
	Mode   Mode
	Wanted bool // false: its volumes stay, new ones are refused
	Disks  []string

	Size, Used                 int64 // bytes of data
	MetadataSize, MetadataUsed int64 // bytes of thin metadata
	TextMetadataFree           int64 // bytes of the VG's metadata area
	Virtual                    int64 // bytes promised to volumes
	Free                       int64 // bytes that may still be promised
	Volumes, Snapshots         int

	Health Health
	Text   string // why it is not ok
}

// Statuses tells how every pool is. It runs no process.
func (m *Manager) Statuses() []Status {
	var out []Status
	for _, p := range m.snapshot() {
		out = append(out, m.status(p))
	}
	return out
}

func (m *Manager) status(p *Pool) Status {
	s := Status{
		Name: p.spec.Name, VG: p.group.Name.String(), VGUUID: p.uuid, Mode: p.spec.Mode,
		Wanted: p.wanted, Health: HealthOK,
	}
	vg, err := m.readVG(p)
	if err != nil {
		s.Health, s.Text = HealthError, err.Error()
		return s
	}
	for _, d := range p.group.Devices {
		s.Disks = append(s.Disks, d.String())
	}
	s.TextMetadataFree = vg.MetadataFree
	for i := range vg.LVs {
		switch kindOf(vg.LVs[i].Tags) {
		case kindVolume:
			s.Volumes++
			s.Virtual += vg.LVs[i].Size
		case kindSnapshot:
			s.Snapshots++
		}
	}
	s.Size, s.Used = vgSize(vg), vgSize(vg)-vg.Free()
	if p.spec.Mode == Thin {
		m.thinStatus(&s, vg)
	}
	if r, err := m.room(p); err == nil && s.Health == HealthOK {
		s.Free = max(0, r.free)
		if r.refusal != nil {
			s.Free, s.Health, s.Text = 0, HealthFull, r.refusal.Error()
		}
	}
	if missing := len(vg.PVs) - len(p.group.Devices); missing > 0 {
		s.Health, s.Text = HealthMissingDisk, fmt.Sprintf("%d of %d disks are missing", missing, len(vg.PVs))
	}
	m.diskHealth(&s, vg)
	if err := m.diskFault(p); err != nil && p.spec.raid() && s.Health == HealthOK {
		s.Health, s.Text = HealthDegraded, err.Error()
	} else if err != nil && !p.spec.raid() {
		s.Health, s.Text = HealthError, err.Error()
	}
	if err := p.group.Copied(); err != nil {
		s.Health, s.Text = HealthError, err.Error()
	}
	if r, ok := m.lvm.Stuck(vg.Name); ok && (s.Health == HealthOK || s.Health == HealthFull) {
		s.Health, s.Text = HealthStuck, fmt.Sprintf("%s has been running since %s and keeps all other changes waiting (docs/operations.md)", r.Command, r.Since.UTC().Format(time.RFC3339))
	}
	return s
}

// errInactive: what kept the agent from activating the pool stands beside it in the condition.
var errInactive = fmt.Errorf("%w: the thin pool is not active", ErrUnavailable)

// poolStatus asks the kernel about a group's thin pool. Its device goes by the
// group's name, which another group, on a disk that came from elsewhere, may have
// too: the UUID says whose it is.
func (m *Manager) poolStatus(vg *lvm.VG) (lvm.PoolStatus, error) {
	for _, layer := range []string{"tpool", ""} {
		name := lvm.DMName(vg.Name, thinPoolLV, layer)
		if info, err := m.dm.Info(name); err == nil && !ofGroup(info, vg) {
			return lvm.PoolStatus{}, fmt.Errorf("%w: device %s is that of another volume group %s", ErrForeign, name, vg.Name)
		}
	}
	return m.lvm.PoolStatus(vg.Name, thinPoolLV)
}

// ofGroup reports whether a device is one of the group.
func ofGroup(info lvm.DeviceInfo, vg *lvm.VG) bool {
	return strings.HasPrefix(info.UUID, lvm.DMUUID(vg, &lvm.LV{}))
}

// thinStatus adds what the kernel says of the thin pool.
func (m *Manager) thinStatus(s *Status, vg *lvm.VG) {
	pool, ok := vg.LV(thinPoolLV)
	if !ok || pool.Pool == nil {
		s.Health, s.Text = HealthError, fmt.Sprintf("volume group %s has no thin pool %s", vg.Name, thinPoolLV)
		return
	}
	st, err := m.poolStatus(vg)
	if errors.Is(err, lvm.ErrNotFound) {
		err = errInactive
	}
	if err != nil {
		s.Health, s.Text = HealthError, err.Error()
		return
	}
	s.Size, s.Used = st.AllData*pool.Pool.ChunkSize, st.UsedData*pool.Pool.ChunkSize
	s.MetadataSize, s.MetadataUsed = st.AllMetadata*4096, st.UsedMetadata*4096
	switch {
	case st.Mode == lvm.PoolFailed || st.NeedsCheck:
		s.Health, s.Text = HealthError, "the thin pool has failed and needs a repair (docs/operations.md)"
	case st.Mode == lvm.PoolOutOfSpace:
		s.Health, s.Text = HealthFull, whyFull(st)
	case st.Mode != lvm.PoolReadWrite:
		s.Health, s.Text = HealthReadOnly, whyFull(st)
	}
}

// diskHealth adds missing disks and dead legs of a raid.
func (m *Manager) diskHealth(s *Status, vg *lvm.VG) {
	for _, pv := range vg.PVs {
		if pv.Missing {
			s.Health, s.Text = HealthMissingDisk, fmt.Sprintf("disk %.80s (physical volume %.80s) is missing", pv.Device, pv.UUID)
		}
	}
	for i := range vg.LVs {
		if lv := &vg.LVs[i]; strings.HasPrefix(lv.Type, "raid") && s.Health == HealthOK {
			targets, err := m.dm.Status(lvm.DMName(vg.Name, lv.Name, ""))
			if err == nil && len(targets) == 1 && raidDegraded(targets[0].Params) {
				s.Health, s.Text = HealthDegraded, fmt.Sprintf("a disk of %s/%s has failed", vg.Name, lv.Name)
			}
		}
	}
}

// raidDegraded reads "<level> <legs> <health> …": one letter a leg, D for dead
// (Documentation/admin-guide/device-mapper/dm-raid.rst, "Status Output").
func raidDegraded(params string) bool {
	f := strings.Fields(params)
	return len(f) > 2 && strings.Contains(f[2], "D")
}

func vgSize(vg *lvm.VG) int64 {
	var sum int64
	for _, pv := range vg.PVs {
		sum += pv.Size
	}
	return sum
}
