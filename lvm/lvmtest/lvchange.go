package lvmtest

import (
	"slices"
	"strings"
)

// notFound is tools/toollib.c, _process_lv_vgnameid_list().
func notFound(v *vg, name string) *failure {
	return failed("Failed to find logical volume \"%s/%s\"", v.name, name)
}

// volumes finds the LVs that the positional arguments name.
func (c *call) volumes(needAll bool) ([]*lv, error) {
	if len(c.args.pos) == 0 {
		return nil, usage(c.cmd.Name, "a volume is needed")
	}
	v, err := c.group(c.args.vg(), needAll)
	if err != nil {
		return nil, err
	}
	var out []*lv
	for _, p := range c.args.pos {
		group, name, ok := strings.Cut(p, "/")
		if !ok || group != v.name {
			// lvm takes "vg" for all of its LVs. The client must never say that.
			return nil, usage(c.cmd.Name, "positional argument "+p+" is not "+v.name+"/lv")
		}
		l := v.find(name)
		if l == nil {
			return nil, notFound(v, name)
		}
		if !l.visible {
			return nil, failed("Operation not permitted on hidden LV %s.", l.path())
		}
		out = append(out, l)
	}
	return out, nil
}

func (c *call) lvchange() error {
	if c.args.has("--addtag") || c.args.has("--deltag") {
		return c.changeTags()
	}
	lvs, err := c.volumes(false)
	if err != nil {
		return err
	}
	for _, l := range lvs {
		switch {
		case c.args.has("--refresh"):
			err = c.refresh(l)
		case c.args.str("--activate") == "y":
			if l.skipActivation && !c.args.has("--ignoreactivationskip") {
				continue
			}
			_, err = c.h.activate(l)
		case c.args.str("--activate") == "n":
			err = c.deactivate(l)
		default:
			return usage("lvchange", "nothing to change")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *call) changeTags() error {
	lvs, err := c.volumes(true)
	if err != nil {
		return err
	}
	added := strings.Join(c.args.values["--addtag"], "______")
	if err := lvs[0].vg.roomFor(len(added) * len(lvs)); err != nil && added != "" {
		return err
	}
	for _, l := range lvs {
		l.tags = mergeTags(l.tags, c.args.values["--addtag"], c.args.values["--deltag"])
		c.h.commit(l.vg, "lvchange")
		c.print("  Logical volume %s changed.\n", l.path())
	}
	return nil
}

// deactivate refuses an open device. A pool's own device goes, the rest of the
// pool stays while thin volumes use it.
func (c *call) deactivate(l *lv) error {
	d := c.h.deviceOf(l)
	if d == nil && l.first().kind == "thin-pool" {
		if t := c.h.poolDevice(l); t != nil {
			if c.h.openCount(t) > 0 {
				return inUse(l)
			}
			c.h.dropUnused([]*device{t})
		}
		return nil
	}
	return c.h.deactivate(l)
}

// refresh reloads tables from the metadata and resumes, the pool included.
func (c *call) refresh(l *lv) error {
	if c.h.deviceOf(l) == nil && c.h.poolDevice(l) == nil {
		return nil
	}
	if _, err := c.h.activate(l); err != nil {
		return err
	}
	c.h.reload(l)
	return nil
}

// reload makes the tables of an LV, and of all below it, follow the metadata.
func (h *Host) reload(l *lv) {
	for _, child := range l.children() {
		h.reload(child)
	}
	if len(l.segs) > 0 && l.first().pool != nil {
		h.reload(l.first().pool)
	}
	for _, d := range h.devices {
		if d.lv == l {
			d.loaded, d.readOnly = nil, l.readOnly
			d.live = h.table(d)
			h.resume(d)
		}
	}
}

func (c *call) lvremove() error {
	if !c.args.has("--yes") {
		return failed("Do you really want to remove active logical volume? [y/n]: [n]").and("Logical volume not removed.")
	}
	lvs, err := c.volumes(false)
	if err != nil {
		return err
	}
	for _, l := range lvs {
		if err := c.remove(l); err != nil {
			return err
		}
	}
	return nil
}

func (c *call) remove(l *lv) error {
	v := l.vg
	var users []*lv
	for _, o := range v.lvs {
		if len(o.segs) > 0 && o.first().pool == l {
			users = append(users, o)
		}
	}
	for _, o := range append(slices.Clone(users), l) {
		if d := c.h.deviceOf(o); d != nil && d.opens > 0 {
			return inUse(o)
		}
	}
	for _, o := range users {
		if err := c.remove(o); err != nil {
			return err
		}
	}
	if err := c.h.deactivate(l); err != nil {
		return err
	}
	if t := c.h.poolDevice(l); t != nil {
		c.h.dropUnused([]*device{t})
	}
	if err := c.at(Inactive); err != nil {
		return err
	}
	if l.first().kind == "thin" {
		if err := c.removeThin(l); err != nil {
			return err
		}
	}
	v.dropTree(l)
	pools := slices.ContainsFunc(v.lvs, func(o *lv) bool { return o.first().kind == "thin-pool" })
	if spare := v.find("lvol0_pmspare"); spare != nil && !pools {
		v.drop(spare)
	}
	c.h.commit(v, "lvremove")
	c.print("  Logical volume %q successfully removed.\n", l.name)
	return nil
}

func (v *vg) dropTree(l *lv) {
	for _, child := range l.children() {
		v.dropTree(child)
	}
	v.drop(l)
}
