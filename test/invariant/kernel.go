package invariant

import (
	"errors"
	"slices"
	"strings"

	"github.com/lamina-csi/lamina/lvm"
)

const sector = 512

// kernel compares the group's devices with its metadata. LVM gives a device the UUID
// "LVM-", the group's, the volume's, and a suffix for a part of a volume
// (lib/activate/dev_manager.c, build_dm_uuid).
func (c *check) kernel(vg *lvm.VG) {
	prefix := "LVM-" + bare(vg.UUID)
	for _, d := range c.devices {
		rest, ok := strings.CutPrefix(d.UUID, prefix)
		if !ok {
			continue
		}
		at := slices.IndexFunc(vg.LVs, func(lv lvm.LV) bool { return strings.HasPrefix(rest, bare(lv.UUID)) })
		if at < 0 {
			c.wrong("device %s belongs to no logical volume of group %s", d.Name, vg.Name)
			continue
		}
		c.device(vg, &vg.LVs[at], d)
	}
}

func bare(uuid string) string { return strings.ReplaceAll(uuid, "-", "") }

func (c *check) device(vg *lvm.VG, lv *lvm.LV, d lvm.DeviceInfo) {
	table, err := c.Client.Kernel().Table(d.Name)
	if err != nil {
		c.wrong("table of %s: %w", d.Name, err)
		return
	}
	var size int64
	for _, t := range table {
		size += int64(t.Length) * sector
	}
	if size != lv.Size {
		c.wrong("device %s has %d bytes, LVM's metadata says %d of %s", d.Name, size, lv.Size, lv.Name)
	}
	if lv.Thin == nil || len(table) != 1 {
		return
	}
	if want := " " + itoa(lv.Thin.DeviceID); table[0].Type != "thin" || !strings.Contains(table[0].Params+" ", want+" ") {
		c.wrong("device %s is %q %q, LVM's metadata says thin device%s", d.Name, table[0].Type, table[0].Params, want)
	}
	if d.ReadOnly != lv.ReadOnly {
		c.wrong("device %s: read-only is %t, LVM's metadata says %t", d.Name, d.ReadOnly, lv.ReadOnly)
	}
	if st, err := c.Client.ThinStatus(vg.Name, lv.Name); err != nil || st.Failed {
		c.wrong("thin volume %s/%s has failed (%v)", vg.Name, lv.Name, err)
	}
}

// pool compares the kernel's thin pool with LVM's.
func (c *check) pool(vg *lvm.VG, lv *lvm.LV) {
	st, err := c.Client.PoolStatus(vg.Name, lv.Name)
	switch {
	case errors.Is(err, lvm.ErrNotFound): // inactive
	case err != nil:
		c.wrong("thin pool %s/%s: %w", vg.Name, lv.Name, err)
	default:
		if st.Mode == lvm.PoolFailed || st.NeedsCheck {
			c.wrong("thin pool %s/%s has failed", vg.Name, lv.Name)
		}
		if st.MetadataSnapshot {
			c.wrong("thin pool %s/%s: a metadata snapshot was left behind", vg.Name, lv.Name)
		}
		if st.TransactionID != lv.Pool.TransactionID {
			c.wrong("thin pool %s/%s: the kernel is at transaction %d, LVM at %d", vg.Name, lv.Name, st.TransactionID, lv.Pool.TransactionID)
		}
	}
	if c.ThinIDs == nil {
		return
	}
	have, err := c.ThinIDs(vg.Name, lv.Name)
	if errors.Is(err, lvm.ErrNotFound) {
		return // inactive
	}
	if err != nil {
		c.wrong("thin devices of %s/%s: %w", vg.Name, lv.Name, err)
		return
	}
	var want []int64
	for _, v := range vg.LVs {
		if v.Thin != nil && v.Thin.Pool == lv.Name {
			want = append(want, v.Thin.DeviceID)
		}
	}
	if slices.Sort(want); !slices.Equal(have, want) {
		c.wrong("thin pool %s/%s: the kernel has the thin devices %d, LVM %d", vg.Name, lv.Name, have, want)
	}
}
