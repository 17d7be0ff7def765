package driver

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/pool"
)

// maxName is CSI's general limit for a string (spec.md, "Size Limits").
const maxName = 128

// validateName holds a name to what the specification allows (CreateVolumeRequest
// .name): any Unicode of up to 128 bytes without control characters other than
// tab, line feed and carriage return.
func validateName(what, name string) error {
	switch {
	case name == "":
		return invalid("%s is missing", what)
	case len(name) > maxName:
		return invalid("%s %.40q… has %d bytes; at most %d are allowed", what, name, len(name), maxName)
	case !utf8.ValidString(name):
		return invalid("%s %q is not UTF-8", what, name)
	}
	for _, r := range name {
		if r <= 0x08 || r == 0x0b || r == 0x0c || 0x0e <= r && r <= 0x1f || 0x7f <= r && r <= 0x9f {
			return invalid("%s %q contains the control character %U", what, name, r)
		}
	}
	return nil
}

// parseID reads an id that a request must have. One that is malformed was never
// given out, so nothing has it: NotFound.
func parseID(what, text string) (pool.ID, error) {
	if text == "" {
		return pool.ID{}, invalid("%s is missing", what)
	}
	id, err := pool.ParseID(text)
	if err != nil {
		return pool.ID{}, status.Errorf(codes.NotFound, "%s: %v", what, err)
	}
	return id, nil
}

// parseIDToDelete is parseID for calls that succeed when nothing has the id.
func parseIDToDelete(what, text string) (id pool.ID, gone bool, err error) {
	id, err = parseID(what, text)
	if status.Code(err) == codes.NotFound {
		return pool.ID{}, true, nil
	}
	return id, false, err
}

// usage is what a list of capabilities asks for together.
type usage struct {
	block      bool
	readOnly   bool // of the last one, for calls that take exactly one
	fsType     string
	mountFlags []string
	mode       csi.VolumeCapability_AccessMode_Mode
}

// errUnsupported is a capability that is well-formed and that no volume of ours
// can have.
type errUnsupported struct{ text string }

func (e errUnsupported) Error() string { return e.text }

func unsupported(format string, args ...any) error {
	return errUnsupported{fmt.Sprintf(format, args...)}
}

// parseCapability checks one capability. An error is either InvalidArgument or
// errUnsupported.
func parseCapability(c *csi.VolumeCapability) (usage, error) {
	u := usage{mode: c.GetAccessMode().GetMode()}
	switch {
	case c == nil:
		return u, invalid("volume capability is missing")
	case c.GetBlock() != nil:
		u.block = true
	case c.GetMount() != nil:
		u.fsType, u.mountFlags = c.GetMount().GetFsType(), c.GetMount().GetMountFlags()
		if c.GetMount().GetVolumeMountGroup() != "" {
			return u, unsupported("volume_mount_group is not supported; kubelet applies fsGroup")
		}
	default:
		return u, invalid("volume capability has no access type: it must be block or mount")
	}
	switch u.mode {
	case csi.VolumeCapability_AccessMode_UNKNOWN:
		return u, invalid("volume capability has no access mode")
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:
	case csi.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY,
		csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:
		u.readOnly = true
	case csi.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER,
		csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:
		return u, unsupported("access mode %s is not possible: a volume lies on the disks of one node; use ReadWriteOnce, ReadWriteOncePod or ReadOnlyMany", u.mode)
	default:
		return u, unsupported("access mode %d is not known", int32(u.mode))
	}
	if _, err := mount.ParseFSType(u.fsType); err != nil {
		return u, unsupported("%v", err)
	}
	if err := mount.ValidateMountFlags(u.mountFlags); err != nil {
		return u, unsupported("%v", err)
	}
	return u, nil
}

// parseCapabilities checks a list that one volume must satisfy as a whole.
func parseCapabilities(list []*csi.VolumeCapability) (usage, error) {
	if len(list) == 0 {
		return usage{}, invalid("volume capabilities are missing")
	}
	var all usage
	for i, c := range list {
		u, err := parseCapability(c)
		if err != nil {
			return usage{}, err
		}
		switch {
		case i > 0 && u.block != all.block:
			return usage{}, unsupported("capabilities contradict each other: a volume is either block or mount")
		case u.fsType != "" && all.fsType != "" && u.fsType != all.fsType:
			return usage{}, unsupported("capabilities contradict each other: filesystem %q and %q", all.fsType, u.fsType)
		}
		if all.fsType != "" {
			u.fsType = all.fsType
		}
		all = u
	}
	return all, nil
}

// asInvalid gives an errUnsupported the code of calls that make a volume.
func asInvalid(err error) error {
	if u, ok := errors.AsType[errUnsupported](err); ok {
		return invalid("%s", u.text)
	}
	return err
}

// asPrecondition gives an errUnsupported the code of calls about a volume that
// exists (NodeStageVolume errors, "Exceeds capabilities").
func asPrecondition(err error) error {
	if u, ok := errors.AsType[errUnsupported](err); ok {
		return status.Error(codes.FailedPrecondition, u.text)
	}
	return err
}

// parseRange reads a capacity range; nil means no wish.
func parseRange(r *csi.CapacityRange) (required, limit int64, err error) {
	required, limit = r.GetRequiredBytes(), r.GetLimitBytes()
	switch {
	case required < 0:
		return 0, 0, invalid("capacity range: required_bytes %d is negative", required)
	case limit < 0:
		return 0, 0, invalid("capacity range: limit_bytes %d is negative", limit)
	case limit > 0 && limit < required:
		return 0, 0, invalid("capacity range: limit_bytes %d is less than required_bytes %d", limit, required)
	}
	return required, limit, nil
}

// checkReachable refuses a topology requirement that does not allow this node
// (CreateVolume errors, "Unable to provision in accessible_topology").
func (d *Driver) checkReachable(r *csi.TopologyRequirement) error {
	if len(r.GetRequisite()) == 0 || slices.ContainsFunc(r.GetRequisite(), d.here) {
		return nil
	}
	return status.Errorf(codes.ResourceExhausted, "accessibility_requirements do not contain this node, %s=%s", TopologyKey, d.config.NodeID)
}

func (d *Driver) here(t *csi.Topology) bool { return t.GetSegments()[TopologyKey] == d.config.NodeID }

// checkKeys refuses a parameter that is not known: a misspelt one must not be
// passed over.
func checkKeys(what string, given map[string]string, known []string) error {
	keys := make([]string, 0, len(given))
	for key := range given {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		if !slices.Contains(known, key) {
			return invalid("%s %.80q is not known; known are %s", what, key, strings.Join(known, ", "))
		}
	}
	return nil
}
