package lvmtest

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/lamina-csi/lamina/lvm"
)

// device is a device-mapper device.
type device struct {
	name, uuid string
	minor      int
	lv         *lv
	below      []*device // what its table refers to
	live       []lvm.Target
	loaded     []lvm.Target
	loadedRO   bool
	opens      int // by users; devices above count too, see openCount
	suspended  bool
	readOnly   bool
}

// major of device-mapper, as Debian's kernels give it.
const major = 254

func dmName(v *vg, name, layer string) string {
	out := strings.ReplaceAll(v.name, "-", "--") + "-" + strings.ReplaceAll(name, "-", "--")
	if layer != "" {
		out += "-" + layer
	}
	return out
}

func (h *Host) deviceOf(l *lv) *device { return h.devices[dmName(l.vg, l.name, "")] }

// poolDevice is the one of an active pool that its thin volumes use.
func (h *Host) poolDevice(pool *lv) *device {
	if d := h.devices[dmName(pool.vg, pool.name, "tpool")]; d != nil {
		return d
	}
	if d := h.deviceOf(pool); d != nil && len(d.below) == 2 {
		return d
	}
	return nil
}

// openCount is what the kernel counts: users and the devices above.
func (h *Host) openCount(d *device) int {
	n := d.opens
	for _, up := range h.devices {
		if slices.Contains(up.below, d) {
			n++
		}
	}
	return n
}

func (h *Host) addDevice(l *lv, layer string, below ...*device) *device {
	name := dmName(l.vg, l.name, layer)
	if d := h.devices[name]; d != nil {
		return d
	}
	d := &device{name: name, lv: l, below: below, readOnly: l.readOnly}
	strip := func(s string) string { return strings.ReplaceAll(s, "-", "") }
	d.uuid = "LVM-" + strip(l.vg.uuid) + strip(l.uuid)
	switch {
	case layer != "":
		d.uuid += "-" + layer
	case l.segs[0].kind == "thin-pool":
		d.uuid += "-pool"
	case strings.HasSuffix(l.name, "_tdata"):
		d.uuid += "-tdata"
	case strings.HasSuffix(l.name, "_tmeta"):
		d.uuid += "-tmeta"
	}
	taken := map[int]bool{}
	for _, o := range h.devices {
		taken[o.minor] = true
	}
	for taken[d.minor] {
		d.minor++
	}
	h.devices[name] = d
	d.live = h.table(d)
	return d
}

func (h *Host) removeDevice(d *device) {
	delete(h.devices, d.name)
	h.wake.Broadcast()
}

// activate makes the device of an LV and what lies below it.
func (h *Host) activate(l *lv) (*device, error) {
	if d := h.deviceOf(l); d != nil {
		return d, nil
	}
	if l.onMissing() {
		return nil, failed("Refusing activation of partial LV %s.  Use '--activationmode partial' to override.", l.path())
	}
	s := l.first()
	switch s.kind {
	case "thin":
		tpool, err := h.activatePool(s.pool, func() error { return nil })
		if err != nil {
			return nil, err
		}
		if s.pool.first().kernel.devices[s.deviceID] == nil {
			return nil, failed("device-mapper: reload ioctl on  (%d:%d) failed: No data available", major, len(h.devices))
		}
		return h.addDevice(l, "", tpool), nil
	case "thin-pool":
		d, err := h.activatePool(l, func() error { return nil })
		if err != nil || d.name == dmName(l.vg, l.name, "") {
			return d, err
		}
		return h.addDevice(l, "", d), nil
	}
	var below []*device
	for _, child := range l.children() {
		d, err := h.activateChild(child)
		if err != nil {
			return nil, err
		}
		below = append(below, d)
	}
	return h.addDevice(l, "", below...), nil
}

// activateChild is for a raid's images, of which some may be on missing disks.
func (h *Host) activateChild(l *lv) (*device, error) {
	if l.onMissing() {
		return h.addDevice(l, ""), nil
	}
	return h.activate(l)
}

// activatePool makes tdata, tmeta and the pool's device, and sends pending
// messages; pause is called after them. A pool without volumes has no layer: its
// own device is the pool until the first transaction.
func (h *Host) activatePool(pool *lv, pause func() error) (*device, error) {
	s := pool.first()
	d := h.poolDevice(pool)
	if d == nil {
		meta, err := h.activate(s.meta)
		if err != nil {
			return nil, err
		}
		data, err := h.activate(s.data)
		if err != nil {
			return nil, err
		}
		d = h.addDevice(pool, poolLayer(s), meta, data)
	} else if len(s.messages) == 0 {
		return d, nil // LVM looks at the transaction only when it has to do
	}
	if err := s.send(pool.path(), pause); err != nil {
		return nil, err
	}
	if own := h.deviceOf(pool); own == d && s.txID > 0 {
		below := own.below
		own.below = nil
		d = h.addDevice(pool, "tpool", below...)
		own.below = []*device{d}
		own.live = h.table(own)
	}
	return d, nil
}

func poolLayer(s *segment) string {
	if s.txID == 0 {
		return ""
	}
	return "tpool"
}

// deactivate takes the device of an LV away, and what only it needed.
func (h *Host) deactivate(l *lv) error {
	d := h.deviceOf(l)
	if d == nil {
		return nil
	}
	if h.openCount(d) > 0 {
		return inUse(l)
	}
	h.removeDevice(d)
	h.dropUnused(d.below)
	return nil
}

// dropUnused removes hidden devices that nothing uses any more.
func (h *Host) dropUnused(devices []*device) {
	for _, d := range devices {
		if h.devices[d.name] == d && h.openCount(d) == 0 {
			h.removeDevice(d)
			h.dropUnused(d.below)
		}
	}
}

// inUse is lib/activate/activate.c, lv_check_not_in_use().
func inUse(l *lv) *failure { return failed("Logical volume %s in use.", l.path()) }

// Device is the content of a block device.
type Device = interface {
	io.ReaderAt
	io.WriterAt
	Size() int64
}

// Device gives the content of a disk or of an active volume, by its path:
// /dev/dm-N, /dev/mapper/NAME, /dev/VG/LV or a disk's. I/O on a suspended device
// waits for its resume; a write that needs room in a full pool fails with ENOSPC.
func (h *Host) Device(path string) (Device, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.disks[path]; d != nil && !d.missing {
		return &diskContent{h, d}, nil
	}
	d, err := h.byPath(path)
	if err != nil {
		return nil, err
	}
	return &content{h, d}, nil
}

// byPath finds a device-mapper device.
func (h *Host) byPath(path string) (*device, error) {
	rest, ok := strings.CutPrefix(path, "/dev/")
	if !ok {
		return nil, fmt.Errorf("open %s: %w", path, lvm.ErrNotFound)
	}
	if name, ok := strings.CutPrefix(rest, "mapper/"); ok && h.devices[name] != nil {
		return h.devices[name], nil
	}
	number, isMinor := strings.CutPrefix(rest, "dm-")
	minor, err := strconv.Atoi(number)
	group, name, isVG := strings.Cut(rest, "/")
	for _, d := range h.devices {
		if isMinor && err == nil && d.minor == minor {
			return d, nil
		}
		if isVG && d.lv.vg.name == group && d.name == dmName(d.lv.vg, name, "") {
			return d, nil
		}
	}
	return nil, fmt.Errorf("open %s: %w", path, lvm.ErrNotFound)
}

// Open counts one more user of the device, such as a mount.
func (h *Host) Open(path string) error { return h.addOpens(path, 1) }

// Close undoes one Open.
func (h *Host) Close(path string) error { return h.addOpens(path, -1) }

func (h *Host) addOpens(path string, n int) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.byPath(path)
	if err != nil {
		return err
	}
	if d.opens+n < 0 {
		return fmt.Errorf("close %s: %w: it is not open", path, syscall.EBADF)
	}
	d.opens += n
	return nil
}

// Reboot ends every activation, suspension and open, as a power cut does, and
// restarts a crashed agent. Disks keep what they hold. LVM activates nothing by
// itself afterwards.
func (h *Host) Reboot() {
	h.mu.Lock()
	h.devices = map[string]*device{}
	h.wake.Broadcast()
	h.mu.Unlock()
	h.Restart()
}

// FillMetadata uses up so many of a pool's metadata blocks of 4 KiB; a negative
// number gives them back.
func (h *Host) FillMetadata(vgName, pool string, blocks int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.vgs[vgName].find(pool).first()
	s.kernel.extraBlocks += blocks
	// calc_metadata_threshold() in drivers/md/dm-thin.c.
	if used, total := s.metadataBlocks(); total-used < min(1024, total/4) {
		h.raise()
	}
}
