package pools

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
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
	mu        sync.Mutex
	statuses  map[string][]*link.PoolStatus
	linked    map[string]bool
	desired   map[string]string // what was set last, by node
	sets      int
	forgotten []string
	notify    []func(string)
}

func (a *agents) SetDesired(node string, pools []*link.Pool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []string
	for _, p := range pools {
		out = append(out, fmt.Sprintf("%s=%s %q", p.GetName(), p.GetProfile(), p.GetText()))
	}
	a.desired[node] = strings.Join(out, "; ")
	a.sets++
}

func (a *agents) Forget(node string) {
	a.mu.Lock()
	a.forgotten = append(a.forgotten, node)
	notify := slices.Clone(a.notify)
	a.mu.Unlock()
	for _, fn := range notify { // as the fleet does for a node that still has a link
		fn(node)
	}
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

// say is a change of what an agent says; linked is whether it can.
func (a *agents) say(node string, linked bool, statuses ...*link.PoolStatus) {
	a.mu.Lock()
	a.linked[node], a.statuses[node] = linked, statuses
	notify := slices.Clone(a.notify)
	a.mu.Unlock()
	for _, fn := range notify {
		fn(node)
	}
}

// unlink loses the link; what was said last stays known.
func (a *agents) unlink(node string) {
	statuses, _ := a.Status(node)
	a.say(node, false, statuses...)
}

// events collects what is recorded.
type events struct {
	mu  sync.Mutex
	all []string
}

func (e *events) Event(obj runtime.Object, kind, reason, message string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, fmt.Sprintf("%s %s %s: %s", obj.(*corev1.Node).Name, kind, reason, message))
}

// take returns the events since the last take.
func (e *events) take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.all
	e.all = nil
	return out
}

// rig is a Pools over a fake API server. It lives in a synctest bubble.
type rig struct {
	t      *testing.T
	client *fake.Clientset
	agents *agents
	events *events
	stop   func()
}

func newRig(t *testing.T, objects ...runtime.Object) *rig {
	t.Helper()
	r := &rig{t: t, client: fake.NewClientset(objects...), events: &events{}}
	r.agents = &agents{statuses: map[string][]*link.PoolStatus{}, linked: map[string]bool{}, desired: map[string]string{}}
	r.start()
	return r
}

// start runs a new Pools, as a new leader does.
func (r *rig) start() {
	r.t.Helper()
	factory := informers.NewSharedInformerFactory(r.client, 0)
	p := New(Config{
		Client: r.client, Informers: factory, Fleet: r.agents, Recorder: r.events,
		Namespace: namespace, Metrics: prometheus.NewRegistry(),
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

// settle lets all that is due happen.
func (r *rig) settle() { r.pass(2 * time.Second) }

func (r *rig) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// writes are the verbs of the API calls since the last call, reads left out.
func (r *rig) writes() []string {
	var out []string
	for _, a := range r.client.Actions() {
		if !slices.Contains([]string{"get", "list", "watch"}, a.GetVerb()) {
			out = append(out, a.GetVerb()+" "+a.GetResource().Resource+"/"+a.GetSubresource())
		}
	}
	r.client.ClearActions()
	return out
}

func (r *rig) node(name string) *corev1.Node {
	r.t.Helper()
	n, err := r.client.CoreV1().Nodes().Get(r.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return n
}

// conditions are those of a node's pools: "True Ok: message" by type.
func (r *rig) conditions(node string) map[string]string {
	r.t.Helper()
	out := map[string]string{}
	for _, c := range r.node(node).Status.Conditions {
		out[string(c.Type)] = fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
	}
	return out
}

func (r *rig) update(node string, change func(*corev1.Node)) {
	r.t.Helper()
	n := r.node(node)
	change(n)
	if _, err := r.client.CoreV1().Nodes().Update(r.t.Context(), n, metav1.UpdateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	r.client.ClearActions()
	r.settle()
}

func (r *rig) setProfiles(data map[string]string) {
	r.t.Helper()
	if _, err := r.client.CoreV1().ConfigMaps(namespace).Update(r.t.Context(), configMap(data), metav1.UpdateOptions{}); err != nil {
		r.t.Fatal(err)
	}
	r.client.ClearActions()
	r.settle()
}

func (r *rig) say(node string, statuses ...*link.PoolStatus) {
	r.agents.say(node, true, statuses...)
	r.settle()
}

func node(name string, labels ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "uid-1", Labels: map[string]string{"kubernetes.io/hostname": name}}}
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		n.Labels[link.PoolLabelPrefix+key] = value
	}
	n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"}}
	return n
}

func configMap(data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: ProfilesConfigMap}, Data: data}
}

// pool is the status of a healthy pool with that much of it in use, in percent.
func pool(name string, used int64, change ...func(*link.PoolStatus)) *link.PoolStatus {
	st := &link.PoolStatus{
		Name: name, Vg: "lamina-" + name, VgUuid: "uuid-" + name, Mode: "thin", Wanted: true, Disks: []string{"/dev/nvme0n1"},
		Size: 1 << 40, Used: used * (1 << 40) / 100, Health: "ok",
	}
	for _, c := range change {
		c(st)
	}
	return st
}

func keys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// failPatches has the next n patches fail.
func (r *rig) failPatches(n int, err error) {
	r.client.PrependReactor("patch", "nodes", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if n--; n < 0 {
			return false, nil, nil
		}
		if !json.Valid(a.(clienttesting.PatchAction).GetPatch()) {
			r.t.Errorf("patch is no JSON: %s", a.(clienttesting.PatchAction).GetPatch())
		}
		return true, nil, err
	})
}
