package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
)

// lateBinding creates claims that are placed already.
func (b *bench) lateBinding(ctx context.Context, c *controller) error {
	b.result.section(fmt.Sprintf("%d claims at once, late binding", b.Claims))
	return b.claims(ctx, c, b.Claims, lateClass, b.node)
}

// node spreads claims over the nodes.
func (b *bench) node(i int) string { return nodeName(i * max(1, b.Nodes/b.Claims) % b.Nodes) }

// immediateBinding creates claims that the controller places.
func (b *bench) immediateBinding(ctx context.Context, c *controller) error {
	b.result.section(fmt.Sprintf("%d claims at once, immediate binding", b.Immediate))
	return b.claims(ctx, c, b.Immediate, soonClass, func(int) string { return "" })
}

// claims creates claims and waits until they are bound.
func (b *bench) claims(ctx context.Context, c *controller, n int, class string, on func(i int) string) error {
	if n == 0 {
		return nil
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	prefix := class + ".claim-"
	bound, err := b.watchBound(watching, prefix)
	if err != nil {
		return err
	}
	before, err := get(ctx, "/metrics")
	if err != nil {
		return err
	}
	client := b.client().CoreV1().PersistentVolumeClaims(measured)
	ended := b.fleet.ended.Load()
	begin := time.Now()
	asked := make([]time.Time, n)
	if err := each(ctx, n, writers, func(ctx context.Context, i int) error {
		asked[i] = time.Now()
		_, err := client.Create(ctx, claim(fmt.Sprint(prefix, i), class, on(i)), metav1.CreateOptions{})
		return err
	}); err != nil {
		return err
	}
	boundAt := map[string]time.Time{}
	if err := poll(ctx, "claims that are bound", 15*time.Minute, func() (bool, error) {
		boundAt = bound()
		return len(boundAt) == n, errors.Join(c.alive(), fmt.Errorf("%d of %d are", len(boundAt), n))
	}); err != nil {
		return err
	}
	var took []time.Duration
	last := begin
	for i := range n {
		at := boundAt[fmt.Sprint(prefix, i)]
		took = append(took, at.Sub(asked[i]))
		if at.After(last) {
			last = at
		}
	}
	if _, err := b.audit.quiet(ctx, begin); err != nil {
		return err
	}
	after, err := get(ctx, "/metrics")
	if err != nil {
		return err
	}
	b.result.rate("claims bound", n, last.Sub(begin))
	b.volumesWritten(begin, n)
	slices.Sort(took)
	b.result.milliseconds("from claim to bound, p50", percentile(took, 50), "")
	b.result.milliseconds("from claim to bound, p99", percentile(took, 99), "")
	b.nodeCalls(before, after, n)
	b.result.count("links that ended meanwhile", float64(b.fleet.ended.Load()-ended), "0")
	b.requests(begin, float64(n), "volume")
	return nil
}

// watchBound notes when claims of that prefix became bound.
func (b *bench) watchBound(ctx context.Context, prefix string) (bound func() map[string]time.Time, err error) {
	var mu sync.Mutex
	at := map[string]time.Time{}
	factory := informers.NewSharedInformerFactoryWithOptions(b.client(), 0, informers.WithNamespace(measured))
	note := func(o any) {
		c := o.(*corev1.PersistentVolumeClaim)
		mu.Lock()
		defer mu.Unlock()
		if c.Status.Phase == corev1.ClaimBound && strings.HasPrefix(c.Name, prefix) && at[c.Name].IsZero() {
			at[c.Name] = time.Now()
		}
	}
	_, err = factory.Core().V1().PersistentVolumeClaims().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: note, UpdateFunc: func(_, o any) { note(o) },
	})
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	return func() map[string]time.Time {
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(at)
	}, err
}

// volumesWritten tells at which rate the controller wrote the PVs. What follows is
// Kubernetes' work.
func (b *bench) volumesWritten(begin time.Time, n int) {
	own, _ := b.audit.since(begin)
	var last time.Time
	for _, e := range own {
		if e.kind() == "create persistentvolumes" && e.Received.After(last) {
			last = e.Received
		}
	}
	b.result.rate("PVs written by the controller", n, last.Sub(begin))
}

// nodeCalls tells how many calls to agents a volume has cost.
func (b *bench) nodeCalls(before, after string, n int) {
	const name = "lamina_controller_node_request_duration_seconds_count"
	calls := 0.0
	was := samples(before)
	for key, v := range samples(after) {
		if len(key) > len(name) && key[:len(name)] == name {
			calls += v - was[key]
		}
	}
	b.result.count("calls to agents per volume", calls/float64(n), "")
}

// requests tells what was asked of the API since a moment, per node or volume.
func (b *bench) requests(begin time.Time, n float64, per string) {
	own, others := b.audit.since(begin)
	writes, reads := 0.0, 0.0
	kinds := map[string]float64{}
	for _, e := range own {
		switch {
		case e.steady() || e.Verb == "watch":
			continue
		case e.write():
			writes++
		default:
			reads++
		}
		kinds[e.kind()]++
	}
	if per == "volume" {
		b.result.writes(writes / n)
	} else {
		b.result.count("API writes per "+per, writes/n, "")
	}
	b.result.count("API reads per "+per, reads/n, "")
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		b.result.count("  "+kind, kinds[kind]/n, "")
	}
	if per == "volume" {
		b.result.count("(Kubernetes' own writes per volume)", float64(len(others))/n, "")
	}
}

// deletion deletes the claims, and waits until their volumes are gone.
func (b *bench) deletion(ctx context.Context, c *controller) error {
	n := b.Claims + b.Immediate
	if n == 0 {
		return nil
	}
	b.result.section(fmt.Sprintf("%d claims deleted at once", n))
	begin := time.Now()
	client := b.client().CoreV1()
	if err := client.PersistentVolumeClaims(measured).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return err
	}
	last, err := b.deleted(ctx, begin, n)
	if err := errors.Join(err, c.alive()); err != nil {
		return err
	}
	if _, err := b.audit.quiet(ctx, begin); err != nil {
		return err
	}
	b.result.rate("volumes deleted", n, last.Sub(begin))
	b.requests(begin, float64(n), "deleted volume")
	return c.alive()
}

// deleted waits until so many PVs were deleted since a moment, and returns when the
// last one was.
func (b *bench) deleted(ctx context.Context, begin time.Time, n int) (last time.Time, err error) {
	err = poll(ctx, "volumes that are deleted", 15*time.Minute, func() (bool, error) {
		if err := b.audit.read(); err != nil {
			return false, err
		}
		own, _ := b.audit.since(begin)
		gone := map[string]bool{}
		for _, e := range own {
			if e.kind() == "delete persistentvolumes" {
				gone[e.Object.Name] = true
				last = e.Received
			}
		}
		return len(gone) == n, fmt.Errorf("%d of %d are", len(gone), n)
	})
	return last, err
}
