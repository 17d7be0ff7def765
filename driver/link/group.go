package link

// Keys of gRPC metadata on a CreateVolumeGroupSnapshot from controller to agent,
// for a group that lies on several nodes. The value is the instant of the attempt
// to make it. Without either, all of the group lies on the agent's node.
const (
	// SnapshotKey: make this node's members under the hold of that instant
	// (Pools.HoldGroup). They are not ready.
	SnapshotKey = "lamina-snapshot-instant"
	// CommitKey: mark this node's members of that instant as ready, now that those
	// of all nodes were made.
	CommitKey = "lamina-commit-instant"
)

// TotalKey is the key of gRPC metadata on a Get- or DeleteVolumeGroupSnapshot from
// controller to agent whose snapshot_ids are those of the agent's node: how many
// snapshots the caller has listed in all. Without it, all are on the node.
const TotalKey = "lamina-group-total"
