package pools

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"

	"github.com/lamina-csi/lamina/driver/link"
)

const (
	// grace is how long a link may be lost, or an agent may not show a pool, before
	// the node's conditions say so. An agent that starts shows its pools only once
	// it has found them.
	grace = time.Minute
	// startGrace is the same for a link that this program has not seen yet: when it
	// starts, all agents come at once.
	startGrace = 2 * time.Minute
)

// poolName is what an agent takes for the name of a pool, and maxPools bounds how
// many of them a Node object tells of: an agent may send what it likes.
var poolName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$`)

const maxPools = 64

// state is what is remembered of a node. Only the worker that has the node's key
// uses it.
type state struct {
	desired []*link.Pool // as set; nil: not yet
	met     bool         // its link has been up
	away    time.Time    // since when it is not; zero: it is
	absent  map[string]time.Time

	// wrote is what a patch answered: it counts until the informer has seen it.
	wrote *corev1.Node
}

func (p *Pools) state(node string) *state {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.states[node]
	if !ok {
		s = &state{absent: map[string]time.Time{}}
		p.states[node] = s
	}
	return s
}

// forget drops what is known of a node that was in the cluster. Its agent, if there
// is one, keeps what it has.
func (p *Pools) forget(node string) {
	p.mu.Lock()
	_, was := p.states[node]
	delete(p.states, node)
	p.mu.Unlock()
	if was {
		p.config.Fleet.Forget(node)
	}
}

// newest is the node as the informer or the last patch knows it.
func (s *state) newest(n *corev1.Node) *corev1.Node {
	if s.wrote == nil {
		return n
	}
	order, err := resourceversion.CompareResourceVersion(s.wrote.ResourceVersion, n.ResourceVersion)
	if err != nil || order <= 0 || s.wrote.UID != n.UID {
		s.wrote = nil
		return n
	}
	return s.wrote
}

// view is all that is known of a node's pools at one moment.
type view struct {
	now      time.Time
	known    bool // the profiles have been read
	wants    map[string]want
	statuses map[string]*link.PoolStatus
	linked   bool
	old      map[string]corev1.NodeCondition
}

// reconcile sets what is wanted on a node and writes what its conditions shall
// say. again is when to look again; 0: when something changes.
func (p *Pools) reconcile(ctx context.Context, name string) (again time.Duration, err error) {
	n, err := p.lister.Get(name)
	if apierrors.IsNotFound(err) {
		p.forget(name)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	s := p.state(name)
	v := view{now: time.Now(), statuses: map[string]*link.PoolStatus{}, old: poolConditions(s.newest(n))}
	v.wants, v.known = p.wants(poolLabels(n))
	if v.known {
		p.setDesired(s, name, desired(v.wants))
	}
	statuses, linked := p.config.Fleet.Status(name)
	for _, st := range statuses {
		if poolName.MatchString(st.GetName()) && len(v.statuses) < maxPools {
			v.statuses[st.GetName()] = st
		}
	}
	v.linked = linked
	changes, again := s.judge(v)
	return again, p.write(ctx, s, n, changes)
}

func (p *Pools) setDesired(s *state, node string, pools []*link.Pool) {
	if s.desired != nil && slices.EqualFunc(s.desired, pools, func(a, b *link.Pool) bool { return proto.Equal(a, b) }) {
		return
	}
	p.config.Fleet.SetDesired(node, pools)
	s.desired = pools
}

// change is a condition to be written, or removed.
type change struct {
	pool   string
	old    *corev1.NodeCondition
	report *report // nil: remove it
}

// judge finds the conditions that no longer say what is so. A pool that cannot be
// seen is given time; what its condition says stays meanwhile.
func (s *state) judge(v view) (changes []change, again time.Duration) {
	names := map[string]bool{}
	for name := range v.wants {
		names[name] = true
	}
	for name := range v.statuses {
		names[name] = true
	}
	for name := range v.old {
		names[name] = true
	}
	if v.linked {
		s.met, s.away = true, time.Time{}
	} else if s.away.IsZero() {
		s.away = v.now
	}
	maps.DeleteFunc(s.absent, func(name string, _ time.Time) bool { return !v.linked || !names[name] })
	for _, name := range slices.Sorted(maps.Keys(names)) {
		c := change{pool: name}
		if old, ok := v.old[name]; ok {
			c.old = &old
		}
		var wait time.Duration
		var news bool
		if c.report, wait, news = s.judgePool(v, name, c.old); news {
			changes = append(changes, c)
		}
		if wait > 0 && (again == 0 || wait < again) {
			again = wait
		}
	}
	return changes, again
}

// judgePool says what the condition of a pool shall become. news is false while it
// may stay.
func (s *state) judgePool(v view, name string, old *corev1.NodeCondition) (r *report, wait time.Duration, news bool) {
	w, wanted := v.wants[name]
	st := v.statuses[name]
	switch {
	case w.complaint != "":
		r = describe(subject{name, wanted, w.complaint, old}, st)
	case !v.linked:
		least := grace
		if !s.met {
			least = startGrace
		}
		if wait = least - v.now.Sub(s.away); wait > 0 {
			return nil, wait, false
		}
		r = unknown(reasonUnlinked, "the node's agent has no link to the controller", old)
	case st != nil:
		delete(s.absent, name)
		r = describe(subject{name, wanted, "", old}, st)
	default:
		if s.absent[name].IsZero() {
			s.absent[name] = v.now
		}
		if wait = grace - v.now.Sub(s.absent[name]); wait > 0 {
			return nil, wait, false
		}
		switch {
		case !wanted:
			return nil, 0, old != nil
		case !v.known:
			r = unknown(reasonPending, "the ConfigMap "+ProfilesConfigMap+" with the profiles has not been read", old)
		default:
			r = unknown(reasonPending, "the node's agent does not show the pool yet", old)
		}
	}
	return r, 0, old == nil || !r.same(*old)
}

// write patches the conditions of a node and then tells what is new in them.
func (p *Pools) write(ctx context.Context, s *state, n *corev1.Node, changes []change) error {
	if len(changes) == 0 {
		return nil
	}
	var conditions []any
	now := metav1.Now()
	for _, c := range changes {
		conditions = append(conditions, c.patch(now))
	}
	body, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": conditions}})
	if err != nil {
		return err
	}
	p.writes.Inc()
	patched, err := p.config.Client.CoreV1().Nodes().Patch(ctx, n.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("patch the status of node %s: %w", n.Name, err)
	}
	s.wrote = patched
	for _, c := range changes {
		if c.report != nil {
			for _, e := range c.report.events(c.pool, c.old) {
				p.config.Recorder.Event(n, e.kind, e.reason, e.text)
			}
		}
	}
	return nil
}

// patch is an element of the list of conditions, which merges by type.
func (c change) patch(now metav1.Time) any {
	kind := link.PoolLabelPrefix + c.pool
	if c.report == nil {
		return map[string]string{"type": kind, "$patch": "delete"}
	}
	out := corev1.NodeCondition{
		Type: corev1.NodeConditionType(kind), Status: c.report.status, Reason: c.report.reason, Message: c.report.message(),
		LastHeartbeatTime: now, LastTransitionTime: now,
	}
	if c.old != nil && c.old.Status == out.Status {
		out.LastTransitionTime = c.old.LastTransitionTime
	}
	return out
}
