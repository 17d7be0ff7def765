package router

import (
	"fmt"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lamina-csi/lamina/driver/link"
)

// A node speaks for itself alone. A link is proof of who answers (docs/decisions/
// link.md), and what it answers becomes a PersistentVolume: a node that somebody has
// taken over could give out the id of another node's volume, or say that its volume
// lies there, and have it mounted for a claim of its choice. So an answer that is
// not about what was asked, or about a volume group that the node does not have, is
// Internal, and is passed on to nobody.

// has reports whether a volume group is one of the node's, as far as its status and
// those of all others tell.
func (t target) has(vg string) bool {
	if owner, ok := t.router.fleet.NodeOf(vg); ok && owner == t.node {
		return true
	}
	return slices.Contains(t.router.fleet.ShownBy(vg), t.node)
}

// hasID is has for a volume or a snapshot.
func (t target) hasID(id string) bool {
	vg, _, ok := splitID(id)
	return ok && t.has(vg)
}

// wrong is an error about an answer.
func (t target) wrong(format string, args ...any) error {
	return status.Errorf(codes.Internal, "node %s: %s: its answer is refused: %s", t.node, t.about, fmt.Sprintf(format, args...))
}

// here reports whether a topology names the node and nothing else.
func (t target) here(list []*csi.Topology) bool {
	return len(list) == 1 && len(list[0].GetSegments()) == 1 && list[0].GetSegments()[link.TopologyKey] == t.node
}

// sameVG reports whether two ids lie in one volume group.
func sameVG(a, b string) bool {
	vgA, _, okA := splitID(a)
	vgB, _, okB := splitID(b)
	return okA && okB && vgA == vgB
}

// checkCreated checks the answer to a CreateVolume.
func (c *creation) checkCreated(t target, v *csi.Volume) error {
	_, lv, ok := splitID(v.GetVolumeId())
	size, limit := v.GetCapacityBytes(), c.req.GetCapacityRange().GetLimitBytes()
	switch {
	case !ok || lv != volumeLV(c.req.GetName()):
		return t.wrong("volume %.80q is not what was asked for", v.GetVolumeId())
	case !t.hasID(v.GetVolumeId()):
		return t.wrong("volume %s is in a volume group that the node does not have", v.GetVolumeId())
	case !t.here(v.GetAccessibleTopology()):
		return t.wrong("it says that the volume lies elsewhere")
	case !proto.Equal(v.GetContentSource(), c.req.GetVolumeContentSource()):
		return t.wrong("it says that the volume was made from something else")
	case c.req.GetVolumeContentSource() != nil && !sameVG(v.GetVolumeId(), source(c.req.GetVolumeContentSource()).id):
		return t.wrong("volume %s does not lie where its source lies", v.GetVolumeId())
	case size < c.req.GetCapacityRange().GetRequiredBytes() || limit > 0 && size > limit:
		return t.wrong("a volume of %d bytes", size)
	}
	return nil
}

// checkSnapshot checks a snapshot in an answer. id and volume are those that were
// asked about; "": any of the node's.
func (t target) checkSnapshot(s *csi.Snapshot, id, volume string) error {
	switch {
	case !t.hasID(s.GetSnapshotId()) || !sameVG(s.GetSnapshotId(), s.GetSourceVolumeId()):
		return t.wrong("snapshot %.80q of volume %.80q is not the node's", s.GetSnapshotId(), s.GetSourceVolumeId())
	case id != "" && s.GetSnapshotId() != id, volume != "" && s.GetSourceVolumeId() != volume:
		return t.wrong("snapshot %s of volume %s is not what was asked for", s.GetSnapshotId(), s.GetSourceVolumeId())
	}
	return nil
}

// checkGroup checks what a node says of its part of a group of snapshots. volumes
// are its sources; nil: any of the node's.
func (t target) checkGroup(g *csi.VolumeGroupSnapshot, volumes []string) error {
	if _, _, ok := splitID(g.GetGroupSnapshotId()); !ok {
		return t.wrong("group snapshot %.80q", g.GetGroupSnapshotId())
	}
	for _, s := range g.GetSnapshots() {
		if err := t.checkSnapshot(s, "", ""); err != nil {
			return err
		}
		if volumes != nil && !slices.Contains(volumes, s.GetSourceVolumeId()) {
			return t.wrong("it has a snapshot of %s, which is not in the group", s.GetSourceVolumeId())
		}
	}
	return nil
}

// checkVolume checks a volume in an answer; id is the one that was asked about, "":
// any of the node's.
func (t target) checkVolume(v *csi.Volume, id string) error {
	switch {
	case !t.hasID(v.GetVolumeId()):
		return t.wrong("volume %.80q is not the node's", v.GetVolumeId())
	case id != "" && v.GetVolumeId() != id:
		return t.wrong("volume %s is not what was asked for", v.GetVolumeId())
	case !t.here(v.GetAccessibleTopology()):
		return t.wrong("it says that volume %s lies elsewhere", v.GetVolumeId())
	}
	return nil
}
