package placement

import (
	"context"
	"fmt"
	"strings"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lamina-csi/lamina/driver/link"
)

const (
	kindClaim    = "PersistentVolumeClaim"
	kindSnapshot = "VolumeSnapshot"
)

// sourceKey is "<kind>/<namespace>/<name>" of what a claim is made from; "": from
// nothing, or from what is not made here. A source in another namespace is refused
// by the provisioner.
func sourceKey(c *corev1.PersistentVolumeClaim) string {
	var group *string
	var kind, name string
	switch {
	case c.Spec.DataSource != nil:
		s := c.Spec.DataSource
		group, kind, name = s.APIGroup, s.Kind, s.Name
	case c.Spec.DataSourceRef != nil:
		s := c.Spec.DataSourceRef
		if s.Namespace != nil && *s.Namespace != "" && *s.Namespace != c.Namespace {
			return ""
		}
		group, kind, name = s.APIGroup, s.Kind, s.Name
	}
	switch {
	case kind == kindClaim && (group == nil || *group == ""):
	case kind == kindSnapshot && group != nil && *group == snapshotv1.GroupName:
	default:
		return ""
	}
	return kind + "/" + c.Namespace + "/" + name
}

// place is where something lies. Without node it is not known; with a volume group
// then, a node that shows the group makes it known.
type place struct{ node, vg string }

// sourceOf is where a claim's source lies.
func (p *Placement) sourceOf(ctx context.Context, c *corev1.PersistentVolumeClaim) (place, error) {
	kind, rest, _ := strings.Cut(sourceKey(c), "/")
	namespace, name, _ := strings.Cut(rest, "/")
	if kind == kindSnapshot {
		return p.snapshot(ctx, namespace, name)
	}
	return p.clone(namespace, name)
}

// clone is where a claim's volume lies.
func (p *Placement) clone(namespace, name string) (place, error) {
	c, err := p.claim.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && !bound(c) {
		return place{}, nil
	}
	if err != nil {
		return place{}, err
	}
	pv, err := p.volume.Get(c.Spec.VolumeName)
	if err != nil {
		return place{}, fmt.Errorf("find the volume of claim %s/%s: %w", namespace, name, err)
	}
	if pv.Spec.CSI == nil || pv.Spec.CSI.Driver != link.DriverName {
		return place{}, nil
	}
	vg := VolumeGroup(pv.Spec.CSI.VolumeHandle)
	// First the fleet, by which the router goes too: the disks may have been carried
	// to another node, and a PV's node affinity cannot follow them.
	if node, ok := p.config.Fleet.NodeOf(vg); ok {
		return place{node, vg}, nil
	}
	return place{NodeOf(pv), vg}, nil
}

func bound(c *corev1.PersistentVolumeClaim) bool {
	return c.Spec.VolumeName != "" && c.Status.Phase == corev1.ClaimBound
}

// snapshot is where a VolumeSnapshot lies. Only the contents are in a cache; they
// know the snapshot's name. The snapshot itself is read when one of them is ready.
func (p *Placement) snapshot(ctx context.Context, namespace, name string) (place, error) {
	ready, err := p.readyContents(namespace + "/" + name)
	if err != nil || len(ready) == 0 {
		return place{}, err
	}
	s, err := p.config.Snapshots.SnapshotV1().VolumeSnapshots(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return place{}, nil
	}
	if err != nil {
		return place{}, fmt.Errorf("get VolumeSnapshot %s/%s: %w", namespace, name, err)
	}
	for _, content := range ready {
		// A content of an earlier snapshot of the same name may still be there.
		if content.Spec.VolumeSnapshotRef.UID != s.UID {
			continue
		}
		vg := VolumeGroup(*content.Status.SnapshotHandle)
		node, _ := p.config.Fleet.NodeOf(vg)
		return place{node, vg}, nil
	}
	return place{}, nil
}

// readyContents are the contents of the VolumeSnapshot of that key which have a
// snapshot of this driver.
func (p *Placement) readyContents(key string) (out []*snapshotv1.VolumeSnapshotContent, err error) {
	p.mu.Lock()
	contents := p.contents
	p.mu.Unlock()
	if contents == nil {
		return nil, nil
	}
	found, err := contents.ByIndex(bySnapshot, key)
	for _, obj := range found {
		if c := obj.(*snapshotv1.VolumeSnapshotContent); ready(c) {
			out = append(out, c)
		}
	}
	return out, err
}

func ready(c *snapshotv1.VolumeSnapshotContent) bool {
	return c.Spec.Driver == link.DriverName && c.DeletionTimestamp == nil && c.Status != nil &&
		c.Status.ReadyToUse != nil && *c.Status.ReadyToUse && c.Status.SnapshotHandle != nil
}

// VolumeGroup is the UUID of the volume group in the id of a volume or snapshot.
func VolumeGroup(id string) string {
	vg, _, _ := strings.Cut(id, "/")
	return vg
}

// NodeOf is the node that a PV's node affinity names; "" if it does not name
// exactly one.
func NodeOf(pv *corev1.PersistentVolume) (node string) {
	a := pv.Spec.NodeAffinity
	if a == nil || a.Required == nil {
		return ""
	}
	for _, term := range a.Required.NodeSelectorTerms {
		in := ""
		for _, e := range term.MatchExpressions {
			if e.Key == link.TopologyKey && e.Operator == corev1.NodeSelectorOpIn && len(e.Values) == 1 {
				in = e.Values[0]
			}
		}
		if in == "" || node != "" && node != in {
			return ""
		}
		node = in
	}
	return node
}
