package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/retry"
)

// LeaseName is the lease that the leader holds.
const LeaseName = "lamina-controller"

// Kubernetes' own values. A leader that dies is followed after leaseDuration at
// the latest.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second

	// hardStop is how long a process that lost the lease has to say so.
	hardStop = 5 * time.Second
)

// errLeaseLost: another process may lead by now.
var errLeaseLost = errors.New("the lease " + LeaseName + " was lost")

// election is how one process becomes the leader.
type election struct {
	client              kubernetes.Interface
	namespace, identity string
	watchdog            *leaderelection.HealthzAdaptor
	log                 *slog.Logger
}

// run waits for the lease and leads: ctx ends when it is time to stop in order,
// lease when the lease is lost. The lease is given back when lead has ended.
//
// ReleaseOnCancel is off. client-go gives the lease back as soon as its context
// ends, while lead still works; and when the API server is away it tries to before
// it tells of the loss, by which time another may lead.
func (e *election) run(ctx context.Context, lead func(ctx, lease context.Context) error) error {
	holding, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	started, led := make(chan struct{}), make(chan error, 1)
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: e.namespace, Name: LeaseName},
		Client:     e.client.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: e.identity},
	}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Name:          LeaseName,
		LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		Lock:     lock,
		WatchDog: e.watchdog,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(lease context.Context) {
				close(started)
				led <- lead(ctx, lease)
				// A lead that ended because of the lease must not make its loss
				// look like a lease that was given up.
				if lease.Err() == nil {
					giveUp()
				}
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("elect a leader: %w", err)
	}
	e.watchdog.SetLeaderElection(elector)
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-started: // lead gives up
		default:
			giveUp()
		}
	})
	defer stop()

	e.log.Info("waiting for the lease", "lease", e.namespace+"/"+LeaseName, "identity", e.identity)
	elector.Run(holding)
	if holding.Err() == nil {
		select {
		case err = <-led:
		case <-time.After(hardStop):
		}
		return errors.Join(errLeaseLost, err)
	}
	select {
	case <-started:
		err = <-led
	default: // ctx ended while another led
	}
	if err := retry.RetryOnConflict(retry.DefaultRetry, func() error { return release(ctx, lock) }); err != nil {
		e.log.Warn("the next leader has to wait until the lease expires", "error", err)
	}
	return err
}

// release gives the lease back if this process holds it.
func release(ctx context.Context, lock resourcelock.Interface) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), hardStop)
	defer cancel()
	record, _, err := lock.Get(ctx)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("give lease %s back: %w", lock.Describe(), err)
	}
	if record.HolderIdentity != lock.Identity() {
		return nil
	}
	record.HolderIdentity = ""
	if err := lock.Update(ctx, *record); err != nil {
		return fmt.Errorf("give lease %s back: %w", lock.Describe(), err)
	}
	return nil
}
