package pool

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lamina-csi/lamina/lvm"
)

// tags are those of a new volume of that many bytes.
func (req CreateVolume) tags(size int64, state string) tagSet {
	s := tagSet{
		keySchema: schema,
		keyKind:   kindVolume,
		keyName:   req.Name,
		keyClaim:  req.Claim,
		keyFS:     req.FS,
		keySize:   strconv.FormatInt(size, 10),
		keyState:  state,
		keyLimits: req.Limits.String(),
	}
	if req.Block {
		s[keyMode] = modeBlock
	}
	for k, v := range req.Context {
		s[keyContext+"."+k] = v
	}
	return s
}

// newLV is the part that every lvcreate of ours shares.
func (p *Pool) newLV(name lvm.LVName, tags tagSet) (lvm.NewLV, error) {
	t, err := tags.lvmTags()
	if err != nil {
		return lvm.NewLV{}, err
	}
	return lvm.NewLV{Group: p.group, Name: name, Tags: t}, nil
}

// setTags replaces tags of ours in one commit.
func (m *Manager) setTags(ctx context.Context, f found, set tagSet) error {
	add, err := set.lvmTags()
	if err != nil {
		return err
	}
	var del []lvm.Tag
	for _, t := range f.lv.Tags {
		key, _, _ := strings.Cut(strings.TrimPrefix(t.String(), tagPrefix), "=")
		if _, ours := set[key]; ours && strings.HasPrefix(t.String(), tagPrefix) && !slices.Contains(add, t) {
			del = append(del, t)
		}
	}
	if err := m.lvm.LVChangeTags(ctx, f.group(), f.lv.Name, add, del); err != nil {
		return wrap(err, "set tags of %s", f.id())
	}
	return nil
}

// block reports whether the volume, or the one that a snapshot shows, is a raw
// block volume.
func (f found) block() bool { return f.tags[keyMode] == modeBlock }

func (f found) volume() Volume {
	v := Volume{
		ID: f.id(), Name: f.tags[keyName], Pool: f.pool.spec.Name, Size: f.lv.Size,
		Created: f.lv.Created, Block: f.block(), FS: f.tags[keyFS],
		Context: f.tags.context(), Thick: f.lv.Thin == nil, Limits: f.tags[keyLimits],
	}
	if src, err := lvm.ParseLVName(f.tags[keySource]); err == nil {
		v.Source = ID{f.vg.UUID, src}
	}
	return v
}

// volumeOf lets a call end with a search.
func volumeOf(f found, err error) (Volume, error) {
	if err != nil {
		return Volume{}, err
	}
	return f.volume(), nil
}

// activate makes the device of an LV usable and returns its node. It costs no
// process when the device is there already.
func (m *Manager) activate(ctx context.Context, f found) (string, error) {
	info, err := m.device(f)
	if errors.Is(err, lvm.ErrNotFound) || err == nil && !info.LiveTable {
		if err := m.lvm.LVActivate(ctx, f.group(), f.lv.Name); err != nil {
			return "", wrap(err, "activate %s", f.id())
		}
		info, err = m.device(f)
	}
	if err != nil {
		return "", fmt.Errorf("activate %w", err)
	}
	return info.Path(), nil
}

// device is the LV's own device, fit for use. An inactive LV has none: the error
// is lvm.ErrNotFound.
func (m *Manager) device(f found) (lvm.DeviceInfo, error) {
	info, err := m.ownDevice(f)
	if err == nil && info.Suspended {
		return info, fmt.Errorf("%s: %w: its device %s is suspended; an lvm command may have been killed: dmsetup resume %s", f.id(), ErrUnavailable, info.Path(), info.Name)
	}
	return info, err
}

// ownDevice is the LV's own device. The name could be another's: the UUID says
// whose device it is.
func (m *Manager) ownDevice(f found) (lvm.DeviceInfo, error) {
	name := lvm.DMName(f.vg.Name, f.lv.Name, "")
	info, err := m.dm.Info(name)
	if err != nil {
		return info, wrap(err, "%s", f.id())
	}
	if info.UUID != lvm.DMUUID(f.vg, f.lv) {
		return info, fmt.Errorf("%s: %w: device %s (%s) is another's: UUID %s", f.id(), ErrForeign, name, info.Path(), info.UUID)
	}
	return info, nil
}

// roundUp brings a size to whole extents, within the limit.
func roundUp(size, limit, extent int64) (int64, error) {
	rounded := (max(size, 1) + extent - 1) / extent * extent
	if limit > 0 && rounded > limit {
		return 0, fmt.Errorf("%w: sizes are multiples of %d bytes, and no such lies between %d and %d", ErrOutOfRange, extent, size, limit)
	}
	return rounded, nil
}
