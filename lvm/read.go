package lvm

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// cached is the metadata that a PV held at one generation. The token is held while it is
// read and parsed: of the many that ask after a change, one parses for all.
type cached struct {
	token      chan struct{}
	generation Generation
	vg         *VG
	volumes    volumeTexts
	reading    time.Time // since when, zero: it is not read; with Client.mu
}

// ReadVG reads the metadata of a volume group from its physical volumes, without
// a process and without LVM's lock: a commit replaces the text at once. A device
// that cannot be read is passed over while another can; the newest copy counts.
func (c *Client) ReadVG(g Group) (*VG, error) {
	var newest *VG
	var errs []error
	for _, dev := range g.Devices {
		vg, err := c.readPV(dev)
		switch {
		case err != nil:
			errs = append(errs, err)
		case vg.Name != g.Name:
			errs = append(errs, fmt.Errorf("%s: %w: it belongs to volume group %s", dev, ErrNotFound, vg.Name))
		case newest == nil || vg.Seqno > newest.Seqno:
			newest = vg
		}
	}
	if newest == nil {
		return nil, fmt.Errorf("read volume group %s: %w", g.Name, errors.Join(errs...))
	}
	return newest, nil
}

// readPV gives up on a disk that does not answer: the read itself cannot be ended, and
// no other begins before it has.
func (c *Client) readPV(dev DevicePath) (*VG, error) {
	c.mu.Lock()
	have := c.cache[dev]
	if have == nil {
		have = &cached{token: make(chan struct{}, 1)}
		c.cache[dev] = have
	}
	hangs := !have.reading.IsZero() && time.Since(have.reading) >= diskTime
	c.mu.Unlock()
	silent := func() error {
		return fmt.Errorf("%s: %w: a read has not ended after %v; the disk hangs, or its device is suspended", dev, ErrPending, diskTime)
	}
	if hangs {
		return nil, silent()
	}
	timer := time.NewTimer(diskTime)
	defer timer.Stop()
	select {
	case have.token <- struct{}{}:
	case <-timer.C:
		return nil, silent()
	}
	c.mu.Lock()
	have.reading = time.Now()
	c.mu.Unlock()
	var vg *VG
	done := make(chan error, 1)
	go func() {
		err := c.refresh(dev, have)
		if err == nil {
			vg = have.vg
		}
		c.mu.Lock()
		have.reading = time.Time{}
		c.mu.Unlock()
		<-have.token
		done <- err
	}()
	select {
	case err := <-done:
		return vg, err
	case <-timer.C:
		return nil, silent()
	}
}

// refresh reads what the disk holds if it is not what the caller's entry has.
func (c *Client) refresh(dev DevicePath, have *cached) error {
	raw, err := c.kernel.ReadMetadata(dev, have.generation)
	if err != nil || raw.Text == nil {
		return err
	}
	vg, err := have.volumes.parse(raw)
	if err != nil {
		return fmt.Errorf("%s: %w", dev, err)
	}
	have.generation, have.vg = raw.Generation, vg
	return nil
}

// ThinStatus asks the kernel about an active thin volume.
func (c *Client) ThinStatus(vg VGName, lv LVName) (ThinStatus, error) {
	t, err := c.oneTarget(DMName(vg, lv, ""), "thin")
	if err != nil {
		return ThinStatus{}, err
	}
	return parseThinStatus(t.Params)
}

// PoolStatus asks the kernel about an active thin pool. While a command of this
// client is at work on the group, a pool that cannot be seen is as it was last: LVM
// takes its device away and makes another when the first volume is made.
func (c *Client) PoolStatus(vg VGName, pool LVName) (PoolStatus, error) {
	st, err := c.poolStatus(vg, pool)
	if isNotFound(err) {
		if c.busy(vg) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if last, ok := c.pools[vg]; ok {
				return last, nil
			}
			return st, err
		}
		// The command may have ended since.
		st, err = c.poolStatus(vg, pool)
	}
	if err == nil {
		c.mu.Lock()
		c.pools[vg] = st
		c.mu.Unlock()
	}
	return st, err
}

func (c *Client) poolStatus(vg VGName, pool LVName) (PoolStatus, error) {
	t, err := c.oneTarget(DMName(vg, pool, "tpool"), "thin-pool")
	if isNotFound(err) {
		// LVM activates a pool without the layer until its first volume is made
		// (lv_is_new_thin_pool(), lib/metadata/thin_manip.c).
		t, err = c.oneTarget(DMName(vg, pool, ""), "thin-pool")
	}
	if err != nil {
		return PoolStatus{}, err
	}
	return parsePoolStatus(t.Params)
}

// busy reports whether a command holds the group.
func (c *Client) busy(vg VGName) bool {
	return slices.ContainsFunc(c.Running(), func(r Running) bool { return r.VG == vg })
}

func (c *Client) oneTarget(name, kind string) (Target, error) {
	targets, err := c.kernel.Status(name)
	if err != nil {
		return Target{}, err
	}
	if len(targets) == 0 {
		return Target{}, fmt.Errorf("status of %s: %w: it has no table", name, ErrNotFound)
	}
	if len(targets) != 1 || targets[0].Type != kind {
		return Target{}, fmt.Errorf("status of %s: %w: it is no %s device", name, ErrInvalid, kind)
	}
	return targets[0], nil
}
