package deploy

import (
	"testing"

	groupv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// refs collects what objects name and what exists.
type refs struct {
	exist map[string]bool
	named map[string]string // to the file that names it
}

func (r refs) add(file, kind string, name *string) {
	if name != nil && *name != "" {
		r.named[kind+" "+*name] = file
	}
}

func (r refs) claim(file string, c corev1.PersistentVolumeClaimSpec) {
	r.add(file, "StorageClass", c.StorageClassName)
	r.add(file, "VolumeAttributesClass", c.VolumeAttributesClassName)
	if c.DataSource != nil {
		r.add(file, c.DataSource.Kind, &c.DataSource.Name)
	}
}

func (r refs) pod(t *testing.T, file string, p corev1.PodSpec) {
	for _, v := range p.Volumes {
		if v.PersistentVolumeClaim != nil {
			r.add(file, "PersistentVolumeClaim", &v.PersistentVolumeClaim.ClaimName)
		}
		if v.Ephemeral != nil {
			r.claim(file, v.Ephemeral.VolumeClaimTemplate.Spec)
		}
	}
	for _, c := range p.Containers {
		if c.Image != "busybox:1.37" {
			t.Errorf("%s uses the image %s", file, c.Image)
		}
	}
}

// What examples name is in an example or in the base, and no two examples have an
// object of the same name: all may be applied together.
func TestExamplesHangTogether(t *testing.T) {
	r := refs{exist: map[string]bool{}, named: map[string]string{}}
	labelled, group := map[string]int{}, ""
	for _, m := range decode(t, base, examples) {
		id := m.kind + " " + m.meta.GetName()
		if r.exist[id] && m.meta.GetNamespace() == "" {
			t.Errorf("%s: %s is there twice", m.file, id)
		}
		r.exist[id] = true
		switch o := m.obj.(type) {
		case *corev1.PersistentVolumeClaim:
			r.claim(m.file, o.Spec)
			labelled[o.Labels["group"]]++
		case *corev1.Pod:
			r.pod(t, m.file, o.Spec)
		case *appsv1.StatefulSet:
			r.pod(t, m.file, o.Spec.Template.Spec)
			r.add(m.file, "Service", &o.Spec.ServiceName)
			for _, c := range o.Spec.VolumeClaimTemplates {
				r.claim(m.file, c.Spec)
			}
		case *snapshotv1.VolumeSnapshot:
			r.add(m.file, "VolumeSnapshotClass", o.Spec.VolumeSnapshotClassName)
			r.add(m.file, "PersistentVolumeClaim", o.Spec.Source.PersistentVolumeClaimName)
		case *groupv1.VolumeGroupSnapshot:
			r.add(m.file, "VolumeGroupSnapshotClass", o.Spec.VolumeGroupSnapshotClassName)
			group = o.Spec.Source.Selector.MatchLabels["group"]
		case *storagev1.StorageClass:
			if o.Parameters["encryption"] != "" {
				secret := o.Parameters["csi.storage.k8s.io/node-stage-secret-name"]
				r.add(m.file, "Secret", &secret)
			}
		}
	}
	if n := labelled[group]; group == "" || n != 2 {
		t.Errorf("the group snapshot's selector finds %d claims", n)
	}
	for id, file := range r.named {
		if !r.exist[id] {
			t.Errorf("%s names the %s, which no example and not the base has", file, id)
		}
	}
}

// Volumes of a node's disks are only placed well when the scheduler speaks first,
// and must name their pool.
func TestStorageClasses(t *testing.T) {
	n := 0
	for _, m := range decode(t, base, rendered, examples) {
		c, ok := m.obj.(*storagev1.StorageClass)
		if !ok {
			continue
		}
		n++
		if c.VolumeBindingMode == nil || *c.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer {
			t.Errorf("%s: %s does not wait for a consumer", m.file, c.Name)
		}
		if c.AllowVolumeExpansion == nil || !*c.AllowVolumeExpansion {
			t.Errorf("%s: volumes of %s cannot grow", m.file, c.Name)
		}
		if c.Parameters["pool"] == "" {
			t.Errorf("%s: %s names no pool", m.file, c.Name)
		}
	}
	if n < 3 {
		t.Errorf("%d StorageClasses", n)
	}
}
