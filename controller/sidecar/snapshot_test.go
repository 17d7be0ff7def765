package sidecar

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	groupv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/node/pool"
)

const (
	beingCreated = "snapshot.storage.kubernetes.io/volumesnapshot-being-created"
	beingDeleted = "snapshot.storage.kubernetes.io/volumesnapshot-being-deleted"
	snapshotUID  = "00000000-0000-4000-9000-000000000001"
)

func snapshotClass() *snapshotv1.VolumeSnapshotClass {
	return &snapshotv1.VolumeSnapshotClass{
		ObjectMeta:     metav1.ObjectMeta{Name: "fast"},
		Driver:         link.DriverName,
		DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete,
	}
}

// content is what the cluster's snapshot controller makes of a VolumeSnapshot.
func content(volume string) *snapshotv1.VolumeSnapshotContent {
	return &snapshotv1.VolumeSnapshotContent{
		ObjectMeta: metav1.ObjectMeta{
			Name:       "snapcontent-1",
			Finalizers: []string{"snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"},
		},
		Spec: snapshotv1.VolumeSnapshotContentSpec{
			VolumeSnapshotRef:       corev1.ObjectReference{Kind: "VolumeSnapshot", Namespace: namespace, Name: "backup", UID: snapshotUID},
			DeletionPolicy:          snapshotv1.VolumeSnapshotContentDelete,
			Driver:                  link.DriverName,
			VolumeSnapshotClassName: new("fast"),
			Source:                  snapshotv1.VolumeSnapshotContentSource{VolumeHandle: &volume},
		},
	}
}

func (c *cluster) content() *snapshotv1.VolumeSnapshotContent {
	return find[*snapshotv1.VolumeSnapshotContent](c, c.snaps.Tracker(), contentsGVR, "", "snapcontent-1")
}

// ready reports whether the snapshot is there and no longer marked.
func (c *cluster) ready() bool {
	got := c.content()
	_, marked := got.Annotations[beingCreated]
	return got.Status != nil && got.Status.ReadyToUse != nil && *got.Status.ReadyToUse && !marked
}

// snapshots is the ids of the snapshots that the node has.
func (c *cluster) snapshots() (ids []string) {
	c.t.Helper()
	list, err := c.node.ListSnapshots(c.t.Context(), &csi.ListSnapshotsRequest{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range list.GetEntries() {
		ids = append(ids, e.GetSnapshot().GetSnapshotId())
	}
	return ids
}

// deleteContent marks the content as the snapshot controller does, and waits until
// it is free. The controller marks it again where the snapshotter, which writes all
// annotations as it last saw them, has just taken the mark away.
func (c *cluster) deleteContent() {
	c.t.Helper()
	c.await("the content to be free", func() bool {
		if got := c.content(); got.Annotations[beingDeleted] != "" {
			return len(got.Finalizers) == 0
		}
		if err := c.snaps.Tracker().change(contentsGVR, "", "snapcontent-1", func(o runtime.Object) {
			got := o.(*snapshotv1.VolumeSnapshotContent)
			got.DeletionTimestamp = new(metav1.Now())
			metav1.SetMetaDataAnnotation(&got.ObjectMeta, beingDeleted, "yes")
		}); err != nil {
			c.t.Fatal(err)
		}
		return false
	})
}

func TestSnapshot(t *testing.T) {
	c := start(t, options{}, snapshotClass())
	pv := c.provision(newClaim(1, 100*mib))
	for len(c.writes) > 0 {
		<-c.writes
	}
	c.set(c.snaps.Tracker(), contentsGVR, content(pv.Spec.CSI.VolumeHandle))
	c.await("the snapshot", c.ready)
	got := c.content().Status
	if diff := cmp.Diff([]string{*got.SnapshotHandle}, c.snapshots()); diff != "" {
		t.Errorf("snapshots (-want +got):\n%s", diff)
	}
	if !strings.HasSuffix(*got.SnapshotHandle, "/snap-"+snapshotUID) {
		t.Errorf("handle %s", *got.SnapshotHandle)
	}
	if *got.RestoreSize != 100*mib {
		t.Errorf("restore size %d", *got.RestoreSize)
	}

	c.deleteContent()
	if left := c.snapshots(); len(left) != 0 {
		t.Errorf("the node still has %v", left)
	}
	c.stop()
	var writes []string
	for len(c.writes) > 0 {
		if w := <-c.writes; !strings.HasSuffix(w, "events") { // the claim's
			writes = append(writes, w)
		}
	}
	want := []string{
		"patch volumesnapshotcontents", // being created
		"patch volumesnapshotcontents/status",
		"patch volumesnapshotcontents",
		"update volumesnapshotcontents/status",
		"patch volumesnapshotcontents", // the finalizer
	}
	if diff := cmp.Diff(want, writes); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
}

// A snapshot for which the pool has no room can be given up.
func TestSnapshotThatDoesNotFit(t *testing.T) {
	var refused atomic.Int32
	full := func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if _, ok := req.(*csi.CreateSnapshotRequest); ok {
			refused.Add(1)
			return status.Error(codes.ResourceExhausted, "pool fast is full")
		}
		return invoke(ctx, method, req, reply, conn, opts...)
	}
	c := start(t, options{intercept: full}, snapshotClass())
	pv := c.provision(newClaim(1, 100*mib))
	c.set(c.snaps.Tracker(), contentsGVR, content(pv.Spec.CSI.VolumeHandle))
	c.await("a refusal", func() bool { return c.content().Status != nil })
	if got := *c.content().Status.Error.Message; !strings.Contains(got, "pool fast is full") {
		t.Errorf("the content says %q", got)
	}
	c.deleteContent()
}

func TestRestore(t *testing.T) {
	// The cluster's snapshot controller has finalizers of its own on it.
	backup := &snapshotv1.VolumeSnapshot{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "backup", UID: snapshotUID, Finalizers: []string{"example.com/other"}},
		Spec:       snapshotv1.VolumeSnapshotSpec{Source: snapshotv1.VolumeSnapshotSource{PersistentVolumeClaimName: new("data-1")}},
		Status: &snapshotv1.VolumeSnapshotStatus{
			BoundVolumeSnapshotContentName: new("snapcontent-1"),
			ReadyToUse:                     new(true),
			RestoreSize:                    resource.NewQuantity(100*mib, resource.BinarySI),
		},
	}
	c := start(t, options{}, snapshotClass(), backup)
	pv := c.provision(newClaim(1, 100*mib))
	c.set(c.snaps.Tracker(), contentsGVR, content(pv.Spec.CSI.VolumeHandle))
	c.await("the snapshot", c.ready)
	for len(c.writes) > 0 {
		<-c.writes
	}

	claim := newClaim(2, 100*mib)
	claim.Spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: new(snapshotv1.GroupName), Kind: "VolumeSnapshot", Name: "backup"}
	restored := c.provision(claim)
	id, err := pool.ParseID(restored.Spec.CSI.VolumeHandle)
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.node.Pools.GetVolume(id)
	if err != nil {
		t.Fatal(err)
	}
	if v.Source.String() != *c.content().Status.SnapshotHandle {
		t.Errorf("the volume's source is %s, want %s", v.Source, *c.content().Status.SnapshotHandle)
	}
	c.stop()
	var writes []string
	for len(c.writes) > 0 {
		if w := <-c.writes; !strings.HasSuffix(w, "events") {
			writes = append(writes, w)
		}
	}
	want := []string{"update volumesnapshots", "update volumesnapshots", "create persistentvolumes"}
	if diff := cmp.Diff(want, writes); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
}

func groupObjects(volumes ...string) (*groupv1.VolumeGroupSnapshotClass, *groupv1.VolumeGroupSnapshotContent) {
	return &groupv1.VolumeGroupSnapshotClass{
			ObjectMeta:     metav1.ObjectMeta{Name: "fast"},
			Driver:         link.DriverName,
			DeletionPolicy: snapshotv1.VolumeSnapshotContentDelete,
		}, &groupv1.VolumeGroupSnapshotContent{
			ObjectMeta: metav1.ObjectMeta{Name: "groupsnapcontent-1"},
			Spec: groupv1.VolumeGroupSnapshotContentSpec{
				VolumeGroupSnapshotRef:       corev1.ObjectReference{Kind: "VolumeGroupSnapshot", Namespace: namespace, Name: "both", UID: snapshotUID},
				DeletionPolicy:               snapshotv1.VolumeSnapshotContentDelete,
				Driver:                       link.DriverName,
				VolumeGroupSnapshotClassName: new("fast"),
				Source:                       groupv1.VolumeGroupSnapshotContentSource{VolumeHandles: volumes},
			},
		}
}

func (c *cluster) group() *groupv1.VolumeGroupSnapshotContent {
	return find[*groupv1.VolumeGroupSnapshotContent](c, c.snaps.Tracker(), groupsGVR, "", "groupsnapcontent-1")
}

func (c *cluster) groupReady() bool {
	got := c.group()
	return got != nil && got.Status != nil && got.Status.ReadyToUse != nil && *got.Status.ReadyToUse
}

func TestGroupSnapshot(t *testing.T) {
	class, _ := groupObjects()
	c := start(t, options{}, snapshotClass(), class)
	volumes := []string{
		c.provision(newClaim(1, 100*mib)).Spec.CSI.VolumeHandle,
		c.provision(newClaim(2, 100*mib)).Spec.CSI.VolumeHandle,
	}
	_, group := groupObjects(volumes...)
	c.set(c.snaps.Tracker(), groupsGVR, group)
	c.await("the group", c.groupReady)
	var sources, members []string
	for _, i := range c.group().Status.VolumeSnapshotInfoList {
		sources, members = append(sources, i.VolumeHandle), append(members, i.SnapshotHandle)
	}
	sorted := cmpopts.SortSlices(strings.Compare)
	if diff := cmp.Diff(volumes, sources, sorted); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(members, c.snapshots(), sorted); diff != "" {
		t.Errorf("members (-status +node):\n%s", diff)
	}
}

// The CRDs may be installed while the controller runs, those of groups last.
func TestSnapshotAPIsAppear(t *testing.T) {
	class, _ := groupObjects()
	c := start(t, options{api: map[string][]string{}}, snapshotClass(), class)
	pv := c.provision(newClaim(1, 100*mib))
	c.set(c.snaps.Tracker(), contentsGVR, content(pv.Spec.CSI.VolumeHandle))
	_, group := groupObjects(pv.Spec.CSI.VolumeHandle)
	c.set(c.snaps.Tracker(), groupsGVR, group)

	all := allAPIs()
	c.kube.api.serve("snapshot.storage.k8s.io/v1", "VolumeSnapshot", "VolumeSnapshotContent")
	c.kube.api.serve("snapshot.storage.k8s.io/v1", all["snapshot.storage.k8s.io/v1"]...)
	c.await("the snapshot", c.ready)
	if got := c.group(); got.Status != nil {
		t.Errorf("the group has status %v before its API is served", got.Status)
	}
	c.kube.api.serve("groupsnapshot.storage.k8s.io/v1", all["groupsnapshot.storage.k8s.io/v1"]...)
	c.await("the group", c.groupReady)
	if got := c.snapshots(); len(got) != 2 {
		t.Errorf("the node has the snapshots %v", got)
	}
	if want := "snapshot.storage.kubernetes.io/volumesnapshotcontent-bound-protection"; !slices.Contains(c.content().Finalizers, want) {
		t.Errorf("the content's finalizers are %v", c.content().Finalizers)
	}
}
