package controller

import (
	"context"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func TestFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		claim := func(name string) *corev1.PersistentVolumeClaim {
			return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
		}
		client := fake.NewClientset(claim("old"))
		factory := informers.NewSharedInformerFactory(client, 0)
		var f fresh
		if err := f.follow(factory.Core().V1().PersistentVolumeClaims().Informer()); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		factory.Start(ctx.Done())
		defer factory.Shutdown()
		defer stop()
		factory.WaitForCacheSync(ctx.Done())
		claims := client.CoreV1().PersistentVolumeClaims("ns")
		for _, name := range []string{"new", "bound", "deleted"} {
			if _, err := claims.Create(t.Context(), claim(name), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		bound := claim("bound")
		bound.Spec.VolumeName = "pv"
		if _, err := claims.Update(t.Context(), bound, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := claims.Delete(t.Context(), "deleted", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for name, want := range map[string]bool{"old": false, "new": true, "bound": false, "deleted": false, "unknown": false} {
			if got := f.volume("pvc-" + name); got != want {
				t.Errorf("%s: fresh %v", name, got)
			}
		}
	})
}
