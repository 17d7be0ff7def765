package lvm

import (
	"fmt"
	"strings"
)

// VGName is the name of a volume group that lvm(8) accepts.
// The zero value is no name; build one with [ParseVGName].
type VGName struct{ s string }

// LVName is the name of a logical volume that lvm(8) accepts for a new volume.
// The zero value is no name; build one with [ParseLVName].
type LVName struct{ s string }

// Tag is an LVM tag, at most 1024 bytes of [A-Za-z0-9_+.-/=!:&#].
// The zero value is no tag; build one with [ParseTag].
type Tag struct{ s string }

// DevicePath is the absolute path of a block device below /dev.
// The zero value is no path; build one with [ParseDevicePath].
type DevicePath struct{ s string }

func (n VGName) String() string     { return n.s }
func (n LVName) String() string     { return n.s }
func (t Tag) String() string        { return t.s }
func (p DevicePath) String() string { return p.s }

// IsZero reports whether n is no name at all.
func (n VGName) IsZero() bool { return n.s == "" }

// IsZero reports whether n is no name at all.
func (n LVName) IsZero() bool { return n.s == "" }

// maxName is NAME_LEN in lib/metadata/metadata-exported.h, less the final NUL.
const maxName = 127

// ParseVGName checks s by the rules of validate_name_detailed() in
// lib/misc/lvm-string.c.
func ParseVGName(s string) (VGName, error) {
	if err := checkName(s); err != nil {
		return VGName{}, fmt.Errorf("volume group name %s: %w", quote(s), err)
	}
	return VGName{s}, nil
}

// ParseLVName checks s by the rules of validate_name_detailed() and
// apply_lvname_restrictions() in lib/misc/lvm-string.c.
func ParseLVName(s string) (LVName, error) {
	if err := checkName(s); err != nil {
		return LVName{}, fmt.Errorf("logical volume name %s: %w", quote(s), err)
	}
	for _, p := range reservedPrefixes {
		if strings.HasPrefix(s, p) {
			return LVName{}, fmt.Errorf("logical volume name %s: %w: names that begin with %q are reserved by LVM", quote(s), ErrInvalid, p)
		}
	}
	for _, p := range reservedParts {
		if strings.Contains(s, p) {
			return LVName{}, fmt.Errorf("logical volume name %s: %w: names that contain %q are reserved by LVM", quote(s), ErrInvalid, p)
		}
	}
	return LVName{s}, nil
}

// Reserved by apply_lvname_restrictions(), lib/misc/lvm-string.c. The list is
// that of 2.03.31 and what later versions added; refusing more than the
// installed LVM does is harmless.
var (
	reservedPrefixes = []string{"pvmove", "snapshot"}
	reservedParts    = []string{
		"_cdata", "_cmeta", "_corig", "_cpool", "_cvol", "_wcorig", "_mimage", "_mlog",
		"_rimage", "_rmeta", "_tdata", "_tmeta", "_vdata", "_vorigin", "_imeta", "_iorig",
		"_pmspare", "_integ",
	}
)

func checkName(s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%w: it is empty", ErrInvalid)
	case len(s) > maxName:
		return fmt.Errorf("%w: %d bytes, at most %d fit", ErrInvalid, len(s), maxName)
	case s[0] == '-':
		return fmt.Errorf("%w: it begins with a hyphen", ErrInvalid)
	case s == "." || s == "..":
		return fmt.Errorf("%w: it is a directory", ErrInvalid)
	}
	for i := range len(s) {
		if !isAlnum(s[i]) && strings.IndexByte("+_.-", s[i]) < 0 {
			return fmt.Errorf("%w: byte %q; only A-Z a-z 0-9 + _ . - are possible", ErrInvalid, s[i])
		}
	}
	return nil
}

// maxTag is the longest tag that tools/toollib.c takes.
const maxTag = 1024

// ParseTag checks s by the rules of validate_tag() in lib/misc/lvm-string.c and
// lvm(8), "TAGS". A leading "@" cannot occur: it is not in the character set.
func ParseTag(s string) (Tag, error) {
	switch {
	case s == "":
		return Tag{}, fmt.Errorf("tag %s: %w: it is empty", quote(s), ErrInvalid)
	case len(s) > maxTag:
		return Tag{}, fmt.Errorf("tag %s: %w: %d bytes, at most %d fit", quote(s), ErrInvalid, len(s), maxTag)
	case s[0] == '-':
		return Tag{}, fmt.Errorf("tag %s: %w: it begins with a hyphen", quote(s), ErrInvalid)
	}
	for i := range len(s) {
		if !isAlnum(s[i]) && strings.IndexByte("_+.-/=!:&#", s[i]) < 0 {
			return Tag{}, fmt.Errorf("tag %s: %w: byte %q; only A-Z a-z 0-9 _ + . - / = ! : & # are possible", quote(s), ErrInvalid, s[i])
		}
	}
	return Tag{s}, nil
}

// ParseDevicePath accepts an absolute, clean path below /dev without characters
// that have a meaning in the comma-separated list of lvm's --devices.
func ParseDevicePath(s string) (DevicePath, error) {
	rest, ok := strings.CutPrefix(s, "/dev/")
	if !ok || rest == "" || len(s) > 4095 {
		return DevicePath{}, fmt.Errorf("device %s: %w: it is not a path below /dev", quote(s), ErrInvalid)
	}
	for _, part := range strings.Split(rest, "/") {
		if part == "" || part == "." || part == ".." {
			return DevicePath{}, fmt.Errorf("device %s: %w: it is not a clean path", quote(s), ErrInvalid)
		}
	}
	for i := range len(rest) {
		if !isAlnum(rest[i]) && strings.IndexByte("+_.-/:@=", rest[i]) < 0 {
			return DevicePath{}, fmt.Errorf("device %s: %w: byte %q", quote(s), ErrInvalid, rest[i])
		}
	}
	return DevicePath{s}, nil
}

func isAlnum(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// quote keeps hostile input short and printable in an error.
func quote(s string) string {
	if len(s) > 64 {
		return fmt.Sprintf("%q…", s[:64])
	}
	return fmt.Sprintf("%q", s)
}

// DMName is the device-mapper name of a logical volume: hyphens doubled, joined
// by one (libdm/libdm-string.c, dm_build_dm_name). The layer is LVM's suffix for
// a hidden device such as "tpool"; for the volume itself it is "".
func DMName(vg VGName, lv LVName, layer string) string {
	name := strings.ReplaceAll(vg.s, "-", "--") + "-" + strings.ReplaceAll(lv.s, "-", "--")
	if layer != "" {
		name += "-" + layer
	}
	return name
}

// DMUUID is the device-mapper UUID of a logical volume's device
// (lib/activate/dev_manager.c, build_dm_uuid). Its name may be another's: groups on
// two disks may have the same one.
func DMUUID(vg *VG, lv *LV) string {
	return "LVM-" + strings.ReplaceAll(vg.UUID+lv.UUID, "-", "")
}
