package pool

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"

	"github.com/lamina-csi/lamina/lvm"
)

// ID is the CSI id of a volume, a snapshot or a group of snapshots:
// "<VG UUID>/<LV name>". No node is in it: a disk may move to another one.
type ID struct {
	VG string // UUID of the volume group, as lvm prints it
	LV lvm.LVName
}

func (id ID) String() string { return id.VG + "/" + id.LV.String() }

// vgUUID is the form that id_write_format() in lib/uuid/uuid.c prints.
var vgUUID = regexp.MustCompile(`^[A-Za-z0-9]{6}(-[A-Za-z0-9]{4}){5}-[A-Za-z0-9]{6}$`)

// ParseID reads an id. One that ParseID refuses was never given out, so nothing
// of that id can exist.
func ParseID(s string) (ID, error) {
	uuid, name, ok := strings.Cut(s, "/")
	if !ok || !vgUUID.MatchString(uuid) {
		return ID{}, fmt.Errorf("id %.80q: %w: it is not <VG UUID>/<LV name>", s, ErrInvalid)
	}
	lv, err := lvm.ParseLVName(name)
	if err != nil {
		return ID{}, fmt.Errorf("id %.80q: %w: %w", s, ErrInvalid, err)
	}
	return ID{uuid, lv}, nil
}

// maxLVName keeps device-mapper names, in which hyphens are doubled, far below
// their limit of 127 bytes.
const maxLVName = 64

// The names that the Kubernetes sidecars give.
var (
	provisionerName = regexp.MustCompile(`^pvc-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	snapshotterName = regexp.MustCompile(`^snapshot-([0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$`)
)

// volumeLV is the LV name for a CSI volume name: the provisioner's own where it
// is one, so that lvs reads well; else a hash. The tag lamina.name holds the name.
func volumeLV(name string) lvm.LVName {
	if provisionerName.MatchString(name) {
		return mustLV(name)
	}
	return mustLV("v-" + hash(name))
}

// snapshotLV is the LV name for a CSI snapshot name. LVM reserves names that
// begin with "snapshot".
func snapshotLV(name string) lvm.LVName {
	if m := snapshotterName.FindStringSubmatch(name); m != nil {
		return mustLV("snap-" + m[1])
	}
	return mustLV("s-" + hash(name))
}

// groupLV is the name of a group of snapshots. No LV of that name exists: the
// members carry it in a tag.
func groupLV(name string) lvm.LVName { return mustLV("g-" + hash(name)) }

// memberLV is the name of the snapshot of one volume in a group.
func memberLV(group lvm.LVName, source ID) lvm.LVName {
	return mustLV("s-" + hash(group.String()+"/"+source.String()))
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}

// mustLV is for names made here, of hex digits and fixed letters.
func mustLV(s string) lvm.LVName {
	n, err := lvm.ParseLVName(s)
	if err != nil || len(s) > maxLVName {
		panic(fmt.Sprintf("own LV name %q: %v", s, err))
	}
	return n
}
