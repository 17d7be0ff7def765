package placement

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// with is a claim new that differs.
func with(change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	return claim("new", change...)
}

func TestPlace(t *testing.T) {
	any := map[string]string{Annotation: Any}
	for _, tt := range []struct {
		name    string
		objects []runtime.Object
		shown   string // the node that shows the volume group; "": none
		want    string
	}{
		{"clone", []runtime.Object{with(clone), claim("old", isBound), volume("a")}, "a", "a"},
		{"clone on a node that is away", []runtime.Object{with(clone), claim("old", isBound), volume("a")}, "", "a"},
		{"clone of a volume whose disks were carried elsewhere", []runtime.Object{with(clone), claim("old", isBound), volume("a")}, "b", "b"},
		{"clone by dataSourceRef", []runtime.Object{with(func(c *corev1.PersistentVolumeClaim) {
			c.Spec.DataSourceRef = &corev1.TypedObjectReference{Kind: "PersistentVolumeClaim", Name: "old"}
		}), claim("old", isBound), volume("a")}, "a", "a"},
		{"restore", []runtime.Object{with(restored), snapshot("1"), content("1", true)}, "b", "b"},
		{"restore beside the content of an earlier snapshot", []runtime.Object{with(restored), snapshot("2"), content("1", true), content("2", true)}, "b", "b"},

		{"no source", []runtime.Object{with(), claim("old", isBound), volume("a")}, "a", ""},
		{"any, says the claim", []runtime.Object{with(clone, func(c *corev1.PersistentVolumeClaim) { c.Annotations = any }), claim("old", isBound), volume("a")}, "a", ""},
		{"any, says the class", []runtime.Object{
			with(clone, func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = new("free") }),
			class("free", func(c *storagev1.StorageClass) { c.Annotations = any }), claim("old", isBound), volume("a"),
		}, "a", ""},
		{"bound at once", []runtime.Object{
			with(clone, func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = new("now") }),
			class("now", func(c *storagev1.StorageClass) { c.VolumeBindingMode = new(storagev1.VolumeBindingImmediate) }), claim("old", isBound), volume("a"),
		}, "a", ""},
		{"another driver's class", []runtime.Object{
			with(clone, func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = new("other") }),
			class("other", func(c *storagev1.StorageClass) { c.Provisioner = "example.com/csi" }), claim("old", isBound), volume("a"),
		}, "a", ""},
		{"another driver's source", []runtime.Object{with(clone), claim("old", isBound), func() *corev1.PersistentVolume {
			pv := volume("a")
			pv.Spec.CSI.Driver = "example.com/csi"
			return pv
		}()}, "a", ""},
		{"a source in another namespace", []runtime.Object{with(func(c *corev1.PersistentVolumeClaim) {
			c.Spec.DataSourceRef = &corev1.TypedObjectReference{Kind: "PersistentVolumeClaim", Name: "old", Namespace: new("other")}
		}), claim("old", isBound), volume("a")}, "a", ""},
		{"another kind of source", []runtime.Object{with(func(c *corev1.PersistentVolumeClaim) {
			c.Spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: new("example.com"), Kind: "Populator", Name: "old"}
		})}, "a", ""},
		{"a source that is not bound", []runtime.Object{with(clone), claim("old"), volume("a")}, "a", ""},
		{"a snapshot that is not ready", []runtime.Object{with(restored), snapshot("1"), content("1", false)}, "a", ""},
		{"the content of an earlier snapshot", []runtime.Object{with(restored), snapshot("2"), content("1", true)}, "a", ""},
		{"a snapshot in a volume group that no node shows", []runtime.Object{with(restored), snapshot("1"), content("1", true)}, "", ""},
		{"a node that is not in the cluster", []runtime.Object{with(clone), claim("old", isBound), volume("gone")}, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, tt.objects...)
				close(r.install)
				if tt.shown != "" {
					r.vgs.show(tt.shown, "vg")
				}
				r.start()
				defer r.stop()
				r.pass(time.Hour)
				if got := r.selected(); got != tt.want {
					t.Errorf("selected %q, want %q", got, tt.want)
				}
				if want := int32(min(1, len(tt.want))); r.patches.Load() != want {
					t.Errorf("%d writes, want %d", r.patches.Load(), want)
				}
			})
		})
	}
}

// What a claim waits for is noticed when it comes.
func TestWait(t *testing.T) {
	for _, tt := range []struct {
		name    string
		objects []runtime.Object
		shown   string
		comes   func(*rig)
	}{
		{"the claim", []runtime.Object{claim("old", isBound), volume("a")}, "a", func(r *rig) { r.set(claimsGVR, with(clone)) }},
		{"a bound source", []runtime.Object{with(clone), claim("old"), volume("a")}, "a", func(r *rig) { r.set(claimsGVR, claim("old", isBound)) }},
		{"the class", []runtime.Object{
			with(clone, func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = new("late") }), claim("old", isBound), volume("a"),
		}, "a", func(r *rig) { r.set(classesGVR, class("late")) }},
		{"the source's node", []runtime.Object{with(clone), claim("old", isBound), volume("c")}, "", func(r *rig) { r.vgs.show("a", "vg") }},
		{"a Node", []runtime.Object{with(clone), claim("old", isBound), volume("a")}, "late", func(r *rig) {
			r.set(nodesGVR, node("late"))
			if r.selected() != "late" {
				r.t.Errorf("selected %q, want late", r.selected())
			}
			r.choose("a") // for the comparison below
		}},
		{"a node that shows a snapshot", []runtime.Object{with(restored), snapshot("1"), content("1", true)}, "", func(r *rig) { r.vgs.show("a", "vg") }},
		{"a ready snapshot", []runtime.Object{with(restored), snapshot("1"), content("1", false)}, "a", func(r *rig) { r.set(contentsGVR, content("1", true)) }},
		{"a snapshot", []runtime.Object{with(restored)}, "a", func(r *rig) {
			r.set(snapshotsGVR, snapshot("1"))
			r.set(contentsGVR, content("1", true))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, append(tt.objects, claim("unrelated"))...)
				close(r.install)
				if tt.shown != "" {
					r.vgs.show(tt.shown, "vg")
				}
				r.start()
				defer r.stop()
				r.pass(time.Hour)
				if r.patches.Load() != 0 {
					t.Fatalf("%d writes before it came", r.patches.Load())
				}
				tt.comes(r)
				r.settle()
				if got := r.selected(); got != "a" || r.patches.Load() != 1 {
					t.Errorf("selected %q in %d writes, want a in one", got, r.patches.Load())
				}
			})
		})
	}
}

// Clones do not wait for the snapshot CRDs, restores go when they are installed.
func TestWithoutCRDs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, with(restored), claim("twin", clone), claim("old", isBound), volume("a"), snapshot("1"), content("1", true))
		r.vgs.show("a", "vg")
		r.start()
		defer r.stop()
		if r.patches.Load() != 1 || r.selected() != "" {
			t.Errorf("%d writes, want that of the clone", r.patches.Load())
		}
		close(r.install)
		r.settle()
		if r.patches.Load() != 2 || r.selected() != "a" {
			t.Errorf("%d writes, selected %q", r.patches.Load(), r.selected())
		}
	})
}

// The scheduler may be first. Its choice stays until the provisioner, told by the
// router that the node is wrong, takes it off.
func TestSchedulerWasFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, with(clone), claim("old"), volume("a"))
		r.vgs.show("a", "vg")
		r.start()
		defer r.stop()
		r.choose("b")
		r.set(claimsGVR, claim("old", isBound))
		r.pass(time.Hour)
		if r.patches.Load() != 0 || r.selected() != "b" {
			t.Errorf("selected %q after %d writes: the scheduler's choice was overwritten", r.selected(), r.patches.Load())
		}
		r.choose("")
		if r.patches.Load() != 1 || r.selected() != "a" {
			t.Errorf("selected %q after %d writes", r.selected(), r.patches.Load())
		}
	})
}

// A claim that changed meanwhile is read again: nothing of others is overwritten.
func TestConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, claim("old", isBound), volume("a"))
		r.vgs.show("a", "vg")
		r.start()
		defer r.stop()
		// The informer sees the claim; the API server has a newer one by the time of the
		// write, with the scheduler's choice.
		once := true
		r.kube.PrependReactor("patch", "persistentvolumeclaims", raced(r, &once))
		r.set(claimsGVR, with(clone))
		r.pass(time.Minute)
		if got := r.selected(); got != "b" {
			t.Errorf("selected %q: the scheduler's choice was overwritten", got)
		}
		if r.patches.Load() != 1 {
			t.Errorf("%d writes", r.patches.Load())
		}
	})
}

// A node without room is not written over and over: the provisioner takes it off
// each time.
func TestNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, with(clone), claim("old", isBound), volume("a"))
		r.vgs.show("a", "vg")
		r.start()
		defer r.stop()
		var at []time.Duration
		began, last := time.Now(), int32(0)
		for time.Since(began) < 10*time.Minute {
			if r.patches.Load() > last {
				last = r.patches.Load()
				at = append(at, time.Since(began).Round(time.Second))
				r.choose("")
			}
			r.settle()
		}
		s := time.Second
		want := []time.Duration{0, 2 * s, 6 * s, 14 * s, 30 * s, 62 * s}
		if len(at) < len(want) || len(at) > 16 {
			t.Fatalf("written at %s", at)
		}
		if diff := cmp.Diff(want, at[:len(want)]); diff != "" {
			t.Errorf("written at (-want +got):\n%s", diff)
		}
	})
}

func TestNodeOf(t *testing.T) {
	two := affinity("a")
	two.Required.NodeSelectorTerms = append(two.Required.NodeSelectorTerms, affinity("b").Required.NodeSelectorTerms...)
	other := affinity("a")
	other.Required.NodeSelectorTerms[0].MatchExpressions[0].Key = "kubernetes.io/hostname"
	got := map[string]string{}
	for name, a := range map[string]*corev1.VolumeNodeAffinity{
		"one": affinity("a"), "two values": affinity("a", "b"), "two terms": two, "another key": other,
		"none": nil, "empty": {},
	} {
		pv := volume("a")
		pv.Spec.NodeAffinity = a
		got[name] = NodeOf(pv)
	}
	want := map[string]string{"one": "a", "two values": "", "two terms": "", "another key": "", "none": "", "empty": ""}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
}
