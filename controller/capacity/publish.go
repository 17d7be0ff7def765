package capacity

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/lamina-csi/lamina/driver/link"
)

const (
	// grace is how long an object stays after its agent, or the pool, went out of
	// sight.
	grace = 30 * time.Second
	// startGrace is the same for an object that this program has only found: when
	// it starts, all agents come at once.
	startGrace = 2 * time.Minute
)

// sight is whether what an object speaks of can be seen.
type sight struct {
	met  bool      // it has been seen by this program
	gone time.Time // since when it is not; zero: it is
}

// parameterPool is the StorageClass parameter that names the pool.
const parameterPool = "pool"

// publish makes the objects of a node say what is so. again is when to look again;
// 0: when something changes.
func (p *Publisher) publish(ctx context.Context, node string) (again time.Duration, err error) {
	have := map[string]*storagev1.CSIStorageCapacity{}
	found, err := p.objects.GetIndexer().ByIndex(byNode, node)
	if err != nil {
		return 0, err
	}
	for _, obj := range found {
		o := obj.(*storagev1.CSIStorageCapacity)
		have[o.Name] = o
	}
	classes, err := p.ourClasses(node)
	if err != nil {
		return 0, err
	}
	statuses, linked := p.config.Fleet.Status(node)
	for _, class := range classes {
		name := objectName(node, class.Name)
		o := have[name]
		delete(have, name)
		if st := poolOf(class, statuses); linked && st != nil {
			p.seen(name)
			if err := p.set(ctx, name, node, class.Name, o, st); err != nil {
				return 0, err
			}
			continue
		}
		if o == nil {
			continue
		}
		if wait := p.unseen(name); wait > 0 {
			if again == 0 || wait < again {
				again = wait
			}
			continue
		}
		have[name] = o
	}
	// What is left is of a class or node that is gone, out of sight, or of an
	// earlier version.
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if err := p.remove(ctx, name); err != nil {
			return 0, err
		}
	}
	return again, nil
}

// ourClasses are those that the scheduler asks the room for; none for a node that
// is not in the cluster.
func (p *Publisher) ourClasses(node string) ([]*storagev1.StorageClass, error) {
	_, err := p.node.Get(node)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := p.class.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(c *storagev1.StorageClass) bool {
		return c.Provisioner != link.DriverName ||
			c.VolumeBindingMode == nil || *c.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer
	}), nil
}

// poolOf is the pool that volumes of a class come from: the named one, or the only
// one. A pool without volume group has not been made.
func poolOf(class *storagev1.StorageClass, all []*link.PoolStatus) *link.PoolStatus {
	name := class.Parameters[parameterPool]
	for _, st := range all {
		if (st.GetName() == name || name == "" && len(all) == 1) && st.GetVgUuid() != "" {
			return st
		}
	}
	return nil
}

func (p *Publisher) seen(object string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[object] = &sight{met: true}
}

// unseen is how long an object may stay although what it speaks of is out of sight.
func (p *Publisher) unseen(object string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.known[object]
	if !ok {
		s = &sight{}
		p.known[object] = s
	}
	if s.gone.IsZero() {
		s.gone = time.Now()
	}
	if s.met {
		return grace - time.Since(s.gone)
	}
	return startGrace - time.Since(s.gone)
}

// set writes an object unless it says so already. o is nil when there is none.
func (p *Publisher) set(ctx context.Context, name, node, class string, o *storagev1.CSIStorageCapacity, st *link.PoolStatus) error {
	available, largest := max(0, st.GetAvailable()), max(0, st.GetMaxVolumeSize())
	if o != nil {
		if equal(o.Capacity, available) && equal(o.MaximumVolumeSize, largest) {
			return nil
		}
		return p.patch(ctx, name, available, largest)
	}
	o = &storagev1.CSIStorageCapacity{
		ObjectMeta:        metav1.ObjectMeta{Name: name, Namespace: p.config.Namespace, Labels: ourLabels()},
		NodeTopology:      &metav1.LabelSelector{MatchLabels: map[string]string{link.TopologyKey: node}},
		StorageClassName:  class,
		Capacity:          resource.NewQuantity(available, resource.BinarySI),
		MaximumVolumeSize: resource.NewQuantity(largest, resource.BinarySI),
	}
	if p.config.Owner.UID != "" {
		o.OwnerReferences = []metav1.OwnerReference{p.config.Owner}
	}
	p.writes.WithLabelValues("create").Inc()
	_, err := p.config.Client.StorageV1().CSIStorageCapacities(p.config.Namespace).Create(ctx, o, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		// The informer has not seen it yet.
		return p.patch(ctx, name, available, largest)
	}
	if err != nil {
		return fmt.Errorf("create the capacity %s of class %s: %w", name, class, err)
	}
	return nil
}

func equal(q *resource.Quantity, bytes int64) bool { return q != nil && q.CmpInt64(bytes) == 0 }

// patch needs no resourceVersion: one worker at a time has the node.
func (p *Publisher) patch(ctx context.Context, name string, available, largest int64) error {
	body, err := json.Marshal(map[string]*resource.Quantity{
		"capacity":          resource.NewQuantity(available, resource.BinarySI),
		"maximumVolumeSize": resource.NewQuantity(largest, resource.BinarySI),
	})
	if err != nil {
		return err
	}
	p.writes.WithLabelValues("patch").Inc()
	_, err = p.config.Client.StorageV1().CSIStorageCapacities(p.config.Namespace).Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("patch the capacity %s: %w", name, err)
	}
	return nil
}

func (p *Publisher) remove(ctx context.Context, name string) error {
	p.mu.Lock()
	delete(p.known, name)
	p.mu.Unlock()
	p.writes.WithLabelValues("delete").Inc()
	err := p.config.Client.StorageV1().CSIStorageCapacities(p.config.Namespace).Delete(ctx, name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete the capacity %s: %w", name, err)
	}
	return nil
}
