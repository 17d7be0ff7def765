package orphan

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/lamina-csi/lamina/driver/link"
)

// links is which node showed a volume group, and which has a link.
type links struct {
	Fleet
	owner  map[string]string
	linked map[string]bool
}

func (l links) NodeOf(vg string) (string, bool) {
	node, ok := l.owner[vg]
	return node, ok
}

func (l links) Conn(node string) (*grpc.ClientConn, error) {
	if l.linked[node] {
		return nil, nil
	}
	return nil, errors.New("no link")
}

func forget(node string) func(*corev1.PersistentVolume) {
	return func(p *corev1.PersistentVolume) { p.Annotations = map[string]string{ForgetAnnotation: node} }
}

// content has the snapshot vg/snap-1; word is its annotation, if any.
func content(word string) *snapshotv1.VolumeSnapshotContent {
	c := &snapshotv1.VolumeSnapshotContent{
		ObjectMeta: metav1.ObjectMeta{Name: "content"},
		Spec:       snapshotv1.VolumeSnapshotContentSpec{Driver: link.DriverName},
		Status:     &snapshotv1.VolumeSnapshotContentStatus{SnapshotHandle: new("vg/snap-1")},
	}
	if word != "" {
		c.Annotations = map[string]string{ForgetAnnotation: word}
	}
	return c
}

// cluster is what a Forget decides by.
type cluster struct {
	pvs      []*corev1.PersistentVolume
	deleted  *corev1.PersistentVolume // one that was there before
	contents []*snapshotv1.VolumeSnapshotContent
	noCRDs   bool
	nodes    []string // in the cluster
	apiError error    // of the question for a Node
	links    links
}

// forget runs a Forget that has seen all that.
func (c cluster) forget(t *testing.T) (*Forget, events) {
	t.Helper()
	var objects []runtime.Object
	for _, n := range c.nodes {
		objects = append(objects, node(n))
	}
	kube := fake.NewClientset(objects...)
	if c.apiError != nil {
		kube.PrependReactor("get", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, c.apiError })
	}
	factory := informers.NewSharedInformerFactory(kube, 0)
	recorded := make(events, 10)
	f, err := NewForget(ForgetConfig{Client: kube, Informers: factory, Fleet: c.links, Recorder: recorded})
	if err != nil {
		t.Fatal(err)
	}
	if c.deleted != nil {
		f.note(c.deleted)
	}
	for _, pv := range c.pvs {
		f.note(pv)
		if err := f.volumes.GetStore().Add(pv); err != nil {
			t.Fatal(err)
		}
	}
	if c.noCRDs {
		return f, recorded
	}
	contents := cache.NewSharedIndexInformer(nil, &snapshotv1.VolumeSnapshotContent{}, 0, cache.Indexers{})
	if err := f.know(contents); err != nil {
		t.Fatal(err)
	}
	for _, content := range c.contents {
		if err := contents.GetStore().Add(content); err != nil {
			t.Fatal(err)
		}
	}
	return f, recorded
}

// Run sees the volumes and the contents that there are.
func TestForgetRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kube := fake.NewClientset(pv("pv", "gone", "vg/pvc-1"))
		factory := informers.NewSharedInformerFactory(kube, 0)
		contents := cache.NewSharedIndexInformer(nil, &snapshotv1.VolumeSnapshotContent{}, 0, cache.Indexers{})
		install := make(chan struct{})
		f, err := NewForget(ForgetConfig{
			Client: kube, Informers: factory, Fleet: links{}, Recorder: make(events, 10),
			Contents: func(context.Context) cache.SharedIndexInformer {
				<-install
				return contents
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		factory.Start(ctx.Done())
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		synctest.Wait()
		if f.Forgotten("vg/snap-1") {
			t.Error("forgotten without the CRDs")
		}
		if err := contents.GetStore().Add(content("gone")); err != nil {
			t.Fatal(err)
		}
		close(install)
		synctest.Wait()
		if !f.Forgotten("vg/snap-1") {
			t.Error("not forgotten")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
	})
}

func TestForgotten(t *testing.T) {
	const id, snap = "vg/pvc-1", "vg/snap-1"
	nodes := schema.GroupResource{Resource: "nodes"}
	one := func(change ...func(*corev1.PersistentVolume)) []*corev1.PersistentVolume {
		return []*corev1.PersistentVolume{pv("pv", "gone", id, change...)}
	}
	noAffinity := func(p *corev1.PersistentVolume) { p.Spec.NodeAffinity = nil }
	given := []*snapshotv1.VolumeSnapshotContent{content("gone")}
	for _, tt := range []struct {
		name    string
		cluster cluster
		id      string
		want    bool
		event   string // "": none
	}{
		{name: "given up", cluster: cluster{pvs: one(forget("gone")), nodes: []string{"other"}}, id: id, want: true},
		{name: "given up, without snapshots", cluster: cluster{pvs: one(forget("gone")), noCRDs: true}, id: id, want: true},
		{name: "not given up", cluster: cluster{pvs: one()}, id: id},
		{name: "another volume is", cluster: cluster{pvs: one(forget("gone"))}, id: "vg/pvc-2"},
		{name: "no PersistentVolume", id: id},
		{name: "the Node is there", cluster: cluster{pvs: one(forget("gone")), nodes: []string{"gone"}}, id: id, event: "pv Warning ForgetRefused: annotation lamina.dev/forget=gone does not count: Node gone is in the cluster"},
		{name: "another node's name", cluster: cluster{pvs: one(forget("typo"))}, id: id, event: "it is on node gone"},
		{name: "an empty name", cluster: cluster{pvs: one(forget(""))}, id: id, event: "it is on node gone"},
		{name: "no node affinity", cluster: cluster{pvs: one(forget("gone"), noAffinity)}, id: id, event: "does not name one node"},
		{name: "two PersistentVolumes", cluster: cluster{pvs: append(one(forget("gone")), pv("twin", "gone", id))}, id: id, event: "several PersistentVolumes"},
		{name: "the disks were carried elsewhere", cluster: cluster{pvs: one(forget("gone")), links: links{owner: map[string]string{"vg": "b"}}}, id: id, event: "last seen on node b"},
		{name: "last seen there", cluster: cluster{pvs: one(forget("gone")), links: links{owner: map[string]string{"vg": "gone"}}}, id: id, want: true},
		{name: "a link without Node", cluster: cluster{pvs: one(forget("gone")), links: links{linked: map[string]bool{"gone": true}}}, id: id, event: "has a link"},
		{name: "the API server is away", cluster: cluster{pvs: one(forget("gone")), apiError: errors.New("away")}, id: id, event: "cannot be found out: away"},
		{name: "no right to ask", cluster: cluster{pvs: one(forget("gone")), apiError: apierrors.NewForbidden(nodes, "gone", nil)}, id: id, event: "cannot be found out"},
		{name: "a proxy's 404", cluster: cluster{pvs: one(forget("gone")), apiError: apierrors.NewGenericServerResponse(404, "get", nodes, "gone", "nothing here", 0, true)}, id: id, event: "cannot be found out"},

		{name: "snapshot", cluster: cluster{contents: given, pvs: one()}, id: snap, want: true},
		{name: "snapshot whose volume was deleted", cluster: cluster{contents: given, deleted: one()[0]}, id: snap, want: true},
		{name: "snapshot that is not given up", cluster: cluster{contents: []*snapshotv1.VolumeSnapshotContent{content("")}, pvs: one(forget("gone"))}, id: snap},
		{name: "snapshot of which nothing tells where it was", cluster: cluster{contents: given}, id: snap, event: "content Warning ForgetRefused: annotation lamina.dev/forget=gone does not count: no PersistentVolume of volume group vg"},
		{name: "snapshot in a group of two nodes", cluster: cluster{contents: given, pvs: append(one(), pv("b", "b", "vg/pvc-b"))}, id: snap, event: `name the nodes ["gone" "b"]`},
		{name: "snapshot whose Node is there", cluster: cluster{contents: given, pvs: one(), nodes: []string{"gone"}}, id: snap, event: "is in the cluster"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, recorded := tt.cluster.forget(t)
			if got := f.Forgotten(tt.id); got != tt.want {
				t.Errorf("forgotten: %t, want %t", got, tt.want)
			}
			got := recorded.take()
			if tt.event == "" && got != nil || tt.event != "" && (len(got) != 1 || !strings.Contains(got[0], tt.event)) {
				t.Errorf("events %q, want %q", got, tt.event)
			}
		})
	}
}

func TestNodeHint(t *testing.T) {
	f, _ := cluster{pvs: []*corev1.PersistentVolume{pv("pv", "gone", "vg/pvc-1")}}.forget(t)
	if got := f.Node("vg/pvc-1"); got != "gone" {
		t.Errorf("node %q, want gone", got)
	}
	if got := f.Node("vg/pvc-2"); got != "" {
		t.Errorf("node %q of a volume without PersistentVolume", got)
	}
}
