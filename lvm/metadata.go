package lvm

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// VG is a volume group as its metadata describes it.
type VG struct {
	Name       VGName
	UUID       string // 32 characters with hyphens, as lvm prints it
	Seqno      int64  // grows with each commit
	ExtentSize int64  // bytes
	Tags       []Tag
	PVs        []PV
	LVs        []LV // every LV, hidden ones included

	MetadataSize int64 // bytes of the metadata area that this was read from
	MetadataFree int64 // bytes that the text may still grow there
}

// PV is a physical volume of a VG.
type PV struct {
	UUID        string
	Device      string // a hint, written by whichever host changed the VG last
	Size        int64  // bytes of the extents
	Free        int64  // bytes of extents that no LV has; 0 where none may be allocated
	Missing     bool
	Allocatable bool
	Tags        []Tag
}

// LV is a logical volume of a VG.
type LV struct {
	Name     LVName
	UUID     string
	Type     string // of its first segment: thin, thin-pool, striped (linear too), raid1, raid10 …
	Tags     []Tag
	Size     int64     // bytes
	Created  time.Time // zero where LVM did not record it
	Visible  bool
	ReadOnly bool

	Thin *Thin     // Type thin
	Pool *ThinPool // Type thin-pool
}

// Thin is what a thin volume's metadata says of it.
type Thin struct {
	Pool          LVName
	Origin        LVName // zero where it is no snapshot or its origin is gone
	DeviceID      int64  // of the kernel, within the pool
	TransactionID int64  // of the pool when it was made
}

// ThinPool is what a thin pool's metadata says of it.
type ThinPool struct {
	Data, Metadata LVName // hidden LVs
	ChunkSize      int64  // bytes
	TransactionID  int64
	Zero           bool // new chunks read as zeros
	// Messages counts what LVM had recorded for the kernel, which may have been done;
	// Deletes are the devices that the kernel is to delete by them.
	Messages int
	Deletes  []int64
}

// LV finds a logical volume by name.
func (vg *VG) LV(name LVName) (*LV, bool) {
	for i := range vg.LVs {
		if vg.LVs[i].Name == name {
			return &vg.LVs[i], true
		}
	}
	return nil, false
}

// ReadDisk reads the metadata of a volume group from a disk, or from an image of one.
func ReadDisk(disk io.ReaderAt) (*VG, error) {
	raw, err := readMetadata(disk, Generation{})
	if err != nil {
		return nil, err
	}
	return parseMetadata(raw)
}

// parseMetadata reads the text that LVM writes to a physical volume
// (lib/format_text/export.c).
func parseMetadata(raw RawMetadata) (*VG, error) {
	return new(volumeTexts).parse(raw)
}

// parse is parseMetadata, with what is known from the text before.
func (t *volumeTexts) parse(raw RawMetadata) (*VG, error) {
	p := &textParser{text: string(raw.Text), volumes: map[string]*volumeText{}, known: t.known}
	root, err := p.section(0, "")
	if err != nil {
		return nil, fmt.Errorf("LVM text, byte %d: %w", p.pos, err)
	}
	var groups []string
	for key := range root {
		if root.sub(key).str("id") != "" {
			groups = append(groups, key)
		}
	}
	if len(groups) != 1 {
		return nil, fmt.Errorf("metadata text: %w: it holds %d volume groups", ErrInvalid, len(groups))
	}
	extent := root.sub(groups[0]).num("extent_size")
	if extent != t.extent && len(t.known) > 0 {
		*t = volumeTexts{}
		return t.parse(raw)
	}
	vg, err := parseVG(groups[0], root.sub(groups[0]))
	if err != nil {
		return nil, err
	}
	vg.MetadataSize = raw.AreaSize
	// Two copies must fit: half of the area less the header is usable
	// (vg_mda_free, lib/metadata/metadata.c).
	vg.MetadataFree = max(0, (raw.AreaSize-mdaHeaderSize)/2-int64(raw.Generation.Size))
	t.extent, t.known = extent, p.volumes
	return vg, nil
}

func parseVG(name string, s section) (*VG, error) {
	vgName, err := ParseVGName(name)
	if err != nil {
		return nil, err
	}
	vg := &VG{
		Name:       vgName,
		UUID:       s.str("id"),
		Seqno:      s.num("seqno"),
		ExtentSize: s.num("extent_size"),
	}
	if vg.ExtentSize <= 0 || vg.ExtentSize > maxUint32 {
		return nil, fmt.Errorf("volume group %s: %w: extents of %d sectors", name, ErrInvalid, vg.ExtentSize)
	}
	vg.ExtentSize *= sectorSize
	if vg.Tags, err = parseTags(s); err != nil {
		return nil, fmt.Errorf("volume group %s: %w", name, err)
	}
	used := map[string]int64{} // extents, by PV
	lvs := s.sub("logical_volumes")
	for _, key := range slices.Sorted(maps.Keys(lvs)) {
		v, ok := lvs[key].(*volumeText)
		if !ok {
			return nil, fmt.Errorf("volume group %s: logical volume %s: %w: it is no section", name, quote(key), ErrInvalid)
		}
		lv, err := v.read(key, vg.ExtentSize)
		if err != nil {
			return nil, fmt.Errorf("volume group %s: %w", name, err)
		}
		vg.LVs = append(vg.LVs, lv)
		for pv, n := range v.used {
			used[pv] += n
		}
	}
	pvs := s.sub("physical_volumes")
	for _, key := range slices.Sorted(maps.Keys(pvs)) {
		pv := pvs.sub(key)
		tags, err := parseTags(pv)
		if err != nil {
			return nil, fmt.Errorf("volume group %s, %s: %w", name, key, err)
		}
		size, err := extents(pv.num("pe_count"), vg.ExtentSize)
		if err != nil {
			return nil, fmt.Errorf("volume group %s, %s: %w", name, key, err)
		}
		p := PV{
			UUID:        pv.str("id"),
			Device:      pv.str("device"),
			Size:        size,
			Missing:     contains(pv.strs("flags"), "MISSING"),
			Allocatable: contains(pv.strs("status"), "ALLOCATABLE"),
			Tags:        tags,
		}
		if p.Allocatable && !p.Missing {
			p.Free = min(max(0, pv.num("pe_count")-used[key])*vg.ExtentSize, size)
		}
		vg.PVs = append(vg.PVs, p)
	}
	if err := vg.checkSums(); err != nil {
		return nil, fmt.Errorf("volume group %s: %w", name, err)
	}
	slices.SortStableFunc(vg.PVs, func(a, b PV) int { return strings.Compare(a.UUID, b.UUID) })
	return vg, nil
}

// LVM counts extents and their sectors in 32 bits (lib/format_text/import_vsn1.c).
// No device is larger than maxBytes, so that sums of a few sizes do not overflow.
const (
	maxUint32 = 1<<32 - 1
	maxBytes  = 1 << 60
)

// extents is the size of that many extents in bytes.
func extents(count, extent int64) (int64, error) {
	if count < 0 || count > maxUint32 || count > maxBytes/extent {
		return 0, fmt.Errorf("%w: %d extents of %d bytes", ErrInvalid, count, extent)
	}
	return count * extent, nil
}

// checkSums keeps the sums of sizes that callers make from overflowing.
func (vg *VG) checkSums() error {
	var pvs, lvs int64
	for _, pv := range vg.PVs {
		if pvs += pv.Size; pvs > maxBytes {
			return fmt.Errorf("%w: its physical volumes have more than %d bytes", ErrInvalid, maxBytes)
		}
	}
	for _, lv := range vg.LVs {
		if lvs += lv.Size; lvs > 4*maxBytes { // thin volumes promise more than there is
			return fmt.Errorf("%w: its logical volumes have more than %d bytes", ErrInvalid, 4*maxBytes)
		}
	}
	return nil
}

// usedExtents counts what a logical volume takes of each PV. Only striped segments
// (linear ones are striped over one) lie on PVs; every other type lies on hidden LVs
// that have such segments.
func usedExtents(lv section) map[string]int64 {
	var used map[string]int64
	for n := int64(1); n <= lv.num("segment_count"); n++ {
		seg := lv.sub("segment" + strconv.FormatInt(n, 10))
		if seg == nil {
			break // the count may be any number
		}
		stripes := seg.strs("stripes")
		for _, pv := range stripes {
			if seg.str("type") != "striped" {
				break
			}
			if used == nil {
				used = map[string]int64{}
			}
			used[pv] += seg.num("extent_count") / int64(len(stripes))
		}
	}
	return used
}

// Free is the sum of what is free on the group's physical volumes, in bytes.
func (vg *VG) Free() int64 {
	var sum int64
	for _, pv := range vg.PVs {
		sum += pv.Free
	}
	return sum
}

func parseLV(name string, s section, extent int64) (LV, error) {
	// A hidden LV has a reserved name, so only the characters are checked.
	if err := checkName(name); err != nil {
		return LV{}, fmt.Errorf("logical volume %s: %w", quote(name), err)
	}
	tags, err := parseTags(s)
	if err != nil {
		return LV{}, fmt.Errorf("logical volume %s: %w", name, err)
	}
	status := s.strs("status")
	lv := LV{
		Name:     LVName{name},
		UUID:     s.str("id"),
		Tags:     tags,
		Visible:  contains(status, "VISIBLE"),
		ReadOnly: !contains(status, "WRITE"),
	}
	if t := s.num("creation_time"); t > 0 {
		lv.Created = time.Unix(t, 0).UTC()
	}
	for n := int64(1); n <= s.num("segment_count"); n++ {
		seg := s.sub("segment" + strconv.FormatInt(n, 10))
		if seg == nil {
			return LV{}, fmt.Errorf("logical volume %s: %w: segment %d is missing", name, ErrInvalid, n)
		}
		size, err := extents(seg.num("extent_count"), extent)
		if err == nil && lv.Size+size > maxBytes {
			err = fmt.Errorf("%w: more than %d bytes", ErrInvalid, maxBytes)
		}
		if err != nil {
			return LV{}, fmt.Errorf("logical volume %s: %w", name, err)
		}
		lv.Size += size
		if n == 1 {
			if err := parseSegment(&lv, seg); err != nil {
				return LV{}, fmt.Errorf("logical volume %s: %w", name, err)
			}
		}
	}
	return lv, nil
}

func parseSegment(lv *LV, seg section) error {
	lv.Type = seg.str("type")
	switch lv.Type {
	case "thin":
		lv.Thin = &Thin{DeviceID: seg.num("device_id"), TransactionID: seg.num("transaction_id")}
		if err := checkName(seg.str("thin_pool")); err != nil {
			return fmt.Errorf("thin pool: %w", err)
		}
		lv.Thin.Pool = LVName{seg.str("thin_pool")}
		if o := seg.str("origin"); o != "" {
			if err := checkName(o); err != nil {
				return fmt.Errorf("origin: %w", err)
			}
			lv.Thin.Origin = LVName{o}
		}
	case "thin-pool":
		lv.Pool = &ThinPool{
			ChunkSize:     seg.num("chunk_size") * sectorSize,
			TransactionID: seg.num("transaction_id"),
			Zero:          seg.num("zero_new_blocks") == 1,
		}
		for key, to := range map[string]*LVName{"pool": &lv.Pool.Data, "metadata": &lv.Pool.Metadata} {
			if err := checkName(seg.str(key)); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
			*to = LVName{seg.str(key)}
		}
		// message1 { delete = 7 }, or { create = "name" } (lib/thin/thin.c,
		// _thin_pool_text_export).
		for n := int64(1); seg.sub("message"+strconv.FormatInt(n, 10)) != nil; n++ {
			lv.Pool.Messages++
			// What is no number is no device: not the device 0 either.
			if id, ok := seg.sub("message" + strconv.FormatInt(n, 10))["delete"].(int64); ok {
				lv.Pool.Deletes = append(lv.Pool.Deletes, id)
			}
		}
	}
	return nil
}

func parseTags(s section) ([]Tag, error) {
	var out []Tag
	for _, t := range s.strs("tags") {
		tag, err := ParseTag(t)
		if err != nil {
			return nil, err
		}
		out = append(out, tag)
	}
	return out, nil
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if strings.EqualFold(v, s) {
			return true
		}
	}
	return false
}
