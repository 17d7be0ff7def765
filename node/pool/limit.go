package pool

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Limits bound what whoever uses a volume does to it in a second; 0 is no limit. They
// belong to the volume alone: a snapshot, a clone or a restore does not take them over.
type Limits struct {
	ReadIOPS, WriteIOPS           int64 // operations, at most MaxIOPS
	ReadBandwidth, WriteBandwidth int64 // bytes
}

// MaxIOPS is the largest limit on operations that the kernel tells from none: it keeps
// them in 32 bits, of which all set are "max" (tg_set_limit in block/blk-throttle.c).
const MaxIOPS = 1<<32 - 2

// limitKeys name the limits in the tag as io.max does.
var limitKeys = []struct {
	name  string
	value func(*Limits) *int64
	most  int64
}{
	{"rbps", func(l *Limits) *int64 { return &l.ReadBandwidth }, 1<<63 - 1},
	{"wbps", func(l *Limits) *int64 { return &l.WriteBandwidth }, 1<<63 - 1},
	{"riops", func(l *Limits) *int64 { return &l.ReadIOPS }, MaxIOPS},
	{"wiops", func(l *Limits) *int64 { return &l.WriteIOPS }, MaxIOPS},
}

// String is the form in the tag lamina.limits, "rbps:1048576/wiops:500"; "" when there
// is no limit.
func (l Limits) String() string {
	var parts []string
	for _, k := range limitKeys {
		if n := *k.value(&l); n != 0 {
			parts = append(parts, k.name+":"+strconv.FormatInt(n, 10))
		}
	}
	return strings.Join(parts, "/")
}

// ParseLimits reads what String writes. What it does not know was written by another
// hand: that is ErrForeign, and no limit is guessed.
func ParseLimits(s string) (Limits, error) {
	var l Limits
	for _, k := range limitKeys {
		for part := range strings.SplitSeq(s, "/") {
			if text, ok := strings.CutPrefix(part, k.name+":"); ok {
				*k.value(&l), _ = strconv.ParseInt(text, 10, 64) // what is wrong shows below
			}
		}
	}
	if err := l.check(); err != nil || l.String() != s {
		return Limits{}, fmt.Errorf("tag %s%s=%.200s: %w: it cannot be read; remove it (lvchange --deltag) and modify the volume again", tagPrefix, keyLimits, escape(s), ErrForeign)
	}
	return l, nil
}

// check refuses values that no limit can have.
func (l Limits) check() error {
	for _, k := range limitKeys {
		if n := *k.value(&l); n < 0 || n > k.most {
			return fmt.Errorf("%w: limit %s of %d", ErrInvalid, k.name, n)
		}
	}
	return nil
}

// SetLimits records the limits of a volume in place of those that it has. It costs one
// process, and none if they are the same.
func (m *Manager) SetLimits(ctx context.Context, id ID, l Limits) error {
	if err := l.check(); err != nil {
		return fmt.Errorf("limit %s: %w", id, err)
	}
	unlock, err := m.keys.lock(ctx, id.LV.String())
	if err != nil {
		return err
	}
	defer unlock()
	f, err := m.find(id, kindVolume)
	if err != nil || f.tags[keyLimits] == l.String() {
		return err
	}
	return m.setTags(ctx, f, tagSet{keyLimits: l.String()})
}
