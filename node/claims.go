package node

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/node/disk"
)

// claims is which wanted pool would take which disk, before any is vetted.
type claims struct {
	candidates map[string][]disk.Disk // by pool: disks that match and are in no pool of ours
	wants      map[string][]string    // by disk path: the pools that it matches
	taken      map[string]int         // by pool: how many disks it has
	unclear    []string               // pools of which it is not known what they want
}

// newClaims matches disks and profiles. A disk that is a physical volume of a
// pool of ours is taken; it is neither a candidate nor a refusal.
func newClaims(wanted []Wanted, disks []disk.Disk, seen lvm.Report) claims {
	c := claims{candidates: map[string][]disk.Disk{}, wants: map[string][]string{}, taken: map[string]int{}}
	owner := owners(seen)
	for _, vg := range seen.VGs {
		for _, t := range vg.Tags {
			if pool, ok := strings.CutPrefix(t.String(), "lamina.pool="); ok {
				c.taken[pool] += len(vg.PVs) // missing ones, which have no path, too
			}
		}
	}
	for _, w := range wanted {
		if w.Err != nil {
			c.unclear = append(c.unclear, w.Pool)
			continue
		}
		if !w.Profile.Adopt.IsZero() {
			continue
		}
		for _, d := range disks {
			if ok, _ := w.Profile.Disks.Match(d); !ok || owner[d.Path] != "" {
				continue
			}
			c.candidates[w.Pool] = append(c.candidates[w.Pool], d)
			c.wants[d.Path] = append(c.wants[d.Path], w.Pool)
		}
	}
	return c
}

// owners maps the physical volumes of our pools to the pools.
func owners(seen lvm.Report) map[string]string {
	out := map[string]string{}
	for _, vg := range seen.VGs {
		for _, t := range vg.Tags {
			if pool, ok := strings.CutPrefix(t.String(), "lamina.pool="); ok {
				for _, pv := range vg.PVs {
					out[pv.Device] = pool
				}
			}
		}
	}
	return out
}

// conflict says which other pools want the disk too. Then none gets it: which is
// meant, only a person knows.
func (c claims) conflict(pool string, d disk.Disk) string {
	if len(c.unclear) > 0 {
		return fmt.Sprintf("the profile of pool %s cannot be read, and it might want this disk", strings.Join(c.unclear, ", "))
	}
	others := slices.DeleteFunc(slices.Clone(c.wants[d.Path]), func(p string) bool { return p == pool })
	if len(others) == 0 {
		return ""
	}
	return fmt.Sprintf("pool %s wants it too; make the profiles exclude each other", strings.Join(others, ", "))
}
