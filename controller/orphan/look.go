package orphan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"

	"github.com/lamina-csi/lamina/controller/placement"
	"github.com/lamina-csi/lamina/driver/link"
)

// errUnsettled: the agent has not looked at its disks since it was told what is
// wanted of it.
var errUnsettled = errors.New("the agent has not settled yet")

// look is what was found at one moment.
type look struct {
	began   time.Time
	orphans []orphan
}

// look asks a node once.
func (f *Finder) look(ctx context.Context, node string) (look, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	l := look{began: time.Now()}
	conn, err := f.config.Fleet.Conn(node)
	if err != nil {
		return l, err
	}
	pools, err := status(ctx, conn)
	if err != nil {
		return l, err
	}
	before, err := volumesBy(f.volumes, byNode, node)
	if err != nil {
		return l, err
	}
	listed, err := list(ctx, conn)
	if err != nil {
		return l, err
	}
	lvs, err := f.withoutPV(listed, pools)
	if err != nil {
		return l, err
	}
	l.orphans = append(lvs, f.withoutVolume(node, before, listed, pools)...)
	return l, nil
}

// status is how the node's pools are, by the UUIDs of their volume groups.
func status(ctx context.Context, conn *grpc.ClientConn) (map[string]*link.PoolStatus, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	stream, err := link.NewPoolsClient(conn).Watch(ctx, &link.WatchRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask for the pools: %w", err)
	}
	resp, err := stream.Recv()
	if err != nil {
		return nil, fmt.Errorf("ask for the pools: %w", err)
	}
	if !resp.GetSettled() {
		return nil, errUnsettled
	}
	pools := map[string]*link.PoolStatus{}
	for _, p := range resp.GetPools() {
		if p.GetVgUuid() != "" {
			pools[p.GetVgUuid()] = p
		}
	}
	return pools, nil
}

// list is the node's volumes by id.
func list(ctx context.Context, conn *grpc.ClientConn) (map[string]*csi.Volume, error) {
	const pageSize = 1000
	// No node has more: an agent could send pages without end.
	const most = 50_000
	out, pages := map[string]*csi.Volume{}, 0
	for token := ""; ; {
		resp, err := csi.NewControllerClient(conn).ListVolumes(ctx, &csi.ListVolumesRequest{MaxEntries: pageSize, StartingToken: token})
		if err != nil {
			return nil, fmt.Errorf("list volumes: %w", err)
		}
		for _, e := range resp.GetEntries() {
			out[e.GetVolume().GetVolumeId()] = e.GetVolume()
		}
		if pages++; len(out) > most || pages > most/pageSize {
			return nil, fmt.Errorf("list volumes: the node lists more than %d", most)
		}
		if token = resp.GetNextToken(); token == "" {
			return out, nil
		}
	}
}

// withoutPV are the volumes that no PersistentVolume tells of and no claim waits
// for.
func (f *Finder) withoutPV(listed map[string]*csi.Volume, pools map[string]*link.PoolStatus) ([]orphan, error) {
	suspects := map[string][]orphan{} // by name
	for id, v := range listed {
		pvs, err := volumesBy(f.volumes, byHandle, id)
		if err != nil {
			return nil, err
		}
		if len(pvs) > 0 {
			continue
		}
		vg, name, _ := strings.Cut(id, "/")
		suspects[name] = append(suspects[name], orphan{
			kind: kindVolume, id: id,
			text: fmt.Sprintf("%.80s/%.80s (%d bytes, id %.160s)", pools[vg].GetVg(), name, v.GetCapacityBytes(), id),
		})
	}
	if len(suspects) == 0 {
		return nil, nil
	}
	for _, obj := range f.claims.GetStore().List() {
		if c := obj.(*corev1.PersistentVolumeClaim); c.Spec.VolumeName == "" {
			delete(suspects, volumePrefix+string(c.UID))
		}
	}
	var out []orphan
	for _, s := range suspects {
		out = append(out, s...)
	}
	return out, nil
}

// volumePrefix and its claim's UID are the name that the provisioner gives a
// volume.
const volumePrefix = "pvc-"

// withoutVolume are those of the node's PersistentVolumes whose volume it does not
// list although it should.
func (f *Finder) withoutVolume(node string, pvs []*corev1.PersistentVolume, listed map[string]*csi.Volume, pools map[string]*link.PoolStatus) (out []orphan) {
	for _, pv := range pvs {
		id := pv.Spec.CSI.VolumeHandle
		if listed[id] != nil || !f.stays(pv) {
			continue
		}
		vg := placement.VolumeGroup(id)
		o := orphan{kind: kindPV, id: id, pv: pv}
		switch p := pools[vg]; {
		case p != nil && !whole(p):
			continue // its condition tells of it
		case p != nil:
			_, name, _ := strings.Cut(id, "/")
			o.text = fmt.Sprintf("node %s has no volume %s in volume group %s", node, name, p.GetVg())
		default:
			if owner, ok := f.config.Fleet.NodeOf(vg); ok && owner != node {
				continue // the disks were carried there
			}
			o.text = fmt.Sprintf("node %s shows no volume group %s, in which the volume was; its disks may be missing", node, vg)
		}
		out = append(out, o)
	}
	return out
}

// stays reports whether a PersistentVolume is there still, and not about to go.
func (f *Finder) stays(pv *corev1.PersistentVolume) bool {
	now, err := f.volume.Get(pv.Name)
	return err == nil && now.UID == pv.UID && now.DeletionTimestamp == nil &&
		(now.Status.Phase != corev1.VolumeReleased || now.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete)
}

// whole reports whether a list of the pool's volumes is sure to have them all.
func whole(p *link.PoolStatus) bool {
	return len(p.GetDisks()) > 0 && slices.Contains([]string{"ok", "full", "readonly", "degraded"}, p.GetHealth())
}

// Reasons of events.
const (
	reasonVolume = "OrphanedVolume" // on the Node
	reasonPV     = "VolumeMissing"  // on the PersistentVolume
)

// tell tells of orphans that are new.
func (f *Finder) tell(node string, found []orphan) {
	const enough = 5 // volumes named in one event
	var volumes []string
	for _, o := range found {
		f.log.Warn("orphan", "kind", o.kind, "node", node, "id", o.id, "text", o.text)
		if o.kind == kindPV {
			f.config.Recorder.Event(o.pv, corev1.EventTypeWarning, reasonPV, o.text)
			continue
		}
		volumes = append(volumes, o.text)
	}
	n, err := f.node.Get(node)
	if len(volumes) == 0 || err != nil { // a Node that is gone has no events
		return
	}
	slices.Sort(volumes)
	more := ""
	if len(volumes) > enough {
		more = fmt.Sprintf(", and %d more", len(volumes)-enough)
		volumes = volumes[:enough]
	}
	f.config.Recorder.Event(n, corev1.EventTypeWarning, reasonVolume,
		"no PersistentVolume tells of "+strings.Join(volumes, ", ")+more+"; they take room and are never removed by themselves")
}
