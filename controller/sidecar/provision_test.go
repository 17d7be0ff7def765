package sidecar

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"

	"github.com/lamina-csi/lamina/driver/drivertest"
	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/node/pool"
)

// seen keeps the requests of one method.
type seen struct {
	mu   sync.Mutex
	reqs []*csi.CreateVolumeRequest
}

func (s *seen) intercept(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if r, ok := req.(*csi.CreateVolumeRequest); ok {
		s.mu.Lock()
		s.reqs = append(s.reqs, r)
		s.mu.Unlock()
	}
	return invoke(ctx, method, req, reply, conn, opts...)
}

func (s *seen) first() *csi.CreateVolumeRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reqs[0]
}

func topologies(nodes ...string) (list []*csi.Topology) {
	for _, n := range nodes {
		list = append(list, &csi.Topology{Segments: map[string]string{link.TopologyKey: n}})
	}
	return list
}

func TestClaimBecomesVolume(t *testing.T) {
	var s seen
	c := start(t, options{intercept: s.intercept})
	pv := c.provision(newClaim(1, 100*mib))

	ids := c.volumes()
	if len(ids) != 1 {
		t.Fatalf("the node has the volumes %v", ids)
	}
	want := corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(100*mib, resource.BinarySI)},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
			Driver:           link.DriverName,
			VolumeHandle:     ids[0],
			FSType:           "ext4",
			VolumeAttributes: map[string]string{"fsType": "ext4", "storage.kubernetes.io/csiProvisionerIdentity": link.DriverName},
		}},
		AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		ClaimRef:                      &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: namespace, Name: "data-1", UID: newClaim(1, 0).UID},
		PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
		StorageClassName:              "fast",
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: link.TopologyKey, Operator: corev1.NodeSelectorOpIn, Values: []string{drivertest.NodeID}}},
		}}}},
	}
	if diff := cmp.Diff(want, pv.Spec, cmpopts.IgnoreFields(corev1.ObjectReference{}, "ResourceVersion")); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if want := []string{"external-provisioner.volume.kubernetes.io/finalizer"}; !slices.Equal(pv.Finalizers, want) {
		t.Errorf("finalizers %v, want %v", pv.Finalizers, want)
	}
	wantReq := &csi.CreateVolumeRequest{
		Name:          pv.Name,
		CapacityRange: &csi.CapacityRange{RequiredBytes: 100 * mib},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER},
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
		}},
		Parameters: map[string]string{
			"pool":                             "fast",
			"csi.storage.k8s.io/pvc/name":      "data-1",
			"csi.storage.k8s.io/pvc/namespace": namespace,
			"csi.storage.k8s.io/pv/name":       pv.Name,
		},
		AccessibilityRequirements: &csi.TopologyRequirement{
			Requisite: topologies(drivertest.NodeID), Preferred: topologies(drivertest.NodeID),
		},
	}
	if diff := cmp.Diff(wantReq, s.first(), protocmp.Transform()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

// Without a selected node every node that runs the driver may be chosen.
func TestImmediateBinding(t *testing.T) {
	var s seen
	immediate := class("fast")
	immediate.Name = "now"
	immediate.VolumeBindingMode = nil
	c := start(t, options{intercept: s.intercept}, immediate)
	claim := newClaim(1, 100*mib)
	delete(claim.Annotations, selected)
	claim.Spec.StorageClassName = &immediate.Name
	c.provision(claim)
	got := s.first().GetAccessibilityRequirements()
	slices.SortFunc(got.Preferred, func(a, b *csi.Topology) int {
		return strings.Compare(a.Segments[link.TopologyKey], b.Segments[link.TopologyKey])
	})
	both := topologies(drivertest.NodeID, elsewhere)
	if diff := cmp.Diff(&csi.TopologyRequirement{Requisite: both, Preferred: both}, got, protocmp.Transform()); diff != "" {
		t.Errorf("requirement (-want +got):\n%s", diff)
	}
	if _, err := c.sidecar.provisioner.topologies.GetByPvcUID(claim.UID); err == nil {
		t.Error("the nodes of the cluster are still remembered for the claim")
	}
}

// The writes of one volume's whole life: five, with the two events.
func TestWritesOfOneVolume(t *testing.T) {
	c := start(t, options{})
	pv := c.provision(newClaim(1, 100*mib))
	c.await("events", func() bool { return len(c.events()) == 2 })
	pv.Status.Phase = corev1.VolumeReleased
	c.set(c.kube.Tracker(), volumesGVR, pv)
	c.await("the end of the volume", func() bool { return c.pv(pv.Name) == nil })
	if ids := c.volumes(); len(ids) != 0 {
		t.Errorf("the node still has %v", ids)
	}
	c.stop()
	var got []string
	for len(c.writes) > 0 {
		got = append(got, <-c.writes)
	}
	// What comes second in time is not settled: events are written apart.
	want := []string{
		"create events", // Provisioning
		"create events", // ProvisioningSucceeded
		"create persistentvolumes",
		"delete persistentvolumes",
		"patch persistentvolumes", // the finalizer
	}
	if diff := cmp.Diff(want, got, cmpopts.SortSlices(strings.Compare)); diff != "" {
		t.Errorf("writes (-want +got):\n%s", diff)
	}
}

func TestFullPoolIsRescheduled(t *testing.T) {
	c := start(t, options{})
	c.set(c.kube.Tracker(), claimsGVR, newClaim(1, 1<<50))
	c.await("another node to be chosen", func() bool { return c.claim("data-1").Annotations[selected] == "" })
	if ids := c.volumes(); len(ids) != 0 {
		t.Errorf("the node has %v", ids)
	}
}

// failing answers the first calls of CreateVolume with Unavailable.
type failing struct {
	mu       sync.Mutex
	left     int
	afterOne bool // the driver has done the work; its answer is lost
	requests int
}

func (f *failing) intercept(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, ok := req.(*csi.CreateVolumeRequest); !ok {
		return invoke(ctx, method, req, reply, conn, opts...)
	}
	f.mu.Lock()
	f.requests++
	fail := f.left > 0
	f.left--
	f.mu.Unlock()
	if fail && f.afterOne {
		if err := invoke(ctx, method, req, reply, conn, opts...); err != nil {
			return err
		}
	}
	if fail {
		return status.Error(codes.Unavailable, "no link to node-1")
	}
	return invoke(ctx, method, req, reply, conn, opts...)
}

func (f *failing) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests
}

func TestUnavailableIsRetried(t *testing.T) {
	for _, afterOne := range []bool{false, true} {
		f := &failing{left: 2, afterOne: afterOne}
		c := start(t, options{intercept: f.intercept})
		pv := c.provision(newClaim(1, 100*mib))
		if diff := cmp.Diff([]string{pv.Spec.CSI.VolumeHandle}, c.volumes()); diff != "" {
			t.Errorf("done first: %v: volumes (-want +got):\n%s", afterOne, diff)
		}
		if f.count() != 3 {
			t.Errorf("done first: %v: %d calls, want 3", afterOne, f.count())
		}
		if got := c.claim("data-1").Annotations[selected]; got != drivertest.NodeID {
			t.Errorf("done first: %v: the selected node is now %q", afterOne, got)
		}
		c.stop()
	}
}

// A claim does not wait for ever for a node that was deleted while it was asked.
func TestDeletedNodeIsRescheduled(t *testing.T) {
	f := &failing{left: 1 << 30}
	c := start(t, options{intercept: f.intercept})
	c.set(c.kube.Tracker(), claimsGVR, newClaim(1, 100*mib))
	c.await("the first failure", func() bool { return slices.Contains(c.events(), "ProvisioningFailed") })
	for _, gvr := range []schema.GroupVersionResource{csiNodesGVR, nodesGVR} {
		if err := c.kube.Tracker().Delete(gvr, "", drivertest.NodeID); err != nil {
			t.Fatal(err)
		}
	}
	c.await("another node to be chosen", func() bool { return c.claim("data-1").Annotations[selected] == "" })
}

func TestClone(t *testing.T) {
	const finalizer = "provisioner.storage.kubernetes.io/cloning-protection"
	c := start(t, options{})
	source := c.provision(newClaim(1, 100*mib))
	clone := newClaim(2, 100*mib)
	clone.Spec.DataSource = &corev1.TypedLocalObjectReference{Kind: "PersistentVolumeClaim", Name: "data-1"}
	pv := c.provision(clone)

	id, err := pool.ParseID(pv.Spec.CSI.VolumeHandle)
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.node.Pools.GetVolume(id)
	if err != nil {
		t.Fatal(err)
	}
	if v.Source.String() != source.Spec.CSI.VolumeHandle {
		t.Errorf("the clone's source is %s, want %s", v.Source, source.Spec.CSI.VolumeHandle)
	}
	if got := c.claim("data-1").Finalizers; !slices.Contains(got, finalizer) {
		t.Errorf("finalizers of the source %v", got)
	}
	c.setClaim("data-1", func(p *corev1.PersistentVolumeClaim) {
		now := metav1.Now()
		p.DeletionTimestamp = &now
	})
	c.await("the source to be free", func() bool { return !slices.Contains(c.claim("data-1").Finalizers, finalizer) })
}

func TestNewTwice(t *testing.T) {
	c := start(t, options{})
	config := c.sidecar.config
	if _, err := New(config); err == nil {
		t.Error("a second sidecar on the same informers was made")
	}
	config.Informers = informers.NewSharedInformerFactory(c.kube, 0)
	if _, err := New(config); err != nil {
		t.Errorf("on informers of its own: %v", err)
	}
}
