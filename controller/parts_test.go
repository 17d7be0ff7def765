package controller

import (
	"context"
	"log/slog"
	"testing"

	snapshotfake "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned/fake"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// announced is closed when the log says that the process leads.
type announced struct {
	slog.Handler
	leads chan struct{}
}

func (a announced) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "this process leads" {
		close(a.leads)
	}
	return a.Handler.Handle(ctx, r)
}

// All parts run side by side on one set of informers and one registry, and end in
// order.
func TestParts(t *testing.T) {
	kube := fake.NewClientset()
	ctx, cancel := context.WithCancel(t.Context())
	log := announced{slog.NewTextHandler(t.Output(), nil), make(chan struct{})}
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, Config{
			Version: "test", Namespace: namespace, Identity: "test", Listen: "127.0.0.1:0", Log: slog.New(log),
			Clients: Clients{
				Kube: kube, Bulk: kube, Lease: kube, Reviews: kube.AuthenticationV1().TokenReviews(),
				Snapshots: snapshotfake.NewSimpleClientset(),
			},
		})
	}()
	select {
	case <-log.leads:
	case err := <-ended:
		t.Fatalf("ended before it led: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestOwner(t *testing.T) {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "lamina-controller", UID: "uid"}}
	for _, tt := range []struct {
		name string
		c    Config
		want metav1.OwnerReference
	}{
		{"in a pod", Config{Pod: "p", Clients: Clients{Kube: fake.NewClientset(d)}}, metav1.OwnerReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "lamina-controller", UID: "uid"}},
		{"in a pod of something else", Config{Pod: "p", Clients: Clients{Kube: fake.NewClientset()}}, metav1.OwnerReference{}},
		{"outside of the cluster", Config{Clients: Clients{Kube: fake.NewClientset(d)}}, metav1.OwnerReference{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.c.Namespace = namespace
			got, err := (&controller{Config: tt.c}).owner(t.Context())
			if err != nil || got != tt.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}
