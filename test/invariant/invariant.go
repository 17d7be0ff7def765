// Package invariant holds what must be true of a node after every test, whatever
// the test did to it: one set of rules for the in-memory host and, through the real
// lvm and device-mapper, for a machine.
//
// It reads LVM's tags by itself, as docs/pools.md describes them, and shares no code
// with the packages that write them.
package invariant

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/lamina-csi/lamina/lvm"
)

// Node is what the rules look at. Each field but Client and Devices may be nil.
type Node struct {
	Client *lvm.Client
	// Devices lists every device-mapper device.
	Devices func() ([]lvm.DeviceInfo, error)
	// ThinIDs lists the devices that the kernel has in a thin pool.
	ThinIDs func(vg lvm.VGName, pool lvm.LVName) ([]int64, error)
	// Mounts lists what is mounted of volumes.
	Mounts func() ([]Mount, error)
	// Data reads acknowledged data back.
	Data func() error
}

// Mount is something mounted.
type Mount struct {
	Device string // /dev/dm-3, or /dev/mapper/luks-… with what it lies on in Below
	Below  string
	Path   string
	Frozen bool
}

// Check returns everything that is wrong, joined.
func Check(ctx context.Context, n Node) error {
	report, err := n.Client.FullReport(ctx)
	if err != nil && len(report.VGs) == 0 && report.Incomplete == nil {
		return fmt.Errorf("look at the node: %w", err)
	}
	devices, err := n.Devices()
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	c := &check{Node: n, devices: devices}
	for _, vg := range report.VGs {
		if slices.ContainsFunc(vg.Tags, func(t lvm.Tag) bool { return strings.HasPrefix(t.String(), "lamina.pool=") }) {
			c.group(vg)
		}
	}
	c.suspensions()
	c.mounts()
	if n.Data != nil {
		c.add(n.Data())
	}
	return errors.Join(c.errs...)
}

type check struct {
	Node
	devices []lvm.DeviceInfo
	errs    []error
}

func (c *check) add(err error) {
	if err != nil {
		c.errs = append(c.errs, err)
	}
}

func (c *check) wrong(format string, args ...any) { c.add(fmt.Errorf(format, args...)) }

// group holds a volume group of ours to the rules. A group with a missing disk is
// judged by what is there.
func (c *check) group(r lvm.VGReport) {
	g := lvm.Group{Name: r.Name}
	for _, pv := range r.PVs {
		if dev, err := lvm.ParseDevicePath(pv.Device); err == nil && !pv.Missing {
			g.Devices = append(g.Devices, dev)
		}
	}
	vg, err := c.Client.ReadVG(g)
	if err != nil {
		c.wrong("volume group %s: LVM reports it, and its metadata cannot be read: %w", r.Name, err)
		return
	}
	c.agree(r, vg)
	for i := range vg.LVs {
		c.add(tagsOf(vg, &vg.LVs[i]))
	}
	c.kernel(vg)
	for i := range vg.LVs {
		if vg.LVs[i].Pool != nil {
			c.pool(vg, &vg.LVs[i])
		}
	}
}

// agree compares what lvm reports with what the metadata on the disk says.
func (c *check) agree(r lvm.VGReport, vg *lvm.VG) {
	describe := func(name string, size int64, tags []lvm.Tag) string {
		tags = slices.SortedFunc(slices.Values(tags), func(a, b lvm.Tag) int { return strings.Compare(a.String(), b.String()) })
		return fmt.Sprintf("%s of %d bytes %s", name, size, tags)
	}
	onDisk := map[string]string{}
	for _, lv := range vg.LVs {
		onDisk[lv.UUID] = describe(lv.Name.String(), lv.Size, lv.Tags)
	}
	for _, lv := range r.LVs {
		reported := describe(strings.Trim(lv.Name, "[]"), lv.Size, lv.Tags)
		if onDisk[lv.UUID] != reported {
			c.wrong("volume group %s: lvm reports %q, the disk says %q", vg.Name, reported, onDisk[lv.UUID])
		}
		delete(onDisk, lv.UUID)
	}
	for _, lv := range onDisk {
		c.wrong("volume group %s: the disk says %q, lvm does not report it", vg.Name, lv)
	}
}

// suspensions: nothing is suspended once all calls have ended.
func (c *check) suspensions() {
	for _, d := range c.devices {
		if d.Suspended {
			c.wrong("device %s is suspended", d.Name)
		}
	}
}

// mounts: what is mounted lies on a device that is there, once at a path, and its
// writers are not held.
func (c *check) mounts() {
	if c.Mounts == nil {
		return
	}
	list, err := c.Mounts()
	c.add(err)
	seen := map[string]bool{}
	for _, m := range list {
		below := m.Device
		if m.Below != "" {
			below = m.Below
		}
		there := slices.ContainsFunc(c.devices, func(d lvm.DeviceInfo) bool { return d.Path() == below })
		switch {
		case !there:
			c.wrong("%s is mounted at %q, and no such device is there", m.Device, m.Path)
		case m.Path != "" && seen[m.Path]:
			c.wrong("two mounts lie at %s", m.Path)
		case m.Frozen:
			c.wrong("what is mounted at %s is frozen", m.Path)
		}
		seen[m.Path] = true
	}
}
