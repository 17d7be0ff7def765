package orphan

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/lamina-csi/lamina/controller/fleet"
	"github.com/lamina-csi/lamina/controller/fleettest"
	"github.com/lamina-csi/lamina/driver/drivertest"
	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/node/pool"
)

// events passes on what is recorded.
type events chan string

func (e events) Event(obj runtime.Object, kind, reason, message string) {
	m, err := meta.Accessor(obj)
	if err != nil {
		panic(err)
	}
	e <- fmt.Sprintf("%s %s %s: %s", m.GetName(), kind, reason, message)
}

// take returns the events since the last take.
func (e events) take() (out []string) {
	for {
		select {
		case s := <-e:
			out = append(out, s)
		default:
			slices.Sort(out)
			return out
		}
	}
}

// rig is a Finder between nodes in memory and a fake API server.
type rig struct {
	*Finder
	t       *testing.T
	cluster *fleettest.Cluster
	fleet   *fleet.Fleet
	kube    *fake.Clientset
	events  events
	a       *fleettest.Node // a linked node with the thin pool fast
	changes chan string     // nodes whose status or link changed
}

// newRig has the Nodes a and b, and the first of them linked. Its informers are
// full.
func newRig(t *testing.T, objects ...runtime.Object) *rig {
	t.Helper()
	r := &rig{t: t, cluster: fleettest.NewCluster(t), events: make(events, 100), changes: make(chan string, 1000)}
	r.fleet = fleet.New(r.cluster, nil)
	r.fleet.Subscribe(func(node string) { r.changes <- node })
	r.kube = fake.NewClientset(append(objects, node("a"), node("b"))...)
	factory := informers.NewSharedInformerFactory(r.kube, 0)
	r.Finder = New(Config{Informers: factory, Fleet: r.fleet, Recorder: r.events, Metrics: prometheus.NewRegistry()})
	if err := index(r.volumes); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	ended := make(chan error, 1)
	go func() { ended <- r.fleet.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
	})
	r.a = r.add("a")
	return r
}

// add makes a linked node and waits until the fleet knows its pool.
func (r *rig) add(name string) *fleettest.Node {
	r.t.Helper()
	n := r.cluster.Add(r.t, name, drivertest.Spec("fast", pool.Thin))
	n.Link(r.t)
	for {
		if status, _ := r.fleet.Status(name); len(status) > 0 {
			return n
		}
		<-r.changes
	}
}

// create makes a volume on a node and returns its id.
func (r *rig) create(n *fleettest.Node, name string) string {
	r.t.Helper()
	resp, err := n.CreateVolume(r.t.Context(), &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: 4 << 20}, Parameters: map[string]string{"pool": "fast"},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessType: &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.GetVolume().GetVolumeId()
}

// setPV puts a PV where the informer sees it at once.
func (r *rig) setPV(pvs ...*corev1.PersistentVolume) {
	r.t.Helper()
	for _, pv := range pvs {
		if err := r.volumes.GetStore().Add(pv); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) setClaim(c *corev1.PersistentVolumeClaim) {
	r.t.Helper()
	if err := r.claims.GetStore().Add(c); err != nil {
		r.t.Fatal(err)
	}
}

// orphans are those that one look at node a finds: "<kind> <id>".
func (r *rig) orphans() (out []string) {
	r.t.Helper()
	seen, err := r.look(r.t.Context(), "a")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, o := range seen.orphans {
		out = append(out, o.kind+" "+o.id)
	}
	slices.Sort(out)
	return out
}

func node(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// pv is a bound PersistentVolume of ours on a node.
func pv(name, node, handle string, change ...func(*corev1.PersistentVolume)) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PersistentVolumeSpec{
			PersistentVolumeSource:        corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: link.DriverName, VolumeHandle: handle}},
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete,
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: link.TopologyKey, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound},
	}
	for _, c := range change {
		c(v)
	}
	return v
}
