package sidecar

import (
	"time"

	"golang.org/x/time/rate"
	"k8s.io/client-go/util/workqueue"
)

const (
	// What failed is tried again after retryFirst, then after twice as long each
	// time, up to retryMax. The sidecars' own 1 second to 5 minutes is meant for
	// storage that answers slowly; here the common failure is a node that is away,
	// and its claims must not wait for minutes once it is back.
	retryFirst = time.Second
	retryMax   = 30 * time.Second
	// All retries of one queue together: what 5,000 claims that wait for the same
	// thing cost.
	retriesPerSecond = 100
	retryBurst       = 500

	// infeasibleRetry is how long an expansion or modification waits after an
	// answer that the same request will get again, such as a full pool's.
	infeasibleRetry = time.Minute

	// callTimeout bounds one CSI call. A node that is away is found by its link
	// within seconds; this is for one whose disks are slow. The call's command runs
	// on there and a retry of the same name finds its result.
	callTimeout = 30 * time.Second

	// Workers are goroutines that wait for nodes: enough that a node that answers
	// slowly holds up no other, and that 50 claims at once go out at once. There are
	// as many again for deletions.
	provisionWorkers = 100
	resizeWorkers    = 20
	modifyWorkers    = 10
	snapshotWorkers  = 20

	resync = 15 * time.Minute
)

// retries is the limiter of one queue.
func retries() workqueue.TypedRateLimiter[string] {
	return workqueue.NewTypedMaxOfRateLimiter(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](retryFirst, retryMax),
		&workqueue.TypedBucketRateLimiter[string]{Limiter: rate.NewLimiter(retriesPerSecond, retryBurst)},
	)
}

func queue(name string) workqueue.TypedRateLimitingInterface[string] {
	return workqueue.NewTypedRateLimitingQueueWithConfig(retries(), workqueue.TypedRateLimitingQueueConfig[string]{Name: name})
}
