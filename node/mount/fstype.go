package mount

import "regexp"

// FSType is a filesystem that volumes can be formatted with.
type FSType string

// Filesystem types.
const (
	Ext4  FSType = "ext4"
	XFS   FSType = "xfs"
	Btrfs FSType = "btrfs"
)

// ParseFSType checks a type that a user asked for. Empty means ext4.
func ParseFSType(text string) (FSType, error) {
	switch t := FSType(text); t {
	case "":
		return Ext4, nil
	case Ext4, XFS, Btrfs:
		return t, nil
	default:
		return "", invalidf("filesystem type %q is none of ext4, xfs, btrfs", text)
	}
}

// State is what the volume's own record says about its content.
type State string

const (
	// StateNew is a volume on which mkfs or luksFormat never completed and which was never mounted.
	StateNew State = "new"
	// StateRaw is an encrypted block volume whose LUKS2 header exists.
	StateRaw State = "raw"
)

// Formatted is the state of a volume that carries a filesystem of type t.
func Formatted(t FSType) State { return State(t) }

const mib = 1 << 20

// MinSize returns the size in bytes below which a volume cannot carry a filesystem of type t: xfs
// refuses less than 300 MiB (mkfs/xfs_mkfs.c, XFS_MIN_DATA_BLOCKS and 64 MiB of log), btrfs less than
// about 109 MiB.
func MinSize(t FSType, encrypted bool) int64 {
	size := map[FSType]int64{Ext4: 8 * mib, XFS: 300 * mib, Btrfs: 128 * mib}[t]
	if encrypted {
		size += luksOverhead
	}
	return size
}

var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// validateUUID wants a lower-case UUID that is not nil: that is how blkid prints it back.
func validateUUID(text string) error {
	if !uuidPattern.MatchString(text) || text == "00000000-0000-0000-0000-000000000000" {
		return invalidf("filesystem UUID %q", text)
	}
	return nil
}
