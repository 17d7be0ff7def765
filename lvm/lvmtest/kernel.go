package lvmtest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"

	"github.com/lamina-csi/lamina/lvm"
)

func (h *Host) device(name string) (*device, error) {
	if d := h.devices[name]; d != nil {
		return d, nil
	}
	return nil, fmt.Errorf("device-mapper device %s: %w", name, lvm.ErrNotFound)
}

// Info implements lvm.Kernel.
func (h *Host) Info(name string) (lvm.DeviceInfo, error) {
	if err := h.alive(); err != nil {
		return lvm.DeviceInfo{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.device(name)
	if err != nil {
		return lvm.DeviceInfo{}, err
	}
	return h.info(d), nil
}

func (h *Host) info(d *device) lvm.DeviceInfo {
	return lvm.DeviceInfo{
		Name: d.name, UUID: d.uuid, Major: major, Minor: uint32(d.minor),
		OpenCount: h.openCount(d), Suspended: d.suspended, ReadOnly: d.readOnly, LiveTable: true,
	}
}

// Table implements lvm.Kernel.
func (h *Host) Table(name string) ([]lvm.Target, error) {
	if err := h.alive(); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.device(name)
	if err != nil {
		return nil, err
	}
	return append([]lvm.Target{}, d.live...), nil
}

// Status implements lvm.Kernel.
func (h *Host) Status(name string) ([]lvm.Target, error) {
	if err := h.alive(); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.device(name)
	if err != nil {
		return nil, err
	}
	out := append([]lvm.Target{}, d.live...)
	for i := range out {
		out[i].Params = h.status(d, out[i])
	}
	return out, nil
}

// Load implements lvm.Kernel. Only the length of a thin device's table may
// differ from the live one: that is all that the package does.
func (h *Host) Load(name string, table []lvm.Target, readOnly bool) error {
	return h.mutate("load", func() error {
		d, err := h.device(name)
		if err != nil {
			return err
		}
		if len(table) != 1 || len(d.live) != 1 || table[0].Type != "thin" ||
			table[0].Type != d.live[0].Type || table[0].Params != d.live[0].Params {
			return fmt.Errorf("load table of %s: %w: %v", name, syscall.EINVAL, table)
		}
		d.loaded, d.loadedRO = append([]lvm.Target{}, table...), readOnly
		return nil
	})
}

// Suspend implements lvm.Kernel.
func (h *Host) Suspend(name string) error {
	return h.mutate("suspend", func() error {
		d, err := h.device(name)
		if err != nil {
			return err
		}
		d.suspended = true
		return nil
	})
}

// Resume implements lvm.Kernel.
func (h *Host) Resume(name string) error {
	return h.mutate("resume", func() error {
		d, err := h.device(name)
		if err != nil {
			return err
		}
		h.resume(d)
		return nil
	})
}

func (h *Host) resume(d *device) {
	if d.loaded != nil {
		d.live, d.readOnly, d.loaded = d.loaded, d.loadedRO, nil
	}
	d.suspended = false
	h.wake.Broadcast()
}

// LoadTarget implements lvm.Kernel: the host knows the targets that it makes.
func (h *Host) LoadTarget(target string) error {
	switch target {
	case "linear", "striped", "raid", "thin", "thin-pool":
		return h.alive()
	}
	return fmt.Errorf("device-mapper target %s: %w", target, syscall.ENXIO)
}

// Expedite implements lvm.Kernel; see [Host.Expedited].
func (h *Host) Expedite() (restore func()) {
	h.expedited.Add(1)
	return sync.OnceFunc(func() { h.expedited.Add(-1) })
}

// Expedited reports whether the kernel is to end grace periods at once.
func (h *Host) Expedited() bool { return h.expedited.Load() > 0 }

// Message implements lvm.Kernel for thin pools, as pool_message() in
// drivers/md/dm-thin.c does.
func (h *Host) Message(name, text string) error {
	return h.mutate("message", func() error {
		d, err := h.device(name)
		if err != nil {
			return err
		}
		if d.live[0].Type != "thin-pool" {
			return fmt.Errorf("message %q to %s: %w", text, name, syscall.EINVAL)
		}
		if err := d.lv.first().kernel.message(text); err != nil {
			return fmt.Errorf("message %q to %s: %w", text, name, err)
		}
		return nil
	})
}

// raise sends a device-mapper event.
func (h *Host) raise() {
	h.events++
	close(h.eventMade)
	h.eventMade = make(chan struct{})
}

// WaitEvent implements lvm.Kernel.
func (h *Host) WaitEvent(ctx context.Context) error {
	for {
		if err := h.alive(); err != nil {
			return err
		}
		h.mu.Lock()
		if h.events > h.seen {
			h.seen = h.events
			h.mu.Unlock()
			return nil
		}
		made := h.eventMade
		h.mu.Unlock()
		select {
		case <-made:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ReadMetadata implements lvm.Kernel.
func (h *Host) ReadMetadata(dev lvm.DevicePath, known lvm.Generation) (lvm.RawMetadata, error) {
	if err := h.alive(); err != nil {
		return lvm.RawMetadata{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.disks[dev.String()]
	switch {
	case d == nil || d.missing:
		return lvm.RawMetadata{}, fmt.Errorf("open %s: %w", dev, lvm.ErrNotFound)
	case d.failing:
		return lvm.RawMetadata{}, fmt.Errorf("%s: read LVM label: %w", dev, syscall.EIO)
	case d.raw.Text == nil:
		return lvm.RawMetadata{}, fmt.Errorf("%s: LVM label: %w", dev, lvm.ErrNotFound)
	}
	raw := d.raw
	if raw.Generation == known {
		raw.Text = nil
	}
	return raw, nil
}

// Probe implements lvm.Kernel.
func (h *Host) Probe(dev lvm.DevicePath) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.disks[dev.String()]
	switch {
	case d == nil || d.missing:
		return fmt.Errorf("open %s: %w", dev, lvm.ErrNotFound)
	case d.failing:
		return fmt.Errorf("read %s: %w", dev, syscall.EIO)
	}
	return nil
}

// Flush implements lvm.Kernel.
func (h *Host) Flush(dev lvm.DevicePath) error {
	return h.mutate("flush", func() error {
		d := h.disks[dev.String()]
		switch {
		case d == nil || d.missing:
			return fmt.Errorf("flush %s: %w", dev, lvm.ErrNotFound)
		case d.failing:
			return fmt.Errorf("flush %s: %w", dev, syscall.EIO)
		}
		return nil
	})
}

// table is the live table of a new device, in the kernel's words
// (Documentation/admin-guide/device-mapper).
func (h *Host) table(d *device) []lvm.Target {
	l, s := d.lv, d.lv.first()
	ref := func(d *device) string { return fmt.Sprintf("%d:%d", major, d.minor) }
	whole := func(kind, params string) []lvm.Target {
		return []lvm.Target{{Length: uint64(l.size() / sectorSize), Type: kind, Params: params}}
	}
	switch {
	case s.kind == "thin":
		return whole("thin", fmt.Sprintf("%s %d", ref(d.below[0]), s.deviceID))
	case s.kind == "thin-pool" && len(d.below) == 2:
		return whole("thin-pool", fmt.Sprintf("%s %s %d %d 1 error_if_no_space ",
			ref(d.below[0]), ref(d.below[1]), s.chunk/sectorSize, s.lowWaterMark()))
	case s.kind == "thin-pool":
		return whole("linear", ref(d.below[0])+" 0")
	case len(s.images) > 0:
		params := fmt.Sprintf("%s 3 0 region_size 4096 %d", s.kind, len(s.images))
		for _, b := range d.below {
			params += " " + ref(b)
		}
		return whole("raid", params)
	}
	var out []lvm.Target
	var start uint64
	for _, s := range l.segs {
		length := uint64(s.extents * extentSize / sectorSize)
		t := lvm.Target{Start: start, Length: length, Type: "linear"}
		if len(s.stripes) > 1 {
			t.Type, t.Params = "striped", fmt.Sprintf("%d %d", len(s.stripes), stripeSize/sectorSize)
		}
		for _, a := range s.stripes {
			t.Params += fmt.Sprintf(" 259:%d %d", a.pv.disk.minor, (a.pv.peStart+a.pe*extentSize)/sectorSize)
		}
		t.Params = strings.TrimSpace(t.Params)
		out = append(out, t)
		start += length
	}
	return out
}

func (h *Host) status(d *device, t lvm.Target) string {
	s := d.lv.first()
	switch t.Type {
	case "thin":
		dev := s.pool.first().kernel.devices[s.deviceID]
		if dev == nil {
			return "Fail"
		}
		if len(dev.chunks) == 0 {
			return "0 -"
		}
		sectors := s.pool.first().chunk / sectorSize
		var highest int64
		for c := range dev.chunks {
			highest = max(highest, c)
		}
		return fmt.Sprintf("%d %d", int64(len(dev.chunks))*sectors, (highest+1)*sectors-1)
	case "thin-pool":
		mode := "rw"
		if s.kernel.outOfSpace {
			mode = "out_of_data_space"
		}
		used, total := s.metadataBlocks()
		return fmt.Sprintf("%d %d/%d %d/%d - %s discard_passdown error_if_no_space - %d ",
			s.kernel.txID, used, total, s.usedChunks(), s.totalChunks(), mode, min(1024, total/4))
	case "raid":
		n := t.Length
		return fmt.Sprintf("%s %d %s %d/%d idle 0 0 -", s.kind, len(s.images), strings.Repeat("A", len(s.images)), n, n)
	case "striped":
		return fmt.Sprintf("%d %s 1 %s", len(s.stripes), "259:0", strings.Repeat("A", len(s.stripes)))
	}
	return ""
}
