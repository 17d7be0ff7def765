package vm

import (
	"errors"
	"fmt"
	"slices"
)

// CutPower kills the machine at once, as if its plug were pulled: what the
// guest had not written to its disks is lost. It returns when QEMU is gone, and
// the disks may be used again; Wait then returns ErrPowerCut.
func (m *Machine) CutPower() error {
	m.mu.Lock()
	m.cut = true
	m.mu.Unlock()
	if err := m.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("cut the power: %w", err)
	}
	<-m.done
	return nil
}

// PullDisk takes a disk out of the running machine and returns when the guest's
// kernel has let go of it.
func (m *Machine) PullDisk(serial string) error {
	err := m.qmp.callUntil("device_del", map[string]any{"id": deviceID(serial)}, "DEVICE_DELETED", deviceID(serial))
	if err != nil {
		return fmt.Errorf("pull disk %s: %w", serial, err)
	}
	return nil
}

// InsertDisk puts a disk in that was out from the beginning, or pulled. The guest's
// kernel finds it some time later.
func (m *Machine) InsertDisk(serial string) error {
	i := slices.IndexFunc(m.cfg.Disks, func(d Disk) bool { return d.Serial == serial })
	if i < 0 {
		return fmt.Errorf("insert disk %s: the machine has no such disk", serial)
	}
	err := m.qmp.call("device_add", map[string]any{
		"driver": "nvme", "id": deviceID(serial), "serial": serial, "drive": nodeName(serial), "bus": portID(i),
		"logical_block_size": m.cfg.Disks[i].block(), "physical_block_size": m.cfg.Disks[i].block(),
	})
	if err != nil {
		return fmt.Errorf("insert disk %s: %w", serial, err)
	}
	return nil
}

// IO is a kind of request to a disk.
type IO string

// Kinds of requests that FailIO can fail (QEMU's BlkdebugIOType).
const (
	Reads    IO = "read"
	Writes   IO = "write"
	Flushes  IO = "flush"
	Discards IO = "discard"
)

// FailIO makes a disk fail every request of the given kinds, or of all kinds if
// none is given, with an I/O error, until HealIO. It can be called again with
// other kinds.
func (m *Machine) FailIO(serial string, kinds ...IO) error {
	if err := m.HealIO(serial); err != nil {
		return err
	}
	rule := func(kind IO) map[string]any {
		r := map[string]any{"event": "none", "errno": 5, "immediately": false}
		if kind != "" {
			r["iotype"] = string(kind)
		}
		return r
	}
	rules := []map[string]any{}
	for _, k := range kinds {
		rules = append(rules, rule(k))
	}
	if len(kinds) == 0 {
		rules = append(rules, rule(""))
	}
	err := errors.Join(
		m.qmp.call("blockdev-add", map[string]any{
			"driver": "blkdebug", "node-name": failNode(serial), "image": nodeName(serial), "inject-error": rules,
		}),
		m.setDrive(serial, failNode(serial)))
	if err != nil {
		return fmt.Errorf("fail I/O of disk %s: %w", serial, err)
	}
	m.setFailing(serial, true)
	return nil
}

// HealIO ends what FailIO began.
func (m *Machine) HealIO(serial string) error {
	if !m.isFailing(serial) {
		return nil
	}
	err := errors.Join(
		m.setDrive(serial, nodeName(serial)),
		m.qmp.call("blockdev-del", map[string]any{"node-name": failNode(serial)}))
	if err != nil {
		return fmt.Errorf("heal disk %s: %w", serial, err)
	}
	m.setFailing(serial, false)
	return nil
}

func failNode(serial string) string { return "fail-" + serial }

// setDrive puts another block node under the disk. QEMU drains the disk's
// requests first and accepts the change on a running device since 6.2.
func (m *Machine) setDrive(serial, node string) error {
	return m.qmp.call("qom-set", map[string]any{
		"path": "/machine/peripheral/" + deviceID(serial), "property": "drive", "value": node,
	})
}

func (m *Machine) isFailing(serial string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failing[serial]
}

func (m *Machine) setFailing(serial string, failing bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failing[serial] = failing
}
