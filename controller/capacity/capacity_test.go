package capacity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/lamina-csi/lamina/driver/link"
)

const namespace = "lamina-system"

// agents is what the agents would say.
type agents struct {
	mu       sync.Mutex
	statuses map[string][]*link.PoolStatus
	linked   map[string]bool
	notify   []func(string)
}

func (a *agents) Status(node string) ([]*link.PoolStatus, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.statuses[node], a.linked[node]
}

func (a *agents) Subscribe(fn func(string)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.notify = append(a.notify, fn)
}

func (a *agents) say(node string, linked bool, statuses ...*link.PoolStatus) {
	a.mu.Lock()
	a.linked[node], a.statuses[node] = linked, statuses
	notify := slices.Clone(a.notify)
	a.mu.Unlock()
	for _, fn := range notify {
		fn(node)
	}
}

// rig is a Publisher over a fake API server. It lives in a synctest bubble.
type rig struct {
	t      *testing.T
	client *fake.Clientset
	agents *agents
	stop   func()
}

func newRig(t *testing.T, objects ...runtime.Object) *rig {
	t.Helper()
	r := &rig{t: t, client: fake.NewClientset(objects...)}
	r.agents = &agents{statuses: map[string][]*link.PoolStatus{}, linked: map[string]bool{}}
	r.start()
	return r
}

// start runs a new Publisher, as a new leader does.
func (r *rig) start() {
	r.t.Helper()
	factory := informers.NewSharedInformerFactory(r.client, 0)
	p := New(Config{
		Client: r.client, Informers: factory, Fleet: r.agents, Namespace: namespace, Metrics: prometheus.NewRegistry(),
		Owner: metav1.OwnerReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "lamina-controller", UID: "deployment"},
	})
	ctx, cancel := context.WithCancel(r.t.Context())
	factory.Start(ctx.Done())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	r.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Errorf("Run: %v", err)
		}
		factory.Shutdown()
		r.agents.mu.Lock()
		r.agents.notify = nil
		r.agents.mu.Unlock()
	}
	r.settle()
}

// settle lets all that is due within the two seconds that are promised happen.
func (r *rig) settle() { r.pass(2 * time.Second) }

func (r *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *rig) say(node string, statuses ...*link.PoolStatus) {
	r.agents.say(node, true, statuses...)
	r.settle()
}

// writes counts the API calls since the last call, by verb; reads are left out.
func (r *rig) writes() map[string]int {
	out := map[string]int{}
	for _, a := range r.client.Actions() {
		if a.GetResource().Resource == "csistoragecapacities" && !slices.Contains([]string{"get", "list", "watch"}, a.GetVerb()) {
			out[a.GetVerb()]++
		}
	}
	r.client.ClearActions()
	return out
}

// published is what the scheduler reads: "capacity/maximum" by "node class".
func (r *rig) published() map[string]string {
	r.t.Helper()
	list, err := r.client.StorageV1().CSIStorageCapacities(namespace).List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[string]string{}
	for _, o := range list.Items {
		key := nodeOf(&o) + " " + o.StorageClassName
		if _, twice := out[key]; twice {
			r.t.Errorf("two objects for %s", key)
		}
		out[key] = fmt.Sprintf("%d/%d", o.Capacity.Value(), o.MaximumVolumeSize.Value())
	}
	return out
}

func wantDiff(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func node(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func class(name, pool string, change ...func(*storagev1.StorageClass)) *storagev1.StorageClass {
	mode := storagev1.VolumeBindingWaitForFirstConsumer
	c := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: link.DriverName, VolumeBindingMode: &mode}
	if pool != "" {
		c.Parameters = map[string]string{"pool": pool}
	}
	for _, ch := range change {
		ch(c)
	}
	return c
}

func pool(name string, available, largest int64) *link.PoolStatus {
	return &link.PoolStatus{Name: name, VgUuid: "uuid-" + name, Wanted: true, Health: "ok", Available: available, MaxVolumeSize: largest}
}

var none = map[string]int{}

func TestObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a"), class("fast", "fast"))
		defer func() { r.stop() }()
		r.say("a", pool("fast", 100<<30, 60<<30))
		list, err := r.client.StorageV1().CSIStorageCapacities(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil || len(list.Items) != 1 {
			t.Fatal(list, err)
		}
		o := list.Items[0]
		wantDiff(t, "labels", o.Labels, map[string]string{"csi.storage.k8s.io/drivername": "lamina.dev", "csi.storage.k8s.io/managed-by": "lamina-controller"})
		wantDiff(t, "topology", o.NodeTopology, &metav1.LabelSelector{MatchLabels: map[string]string{"topology.lamina.dev/node": "a"}})
		wantDiff(t, "owner", o.OwnerReferences, []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: "lamina-controller", UID: "deployment"}})
		wantDiff(t, "class", o.StorageClassName, "fast")
		wantDiff(t, "sizes", []string{o.Capacity.String(), o.MaximumVolumeSize.String()}, []string{"100Gi", "60Gi"})
	})
}

func TestWhichClassesAndPools(t *testing.T) {
	immediate := storagev1.VolumeBindingImmediate
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a"), node("b"), node("c"),
			class("fast", "fast"), class("fast-xfs", "fast"), class("big", "big"), class("any", ""),
			class("now", "fast", func(c *storagev1.StorageClass) { c.VolumeBindingMode = &immediate }),
			class("other", "fast", func(c *storagev1.StorageClass) { c.Provisioner = "example.com/csi" }))
		defer func() { r.stop() }()
		r.agents.say("a", true, pool("fast", 10, 5), pool("big", 20, 20))
		r.agents.say("b", true, pool("big", 0, 0))
		// A pool that could not be made is none.
		r.agents.say("c", true, &link.PoolStatus{Name: "fast", Wanted: true, Health: "error"})
		// Linked, but not in the cluster: nothing can be scheduled there.
		r.agents.say("d", true, pool("fast", 10, 10))
		r.settle()
		wantDiff(t, "published", r.published(), map[string]string{
			"a fast": "10/5", "a fast-xfs": "10/5", "a big": "20/20",
			"b big": "0/0", "b any": "0/0", // b's only pool need not be named
		})
	})
}

func TestOneChangeIsOneWriteAClass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a"), node("b"), class("fast", "fast"), class("fast-xfs", "fast"), class("big", "big"))
		defer func() { r.stop() }()
		r.agents.say("a", true, pool("fast", 10, 5), pool("big", 20, 20))
		r.agents.say("b", true, pool("fast", 10, 5), pool("big", 20, 20))
		r.settle()
		wantDiff(t, "first writes", r.writes(), map[string]int{"create": 6})

		r.say("a", pool("fast", 10, 5), pool("big", 19, 19))
		wantDiff(t, "writes", r.writes(), map[string]int{"patch": 1})
		r.say("a", pool("fast", 9, 4), pool("big", 19, 19))
		wantDiff(t, "writes", r.writes(), map[string]int{"patch": 2})

		for range 10 {
			used := pool("fast", 9, 4)
			used.Used, used.Volumes = 7, 7
			r.say("a", used, pool("big", 19, 19))
		}
		r.pass(24 * time.Hour)
		wantDiff(t, "writes while nothing changes", r.writes(), none)
		wantDiff(t, "published", r.published(), map[string]string{
			"a fast": "9/4", "a fast-xfs": "9/4", "a big": "19/19",
			"b fast": "10/5", "b fast-xfs": "10/5", "b big": "20/20",
		})
	})
}

func TestManyChangesAtOnceAreOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a"), class("fast", "fast"))
		defer func() { r.stop() }()
		r.say("a", pool("fast", 1000, 1000))
		r.writes()
		for left := range int64(1000) {
			r.agents.say("a", true, pool("fast", 999-left, 999-left))
		}
		r.settle()
		wantDiff(t, "writes", r.writes(), map[string]int{"patch": 1})
		wantDiff(t, "published", r.published(), map[string]string{"a fast": "0/0"})
	})
}

func TestNodeAndClassDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a"), node("b"), class("fast", "fast"), class("big", "big"))
		defer func() { r.stop() }()
		r.agents.say("a", true, pool("fast", 10, 10), pool("big", 10, 10))
		r.agents.say("b", true, pool("fast", 10, 10))
		r.settle()
		if err := r.client.CoreV1().Nodes().Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		r.settle()
		wantDiff(t, "node deleted", r.published(), map[string]string{"a fast": "10/10", "a big": "10/10"})
		if err := r.client.StorageV1().StorageClasses().Delete(t.Context(), "big", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		r.settle()
		wantDiff(t, "class deleted", r.published(), map[string]string{"a fast": "10/10"})
		if _, err := r.client.StorageV1().StorageClasses().Create(t.Context(), class("big", "big"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := r.client.CoreV1().Nodes().Create(t.Context(), node("b"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		r.settle()
		wantDiff(t, "both back", r.published(), map[string]string{"a fast": "10/10", "a big": "10/10", "b fast": "10/10"})
	})
}

// A node whose agent is away, or that lost its pool, attracts no claims.
func TestOutOfSight(t *testing.T) {
	for name, lose := range map[string]func(*agents){
		"link": func(a *agents) { a.say("a", false, pool("fast", 10, 10)) },
		"pool": func(a *agents) { a.say("a", true) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, node("a"), class("fast", "fast"))
				defer func() { r.stop() }()
				r.say("a", pool("fast", 10, 10))
				r.writes()
				lose(r.agents)
				r.pass(25 * time.Second)
				r.say("a", pool("fast", 10, 10))
				lose(r.agents)
				r.pass(25 * time.Second)
				wantDiff(t, "writes after short losses", r.writes(), none)
				r.pass(10 * time.Second)
				wantDiff(t, "published after a loss", r.published(), map[string]string{})
				wantDiff(t, "writes", r.writes(), map[string]int{"delete": 1})
				r.pass(time.Hour)
				wantDiff(t, "writes in an hour", r.writes(), none)
				r.say("a", pool("fast", 9, 9))
				wantDiff(t, "published again", r.published(), map[string]string{"a fast": "9/9"})
			})
		})
	}
}

func TestNewLeaderKeepsWhatItFindsUntilAgentsHadTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a"), node("b"), class("fast", "fast"))
		defer func() { r.stop() }()
		r.agents.say("a", true, pool("fast", 10, 10))
		r.agents.say("b", true, pool("fast", 10, 10))
		r.settle()
		r.stop()
		r.writes()
		r.agents.say("a", false)
		r.agents.say("b", false)
		r.start()
		r.pass(100 * time.Second)
		r.say("a", pool("fast", 10, 10))
		wantDiff(t, "writes while agents link", r.writes(), none)
		r.pass(30 * time.Second)
		wantDiff(t, "published", r.published(), map[string]string{"a fast": "10/10"})
		wantDiff(t, "writes", r.writes(), map[string]int{"delete": 1})
	})
}

// Leftovers of earlier runs go; what others made stays.
func TestLeftovers(t *testing.T) {
	left := func(name, node, class string, labels map[string]string) *storagev1.CSIStorageCapacity {
		o := &storagev1.CSIStorageCapacity{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels}, StorageClassName: class}
		if node != "" {
			o.NodeTopology = &metav1.LabelSelector{MatchLabels: map[string]string{link.TopologyKey: node}}
		}
		return o
	}
	others := map[string]string{driverLabel: "example.com", managerLabel: "external-provisioner"}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a"), class("fast", "fast"),
			left("gone-node", "b", "fast", ourLabels()),
			left("gone-class", "a", "slow", ourLabels()),
			left("other-name", "a", "fast", ourLabels()),
			left("no-topology", "", "fast", ourLabels()),
			left("others", "b", "fast", others))
		defer func() { r.stop() }()
		r.say("a", pool("fast", 10, 10))
		list, err := r.client.StorageV1().CSIStorageCapacities(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, o := range list.Items {
			names = append(names, o.Name)
		}
		slices.Sort(names)
		wantDiff(t, "objects", names, []string{objectName("a", "fast"), "others"})
	})
}

// An object that someone changes or deletes is put right.
func TestOthersHands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a"), class("fast", "fast"))
		defer func() { r.stop() }()
		r.say("a", pool("fast", 10, 10))
		if err := r.client.StorageV1().CSIStorageCapacities(namespace).Delete(t.Context(), objectName("a", "fast"), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		r.settle()
		wantDiff(t, "published", r.published(), map[string]string{"a fast": "10/10"})
	})
}

func TestFailedWritesAreRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a"), class("fast", "fast"))
		defer func() { r.stop() }()
		failures := 3
		r.client.PrependReactor("*", "csistoragecapacities", func(a clienttesting.Action) (bool, runtime.Object, error) {
			if a.GetVerb() != "create" && a.GetVerb() != "patch" || failures == 0 {
				return false, nil, nil
			}
			failures--
			return true, nil, errors.New("the API server is away")
		})
		r.say("a", pool("fast", 10, 10))
		r.pass(20 * time.Second)
		wantDiff(t, "published", r.published(), map[string]string{"a fast": "10/10"})
		failures = 2
		r.say("a", pool("fast", 9, 9))
		r.pass(20 * time.Second)
		wantDiff(t, "published", r.published(), map[string]string{"a fast": "9/9"})
	})
}

// No event of one node may cost work for all.
func TestManyNodes(t *testing.T) {
	const nodes = 100
	synctest.Test(t, func(t *testing.T) {
		objects := []runtime.Object{class("fast", "fast"), class("big", "big")}
		for i := range nodes {
			objects = append(objects, node(fmt.Sprintf("n%04d", i)))
		}
		r := newRig(t, objects...)
		defer func() { r.stop() }()
		for i := range nodes {
			r.agents.say(fmt.Sprintf("n%04d", i), true, pool("fast", 10, 10), pool("big", 5, 5))
		}
		r.settle()
		wantDiff(t, "writes", r.writes(), map[string]int{"create": 2 * nodes})
		r.say("n0042", pool("fast", 9, 9), pool("big", 5, 5))
		wantDiff(t, "writes", r.writes(), map[string]int{"patch": 1})
	})
}
