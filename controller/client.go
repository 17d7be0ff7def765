package controller

import (
	"fmt"
	"time"

	snapshotclient "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/lamina-csi/lamina/controller/auth"
)

// Clients are ways to the API server, apart so that no use starves another. All
// share one connection.
type Clients struct {
	// Kube is for the sidecars and for what is small. It has no client-side limit:
	// the sidecars bound their workers and retries, and the API server's own
	// fairness sets the pace of a burst of claims.
	Kube kubernetes.Interface
	// Bulk is for what is written for each node: capacity and conditions.
	Bulk kubernetes.Interface
	// Lease is for the election.
	Lease kubernetes.Interface
	// Reviews judges agents' tokens.
	Reviews   auth.Reviews
	Snapshots snapshotclient.Interface
}

const (
	// After a failover at 5,000 nodes and two StorageClasses, 10,000 capacities
	// are compared and those that differ written, at this rate at most.
	bulkQPS, bulkBurst = 50, 100

	protobuf = runtime.ContentTypeProtobuf
)

// NewClients makes the clients from a configuration, which it does not change.
func NewClients(base *rest.Config, version string) (Clients, error) {
	core := rest.CopyConfig(base)
	core.UserAgent = "lamina-controller/" + version
	core.QPS = -1
	custom := rest.CopyConfig(core)
	// Custom resources have no protobuf.
	core.ContentType, core.AcceptContentTypes = protobuf, protobuf+","+runtime.ContentTypeJSON

	bulk := rest.CopyConfig(core)
	bulk.QPS, bulk.Burst = bulkQPS, bulkBurst
	lease := rest.CopyConfig(core)
	// A request that hangs leaves time for another before the lease is lost.
	lease.Timeout = renewDeadline / 2
	reviews := rest.CopyConfig(core)
	reviews.Timeout = 10 * time.Second

	var c Clients
	for config, client := range map[*rest.Config]*kubernetes.Interface{core: &c.Kube, bulk: &c.Bulk, lease: &c.Lease} {
		made, err := kubernetes.NewForConfig(config)
		if err != nil {
			return Clients{}, fmt.Errorf("make a Kubernetes client: %w", err)
		}
		*client = made
	}
	r, err := kubernetes.NewForConfig(reviews)
	if err != nil {
		return Clients{}, fmt.Errorf("make a Kubernetes client: %w", err)
	}
	c.Reviews = r.AuthenticationV1().TokenReviews()
	if c.Snapshots, err = snapshotclient.NewForConfig(custom); err != nil {
		return Clients{}, fmt.Errorf("make a client for snapshots: %w", err)
	}
	return c, nil
}
