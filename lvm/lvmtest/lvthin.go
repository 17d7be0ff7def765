package lvmtest

func (c *call) createThin(l *lv, poolName string) error {
	extents, err := c.extents("--virtualsize")
	if err != nil {
		return err
	}
	pool := l.vg.find(poolName)
	if pool == nil || pool.first().kind != "thin-pool" {
		return failed("Pool %s not found in Volume group %s.", poolName, l.vg.name)
	}
	l.segs = []*segment{{kind: "thin", extents: extents, pool: pool}}
	return c.addThin(l, c.args.str("--activate") != "n")
}

func (c *call) createSnapshot(l *lv, originName string) error {
	origin := l.vg.find(originName)
	if origin == nil {
		return failed("Snapshot origin LV %s not found in Volume group %s.", originName, l.vg.name)
	}
	if origin.first().kind != "thin" {
		return usage("lvcreate", "a snapshot of a volume that is not thin needs a size")
	}
	l.segs = []*segment{{kind: "thin", extents: origin.extents(), pool: origin.first().pool, origin: origin}}
	active := (!l.skipActivation || c.args.has("--ignoreactivationskip")) && c.args.str("--activate") != "n"
	return c.addThin(l, active)
}

// addThin follows lib/metadata/lv_manip.c, lv_create_single(): the LV and a
// message for the kernel are committed, the message is sent, and the LV is
// committed again without it. An active origin is suspended meanwhile.
func (c *call) addThin(l *lv, activate bool) error {
	h, v, t := c.h, l.vg, l.first()
	wasActive := h.poolDevice(t.pool) != nil
	origin, err := c.queueThin(l)
	if err != nil {
		return err
	}
	h.commit(v, "lvcreate")
	if err := c.at(Committed); err != nil {
		return err
	}
	tpool, err := h.activatePool(t.pool, func() error { return c.at(Created) })
	if err != nil {
		return err
	}
	h.commit(v, "lvcreate")
	if origin != nil {
		h.resume(origin)
	}
	if err := c.at(Inactive); err != nil {
		return err
	}
	switch own := h.deviceOf(t.pool); {
	case activate:
		if _, err := h.activate(l); err != nil {
			return err
		}
	case !wasActive && own != nil:
		return h.deactivate(t.pool)
	case !wasActive:
		h.dropUnused([]*device{tpool})
	}
	c.print("  Logical volume %q created.\n", l.name)
	return nil
}

// queueThin adds the LV and the message for the kernel, and suspends an active
// origin, which it returns.
func (c *call) queueThin(l *lv) (*device, error) {
	t := l.first()
	pool := t.pool.first()
	if _, err := c.h.activatePool(t.pool, func() error { return nil }); err != nil {
		return nil, err
	}
	threshold := failed("Cannot create new thin volume, free space in thin pool %s reached threshold.", t.pool.path())
	switch {
	case pool.kernel.txID != pool.txID:
		return nil, failed("WARNING: Thin pool %s has unexpected transaction id %d, expecting %d.",
			t.pool.path(), pool.kernel.txID, pool.txID).and("%s", threshold)
	case pool.full():
		return nil, threshold
	}
	m := message{device: 1, origin: -1}
	for _, o := range l.vg.lvs {
		if o.first().pool == t.pool {
			m.device = max(m.device, o.first().deviceID+1)
		}
	}
	t.deviceID, t.txID = m.device, pool.txID
	pool.txID++
	l.vg.lvs = append(l.vg.lvs, l)
	var origin *device
	if t.origin != nil {
		m.origin = t.origin.first().deviceID
		origin = c.h.deviceOf(t.origin)
	}
	if origin != nil && origin.suspended {
		// LVM sends the message while it suspends the origin. One that somebody
		// else suspended it passes over, message and all, and reports success:
		// the kernel never makes the snapshot (seen with 2.03.31).
		return origin, nil
	}
	if origin != nil {
		origin.suspended = true
	}
	pool.messages = append(pool.messages, m)
	return origin, nil
}

// removeThin deletes the thin device and forgets it as an origin. Where the
// kernel's transaction is another, LVM has forgotten the LV before it notices.
func (c *call) removeThin(l *lv) error {
	t := l.first()
	pool := t.pool.first()
	wasActive := c.h.poolDevice(t.pool) != nil
	tpool, err := c.h.activatePool(t.pool, func() error { return nil })
	if err != nil {
		return err
	}
	for _, o := range l.vg.lvs {
		if o.first().origin == l {
			o.first().origin = nil
		}
	}
	if pool.kernel.txID != pool.txID {
		l.vg.drop(l)
		c.h.commit(l.vg, "lvremove")
		return pool.outOfStep(t.pool.path())
	}
	pool.txID++
	pool.messages = append(pool.messages, message{device: t.deviceID, remove: true})
	l.vg.drop(l)
	c.h.commit(l.vg, "lvremove")
	if err := c.at(Committed); err != nil {
		return err
	}
	if err := pool.send(t.pool.path(), func() error { return c.at(Created) }); err != nil {
		return err
	}
	pool.checkSpace()
	if !wasActive {
		c.h.dropUnused([]*device{tpool})
	}
	return nil
}
