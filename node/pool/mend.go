package pool

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/lamina-csi/lamina/lvm"
)

// mend repairs what a killed command or a killed agent has left in an active
// pool, before anything else changes it: a half-made snapshot, writers of volumes
// that are suspended or frozen and would hang until somebody lets them go, and thin
// devices that are smaller than LVM's metadata says.
func (m *Manager) mend(p *Pool) error {
	err := m.mendDevices(p)
	if m.holder == nil {
		return err
	}
	vg, verr := m.readVG(p)
	if verr != nil {
		return errors.Join(err, verr)
	}
	for _, lv := range vg.LVs {
		info, ierr := m.dm.Info(lvm.DMName(vg.Name, lv.Name, ""))
		if ierr == nil && ofGroup(info, vg) && kindOf(lv.Tags) != "" {
			err = errors.Join(err, m.holder.Release(info.Path()))
		}
	}
	return err
}

// mendGroup repairs at once what a command has left that failed while the agent
// lives. Writers that are held for a group snapshot stay so.
func (m *Manager) mendGroup(g lvm.Group) error {
	for _, p := range m.snapshot() {
		if p.group.Name == g.Name {
			return m.mendDevices(p)
		}
	}
	return nil // it is being made
}

func (m *Manager) mendDevices(p *Pool) error {
	vg, err := m.readVG(p)
	if err != nil {
		return err
	}
	errs := []error{wrap(m.mendTransaction(vg), "pool %s", p.spec.Name)}
	resume := func(lv lvm.LVName, layer string) (active bool) {
		name := lvm.DMName(vg.Name, lv, layer)
		info, err := m.dm.Info(name)
		if err != nil || !ofGroup(info, vg) {
			return false // inactive, or of another group of that name
		}
		if info.Suspended {
			errs = append(errs, wrap(m.dm.Resume(name), "pool %s: resume %s, which a killed command left suspended", p.spec.Name, name))
		}
		return true
	}
	// From below: a volume's resume waits for its pool's.
	if pool, ok := vg.LV(thinPoolLV); ok && pool.Pool != nil {
		resume(pool.Pool.Metadata, "")
		resume(pool.Pool.Data, "")
		resume(thinPoolLV, "tpool")
		resume(thinPoolLV, "")
	}
	for _, lv := range vg.LVs {
		if kind := kindOf(lv.Tags); kind == "" || kind == kindPool {
			continue
		}
		if resume(lv.Name, "") && lv.Thin != nil {
			errs = append(errs, wrap(m.lvm.ReloadThin(p.group, lv.Name), "pool %s", p.spec.Name))
		}
	}
	return errors.Join(errs...)
}

// mendTransaction goes on with a volume that a killed lvm, or a power cut, left
// between its two commits: LVM has recorded it, and the kernel is one transaction
// behind. What LVM recorded is sent, as LVM would have.
//
// For a new volume, and for one that was removed, LVM would do that too, at its next
// command; but the same call, made again, finds its work done and runs none. A snapshot that was
// cut between the kernel's create_snap and set_transaction_id it would send again, get
// EEXIST, and refuse every later change of the pool, also after a reboot: libdm expects
// that answer for create_thin only (libdm/libdm-deptree.c, _thin_pool_node_message).
// Any other gap is LVM's own to close, or a person's.
func (m *Manager) mendTransaction(vg *lvm.VG) error {
	pool, ok := vg.LV(thinPoolLV)
	if !ok || pool.Pool == nil {
		return nil
	}
	st, err := m.poolStatus(vg)
	if errors.Is(err, lvm.ErrNotFound) || errors.Is(err, ErrForeign) {
		return nil // inactive, or of another group of that name: there is nothing to mend
	}
	behind := st.TransactionID+1 == pool.Pool.TransactionID
	if err != nil || !behind && st.TransactionID != pool.Pool.TransactionID {
		return err
	}
	for _, device := range pool.Pool.Deletes {
		if vg.HasThin(thinPoolLV, device) {
			return nil
		}
		if err := m.lvm.DeleteThinDevice(vg, thinPoolLV, device); err != nil {
			return fmt.Errorf("finish a removal: %w", err)
		}
	}
	if !behind {
		return nil
	}
	tpool, err := m.poolDevice(vg.Name)
	if err != nil {
		return err
	}
	finish := fmt.Sprintf("set_transaction_id %d %d", st.TransactionID, st.TransactionID+1)
	lv := pendingThin(vg, st.TransactionID)
	if lv == nil && len(pool.Pool.Deletes) > 0 {
		return m.dm.Message(tpool, finish)
	}
	if lv == nil {
		return nil
	}
	message := fmt.Sprintf("create_thin %d", lv.Thin.DeviceID)
	if readTags(lv.Tags)[keySource] != "" {
		origin, ok := vg.LV(lv.Thin.Origin)
		if !ok || origin.Thin == nil {
			return nil
		}
		message = fmt.Sprintf("create_snap %d %d", lv.Thin.DeviceID, origin.Thin.DeviceID)
		// The origin must not change while it is snapshotted (thin-provisioning.rst,
		// "Snapshots"). An inactive one cannot.
		if dm := lvm.DMName(vg.Name, origin.Name, ""); m.active(found{vg: vg, lv: origin}) {
			if err := m.dm.Suspend(dm); err != nil {
				return err
			}
			defer m.dm.Resume(dm) //nolint:errcheck // mend resumes what is still suspended, and tells
		}
	}
	if err := m.dm.Message(tpool, message); err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("finish %s: %w", lv.Name, err)
	}
	return m.dm.Message(tpool, finish)
}

// poolDevice is the name of the active thin pool: until its first volume is made it
// has no layer.
func (m *Manager) poolDevice(vg lvm.VGName) (string, error) {
	name := lvm.DMName(vg, thinPoolLV, "tpool")
	_, err := m.dm.Info(name)
	if errors.Is(err, lvm.ErrNotFound) {
		name = lvm.DMName(vg, thinPoolLV, "")
		_, err = m.dm.Info(name)
	}
	return name, err
}

// pendingThin finds the one thin volume of ours that LVM made in a transaction.
func pendingThin(vg *lvm.VG, transaction int64) *lvm.LV {
	var out *lvm.LV
	for i := range vg.LVs {
		lv := &vg.LVs[i]
		if lv.Thin == nil || lv.Thin.Pool != thinPoolLV || lv.Thin.TransactionID != transaction {
			continue
		}
		if out != nil || kindOf(lv.Tags) == "" {
			return nil
		}
		out = lv
	}
	return out
}
