package pool

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/lamina-csi/lamina/lvm"
)

// The tags of ours, "lamina.<key>=<value>".
const (
	tagPrefix = "lamina."
	schema    = "1"

	keyPool   = "pool"   // on a VG: the pool that it is
	keySchema = "schema" // of these tags
	keyKind   = "kind"   // volume | snapshot | pool
	keyName   = "name"   // CSI name
	keySource = "source" // LV that it was cloned or snapshotted from
	keyClaim  = "pvc"    // namespace/name
	keyMode   = "mode"   // block; absent: file system
	keyFS     = "fs"     // see the FS constants
	keySize   = "size"   // bytes that were asked for; of a thick volume, those that are zeroed
	keyState  = "state"  // creating | growing | ready
	keyGroup  = "group"  // id of the group of snapshots that it belongs to
	// the CSI name of that group, and how many members it has
	keyGroupName = "groupname"
	keyGroupSize = "groupsize"
	keyInstant   = "instant" // attempt to make the group that a member is of
	keyContext   = "context" // lamina.context.<key>: CSI volume context
	keyLimits    = "limits"  // of I/O, see Limits; absent: none
)

// Values of lamina.kind and lamina.state.
const (
	kindVolume   = "volume"
	kindSnapshot = "snapshot"
	kindPool     = "pool"

	stateCreating = "creating"
	stateGrowing  = "growing" // a thick volume: zeroed up to lamina.size
	stateReady    = "ready"

	modeBlock = "block"
)

// Values of lamina.fs that are no file system type.
const (
	// FSNew: never formatted. Only such a volume may be formatted.
	FSNew = "new"
	// FSRaw: a block volume, never to be formatted by us.
	FSRaw = "raw"
)

// tag builds a tag; the value is escaped.
func tag(key, value string) (lvm.Tag, error) {
	t, err := lvm.ParseTag(tagPrefix + key + "=" + escape(value))
	if err != nil {
		return lvm.Tag{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return t, nil
}

// tagSet is the tags of ours on one object, unescaped.
type tagSet map[string]string

// readTags collects our tags and passes over others.
func readTags(tags []lvm.Tag) tagSet {
	set := tagSet{}
	for _, t := range tags {
		key, value, ok := strings.Cut(strings.TrimPrefix(t.String(), tagPrefix), "=")
		if ok && strings.HasPrefix(t.String(), tagPrefix) {
			set[key] = unescape(value)
		}
	}
	return set
}

// kindOf is readTags(tags)[keyKind], for loops over every LV of a group.
func kindOf(tags []lvm.Tag) (kind string) {
	for _, t := range tags {
		if value, ok := strings.CutPrefix(t.String(), tagPrefix+keyKind+"="); ok {
			kind = unescape(value)
		}
	}
	return kind
}

// lvmTags is the inverse of readTags, in a fixed order. Empty values are left out.
func (s tagSet) lvmTags() ([]lvm.Tag, error) {
	var out []lvm.Tag
	for _, key := range sortedKeys(s) {
		if s[key] == "" {
			continue
		}
		t, err := tag(key, s[key])
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

func (s tagSet) int(key string) int64 {
	n, err := strconv.ParseInt(s[key], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// context collects the volume context. CSI carries UTF-8 only, and one volume that
// has something else, on a disk that came from elsewhere, would spoil a whole list.
func (s tagSet) context() map[string]string {
	out := map[string]string{}
	for key, value := range s {
		if k, ok := strings.CutPrefix(key, keyContext+"."); ok {
			out[strings.ToValidUTF8(k, "?")] = strings.ToValidUTF8(value, "?")
		}
	}
	return out
}

// escape writes every byte that LVM's tags cannot hold, and "#" itself, as "#"
// and two hex digits.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_+.-/:", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "#%02x", c)
		}
	}
	return b.String()
}

// unescape reads what escape wrote. A "#" that no two hex digits follow stays: a
// tag written by hand is shown as it is.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '#' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
