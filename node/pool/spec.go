package pool

import (
	"fmt"
	"regexp"

	"github.com/lamina-csi/lamina/lvm"
)

// Spec is a pool that is wanted on this node.
type Spec struct {
	Name   string
	Adopt  lvm.VGName // an existing volume group; zero: make lamina-<name> on blank disks
	Mode   Mode
	Layout lvm.LayoutType

	Overprovision float64 // sum of virtual sizes ÷ pool size that is still admitted
	Reserve       int     // percent of the VG that volumes never get: metadata growth, repair
	ThinChunk     int64   // bytes; 0: chosen from the pool's size
	FullAt        int     // percent of real use at which new volumes are refused
}

// Mode is how volumes get their extents.
type Mode string

// A thin pool shares its extents among volumes as they are written; a thick
// volume has all of its own from the start, and no snapshots.
const (
	Thin  Mode = "thin"
	Thick Mode = "thick"
)

// poolName is a DNS label short enough for a volume group's and a device-mapper
// name around it.
var poolName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$`)

// Validate says what is wrong with a spec.
func (s Spec) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("pool %.40q: %w: %s", s.Name, ErrInvalid, fmt.Sprintf(format, args...))
	}
	switch {
	case !poolName.MatchString(s.Name):
		return bad("the name must be 1 to 32 of a-z 0-9 and -, with - only inside")
	case s.Mode != Thin && s.Mode != Thick:
		return bad("mode %q is neither thin nor thick", s.Mode)
	case s.Layout != lvm.Linear && s.Layout != lvm.Striped && s.Layout != lvm.Raid1 && s.Layout != lvm.Raid10:
		return bad("layout %q is none of linear, striped, raid1, raid10", s.Layout)
	case !(s.Overprovision >= 1 && s.Overprovision <= 1000):
		return bad("overprovision %v is not between 1 and 1000", s.Overprovision)
	case s.Reserve < 0 || s.Reserve > 50:
		return bad("reserve %d%% is not between 0%% and 50%%", s.Reserve)
	case s.ThinChunk != 0 && (s.ThinChunk < 64<<10 || s.ThinChunk > 1<<30 || s.ThinChunk%(64<<10) != 0):
		return bad("thinChunk %d is no multiple of 64 KiB between 64 KiB and 1 GiB", s.ThinChunk)
	case s.FullAt < 1 || s.FullAt > 95: // LVM refuses above 95: lvm.conf, thin_pool_autoextend_threshold
		return bad("fullAt %d%% is not between 1%% and 95%%", s.FullAt)
	}
	return nil
}

// vg is the volume group of the pool.
func (s Spec) vg() (lvm.VGName, error) {
	if !s.Adopt.IsZero() {
		return s.Adopt, nil
	}
	return lvm.ParseVGName("lamina-" + s.Name)
}

const (
	mib = 1 << 20
	gib = 1 << 30
	tib = 1 << 40
)

// chunkSize is the thin chunk for a pool of that many bytes. Small chunks make
// first writes after a snapshot cheap; larger ones keep the metadata of a large
// pool below LVM's limit of 15.81 GiB.
func (s Spec) chunkSize(size int64) int64 {
	switch {
	case s.ThinChunk != 0:
		return s.ThinChunk
	case size <= 4*tib:
		return 64 << 10
	case size <= 16*tib:
		return 256 << 10
	default:
		return 1 << 20
	}
}

// maxThinMetadata is DM_THIN_MAX_METADATA_SIZE as LVM crops it (lvmthin(7)).
const maxThinMetadata = 15 * gib

// thinMetadataSize is the metadata of a pool for its whole life: 128 bytes a
// chunk, twice what thin_metadata_size computes for a full pool, so that
// snapshots may diverge. LVM refuses new volumes with less than 4 MiB free, so a
// small pool gets 32 MiB.
func thinMetadataSize(size, chunk int64) int64 {
	return min(max(size/chunk*128, 32*mib), maxThinMetadata)
}
