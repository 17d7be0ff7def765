package lvmtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

type row map[string]string

// fullreport gives every column that it knows, whatever -o asks for.
func (c *call) fullreport() error {
	if c.args.str("--reportformat") != "json" || c.args.str("--units") != "b" || !c.args.has("--nosuffix") {
		return usage("fullreport", "only JSON in bytes is known here")
	}
	type group struct {
		VG    []row `json:"vg"`
		PV    []row `json:"pv"`
		LV    []row `json:"lv"`
		PVSeg []row `json:"pvseg"`
		Seg   []row `json:"seg"`
	}
	doc := struct {
		Report []group `json:"report"`
		Log    []row   `json:"log"`
	}{Report: []group{}, Log: []row{}}
	var missing bool
	for _, name := range slices.Sorted(maps.Keys(c.h.vgs)) {
		v, err := c.group(name, false)
		if err != nil {
			continue // none of its disks is among the devices
		}
		g := group{VG: []row{c.vgRow(v)}}
		for _, p := range v.pvs {
			g.PV = append(g.PV, c.pvRow(p))
			missing = missing || c.unseen(p)
		}
		for _, l := range v.lvs {
			g.LV = append(g.LV, c.lvRow(l))
			for _, seg := range l.segs {
				g.Seg = append(g.Seg, row{"lv_uuid": l.uuid, "segtype": seg.segtype()})
			}
		}
		doc.Report = append(doc.Report, g)
	}
	if missing {
		doc.Log = append(doc.Log, row{"log_type": "warn", "log_message": "VG is missing a PV"})
	}
	text, err := json.MarshalIndent(doc, "  ", "    ")
	if err != nil {
		return err
	}
	c.stdout = append(text, '\n')
	return nil
}

func (c *call) unseen(p *pv) bool {
	devices := c.args.devices()
	return p.away() || p.disk.failing || devices != nil && !devices[p.disk.path]
}

func (c *call) vgRow(v *vg) row {
	var size, missing int64
	for _, p := range v.pvs {
		size += p.peCount
		if c.unseen(p) {
			missing++
		}
	}
	return row{
		"vg_name": v.name, "vg_uuid": v.uuid,
		"vg_size": num(size * extentSize), "vg_free": num(v.free() * extentSize),
		"vg_missing_pv_count": num(missing), "vg_tags": reportTags(v.tags),
	}
}

func (c *call) pvRow(p *pv) row {
	r := row{"pv_name": p.disk.path, "pv_uuid": p.uuid, "pv_size": num(p.peCount * extentSize), "pv_missing": ""}
	if c.unseen(p) {
		r["pv_name"], r["pv_missing"] = "[unknown]", "missing"
	}
	return r
}

func (c *call) lvRow(l *lv) row {
	s := l.first()
	r := row{
		"lv_name": l.name, "lv_uuid": l.uuid, "lv_size": num(l.size()),
		"pool_lv": "", "origin": "", "lv_tags": reportTags(l.tags), "lv_active": "",
	}
	if !l.visible {
		r["lv_name"] = "[" + l.name + "]"
	}
	if s.pool != nil {
		r["pool_lv"] = s.pool.name
	}
	if s.origin != nil {
		r["origin"] = s.origin.name
	}
	if c.h.deviceOf(l) != nil || c.h.poolDevice(l) != nil {
		r["lv_active"] = "active"
	}
	return r
}

// reportTags is sorted: lvm sorts a list field.
func reportTags(tags []string) string {
	return strings.Join(slices.Sorted(slices.Values(tags)), ",")
}

func num(n int64) string { return strconv.FormatInt(n, 10) }

func (c *call) version() error {
	c.stdout = fmt.Appendf(nil, "  LVM version:     %s\n  Library version: %s\n  Driver version:  %s\n",
		"2.03.31(2) (2025-02-27)", "1.02.205 (2025-02-27)", "4.48.0")
	return nil
}
