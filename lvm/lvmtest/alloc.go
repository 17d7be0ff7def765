package lvmtest

import (
	"cmp"
	"slices"
)

// area is a run of extents on a PV.
type area struct {
	pv *pv
	pe int64
}

// run is a free run of extents.
type run struct {
	area
	count int64
}

// freeRuns lists the free extents of the PVs that are there, in order. Only
// striped segments (a linear one has one stripe) lie on PVs.
func (v *vg) freeRuns() []run {
	used := map[*pv][]run{}
	for _, l := range v.lvs {
		for _, s := range l.segs {
			for _, a := range s.stripes {
				used[a.pv] = append(used[a.pv], run{a, s.extents / int64(len(s.stripes))})
			}
		}
	}
	var out []run
	for _, p := range v.pvs {
		if p.away() {
			continue
		}
		runs := append(used[p], run{area{p, p.peCount}, 0})
		slices.SortFunc(runs, func(a, b run) int { return cmp.Compare(a.pe, b.pe) })
		var next int64
		for _, r := range runs {
			if r.pe > next {
				out = append(out, run{area{p, next}, r.pe - next})
			}
			next = r.pe + r.count
		}
	}
	return out
}

func (v *vg) free() int64 {
	var n int64
	for _, r := range v.freeRuns() {
		n += r.count
	}
	return n
}

// layout is how an LV is spread: images hold the same data (raid1, raid10),
// stripes share it.
type layout struct {
	raid            string // "", raid1, raid10
	images, stripes int
}

// legs is how many LVs or stripes must lie on different PVs.
func (l layout) legs() int { return l.images * l.stripes }

// round is the size in extents, rounded up so that the stripes are equal.
func (l layout) round(extents int64) int64 {
	n := int64(l.stripes)
	return (extents + n - 1) / n * n
}

// allocate finds extents. For a plain layout the result has one element, the
// segments; for raid one for each image, each of extents/stripes.
func (v *vg) allocate(l layout, extents int64) ([][]*segment, error) {
	needed := extents
	if l.raid != "" {
		needed = extents * int64(l.images)
	}
	runs := v.freeRuns()
	if have := v.free(); have < needed {
		// lib/metadata/lv_manip.c.
		return nil, failed("Volume group %q has insufficient free space (%d extents): %d required.", v.name, have, needed)
	}
	if l.legs() == 1 {
		return [][]*segment{takeAny(runs, extents)}, nil
	}
	legs, ok := takeApart(runs, l.legs(), extents/int64(l.stripes))
	if !ok {
		return nil, failed("Insufficient suitable allocatable extents for logical volume : %d more required", extents)
	}
	if l.raid == "" {
		return [][]*segment{{{kind: "striped", extents: extents, stripes: legs}}}, nil
	}
	var out [][]*segment
	for _, a := range legs {
		out = append(out, []*segment{{kind: "striped", extents: extents / int64(l.stripes), stripes: []area{a}}})
	}
	return out, nil
}

// takeAny takes linear segments from wherever there is room, first a run that
// holds all.
func takeAny(runs []run, extents int64) []*segment {
	for _, r := range runs {
		if r.count >= extents {
			return []*segment{{kind: "striped", extents: extents, stripes: []area{r.area}}}
		}
	}
	var out []*segment
	for _, r := range runs {
		n := min(r.count, extents)
		if n > 0 {
			out = append(out, &segment{kind: "striped", extents: n, stripes: []area{r.area}})
			extents -= n
		}
	}
	return out
}

// takeApart takes one run on each of so many PVs.
func takeApart(runs []run, legs int, extents int64) ([]area, bool) {
	var out []area
	for _, r := range runs {
		other := !slices.ContainsFunc(out, func(a area) bool { return a.pv == r.pv })
		if other && r.count >= extents && len(out) < legs {
			out = append(out, r.area)
		}
	}
	return out, len(out) == legs
}
