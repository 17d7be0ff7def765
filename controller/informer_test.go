package controller

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func sizedClaim(size string) *corev1.PersistentVolumeClaim {
	list := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data", Annotations: map[string]string{"a": "b"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet"}}},
		Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: new("lamina"), Resources: corev1.VolumeResourceRequirements{Requests: list}},
		Status:     corev1.PersistentVolumeClaimStatus{Capacity: maps.Clone(list)},
	}
}

// What is cached says the same as what came, without the managed fields.
func TestStripKeepsClaims(t *testing.T) {
	var s sharer
	for _, size := range []string{"1Gi", "2Gi", "1024Mi", "1Gi"} {
		got, err := s.strip(sizedClaim(size))
		if err != nil {
			t.Fatal(err)
		}
		want := sizedClaim(size)
		want.ManagedFields = nil
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", size, diff)
		}
		if text := got.(*corev1.PersistentVolumeClaim).Spec.Resources.Requests.Storage().String(); text != size && size != "1024Mi" {
			t.Errorf("%s became %s", size, text)
		}
	}
	if len(s.lists) != 2 {
		t.Errorf("%d lists are shared, want 2: 1Gi and 2Gi", len(s.lists))
	}
}

// A list that says more than a size is left alone.
func TestListsWithMoreAreNotShared(t *testing.T) {
	var s sharer
	two := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi"), "other": resource.MustParse("1")}
	for _, l := range []corev1.ResourceList{two, nil, {}} {
		if diff := cmp.Diff(l, s.list(l)); diff != "" {
			t.Error(diff)
		}
	}
	if len(s.lists) != 0 {
		t.Errorf("%d lists are shared", len(s.lists))
	}
}
