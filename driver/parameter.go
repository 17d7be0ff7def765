package driver

import (
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/pool"
)

// Parameters of a StorageClass, and the keys that external-provisioner adds with
// --extra-create-metadata.
const (
	paramPool       = "pool"
	paramMkfs       = "mkfsOptions"
	paramEncryption = "encryption"
	paramFSType     = "csi.storage.k8s.io/fstype"
	paramClaim      = "csi.storage.k8s.io/pvc/name"
	paramNamespace  = "csi.storage.k8s.io/pvc/namespace"
	paramPV         = "csi.storage.k8s.io/pv/name"

	luks2 = "luks2"
)

var volumeParameters = []string{paramPool, paramMkfs, paramEncryption, paramFSType, paramClaim, paramNamespace, paramPV}

// Keys of the volume context, which staging needs.
const (
	contextFSType     = "fsType"
	contextMkfs       = "mkfsOptions"
	contextEncryption = "encryption"
)

// Metadata that external-snapshotter adds with --extra-create-metadata.
var (
	snapshotParameters = []string{
		"csi.storage.k8s.io/volumesnapshot/name",
		"csi.storage.k8s.io/volumesnapshot/namespace",
		"csi.storage.k8s.io/volumesnapshotcontent/name",
	}
	groupParameters = []string{
		"csi.storage.k8s.io/volumegroupsnapshot/name",
		"csi.storage.k8s.io/volumegroupsnapshot/namespace",
		"csi.storage.k8s.io/volumegroupsnapshotcontent/name",
	}
)

// wish is what parameters and capabilities ask of a volume together.
type wish struct {
	usage
	pool      string // "": not named
	fs        mount.FSType
	mkfs      string
	encrypted bool
	claim     string
	limits    limitChange // of the mutable parameters
}

// parseWish checks the parameters of a volume that will be used like u. A class
// serves filesystem and block claims alike, so what concerns filesystems only is
// checked and then passed over for block.
func parseWish(u usage, params map[string]string) (wish, error) {
	if err := checkKeys("parameter", params, volumeParameters); err != nil {
		return wish{}, err
	}
	w := wish{usage: u, pool: params[paramPool], mkfs: strings.Join(strings.Fields(params[paramMkfs]), " ")}
	if named, given := params[paramPool]; given && !poolName(named) {
		return wish{}, invalid("parameter pool %.80q is no name of a pool: 1 to 32 of a-z 0-9 and -", named)
	}
	switch e := params[paramEncryption]; e {
	case "":
	case luks2:
		w.encrypted = true
	default:
		return wish{}, invalid("parameter encryption %.80q is not known; known is %s", e, luks2)
	}
	fs := params[paramFSType]
	if fs != "" && u.fsType != "" && fs != u.fsType {
		return wish{}, invalid("parameter %s %.40q contradicts the capability's filesystem %.40q", paramFSType, fs, u.fsType)
	}
	if fs == "" {
		fs = u.fsType
	}
	w.fsType = fs
	var err error
	if w.fs, err = mount.ParseFSType(fs); err != nil {
		return wish{}, invalid("parameter %s: %v", paramFSType, err)
	}
	if err := mount.ValidateMkfsOptions(w.fs, strings.Fields(w.mkfs)); err != nil {
		return wish{}, invalid("parameter %s: %v", paramMkfs, err)
	}
	if params[paramClaim] != "" {
		w.claim = params[paramNamespace] + "/" + params[paramClaim]
	}
	return w, nil
}

// poolName holds a name to the form that pool specs have, so that an error can
// tell a bad value from a pool that this node does not have.
func poolName(s string) bool {
	ok := len(s) > 0 && len(s) <= 32 && s[0] != '-' && s[len(s)-1] != '-'
	for _, c := range []byte(s) {
		ok = ok && ('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-')
	}
	return ok
}

// context is the volume context: it names no default, so that what is absent
// stays absent.
func (w wish) context() map[string]string {
	c := map[string]string{}
	if !w.block {
		c[contextFSType] = string(w.fs)
		if w.mkfs != "" {
			c[contextMkfs] = w.mkfs
		}
	}
	if w.encrypted {
		c[contextEncryption] = luks2
	}
	return c
}

// minSize is the least size in bytes that can hold what is wished.
func (w wish) minSize() int64 {
	if w.block {
		return mount.MinSize("", w.encrypted)
	}
	return mount.MinSize(w.fs, w.encrypted)
}

// checkSize refuses a size in which nothing fits. required is 0 when a default or
// the source's size will be taken.
func (w wish) checkSize(required, limit int64) error {
	least := w.minSize()
	what := string(w.fs)
	if w.block {
		what = "block"
	}
	if w.encrypted {
		what = "encrypted " + what
	}
	if required > 0 && required < least {
		return status.Errorf(codes.OutOfRange, "required_bytes %d is too small for %s: at least %d bytes (%d MiB) are needed; ask for more", required, what, least, least>>20)
	}
	if limit > 0 && limit < least {
		return status.Errorf(codes.OutOfRange, "limit_bytes %d is too small for %s: at least %d bytes (%d MiB) are needed; raise the limit", limit, what, least, least>>20)
	}
	return nil
}

// choosePool names the pool of a request. The one pool of a node need not be
// named. A pool that this node lacks is a matter of placement: ResourceExhausted
// lets the scheduler look elsewhere.
func choosePool(named string, all []pool.Status) (string, error) {
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	list := strings.Join(names, ", ")
	switch {
	case named == "" && len(names) == 1:
		return names[0], nil
	case named == "" && len(names) > 1:
		return "", invalid("parameter pool is missing; the pools of this node are %s", list)
	case len(names) == 0:
		return "", status.Errorf(codes.ResourceExhausted, "pool %q: this node has no pool", named)
	case !slices.Contains(names, named):
		return "", status.Errorf(codes.ResourceExhausted, "pool %q is not on this node; its pools are %s", named, list)
	}
	return named, nil
}
