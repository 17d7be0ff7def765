package controller

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	coordinationv1client "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
)

const namespace = "lamina-system"

func newElection(client kubernetes.Interface, identity string) *election {
	return &election{
		client: client, namespace: namespace, identity: identity,
		watchdog: leaderelection.NewLeaderHealthzAdaptor(renewDeadline),
		log:      slog.New(slog.DiscardHandler),
	}
}

func holder(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	lease, err := client.CoordinationV1().Leases(namespace).Get(t.Context(), LeaseName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// work is what a leader does in these tests: it notes that it began, and takes a
// while to stop.
type work struct {
	began, ended chan struct{}
	stopping     time.Duration
	result       error
}

func newWork() *work { return &work{began: make(chan struct{}), ended: make(chan struct{})} }

func (w *work) lead(ctx, lease context.Context) error {
	close(w.began)
	defer close(w.ended)
	select {
	case <-ctx.Done():
		time.Sleep(w.stopping)
	case <-lease.Done():
	}
	return w.result
}

func ended(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// run starts an election; its end comes on the channel.
func run(ctx context.Context, e *election, w *work) chan error {
	end := make(chan error, 1)
	go func() { end <- e.run(ctx, w.lead) }()
	return end
}

// The next leader begins when the work of the last one has ended, and soon.
func TestHandover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		stop, cancel := context.WithCancel(t.Context())
		first, second := newWork(), newWork()
		first.stopping = time.Minute
		firstEnd := run(stop, newElection(client, "first"), first)
		<-first.began
		secondCtx, secondStop := context.WithCancel(t.Context())
		secondEnd := run(secondCtx, newElection(client, "second"), second)

		time.Sleep(10 * leaseDuration)
		cancel()
		time.Sleep(first.stopping - time.Second)
		if ended(first.ended) || ended(second.began) || holder(t, client) != "first" {
			t.Error("the lease changed hands while the first one's work was still ending")
		}
		if err := <-firstEnd; err != nil {
			t.Errorf("an orderly stop: %v", err)
		}
		given := time.Now()
		<-second.began
		if took := time.Since(given); took > 3*retryPeriod {
			t.Errorf("the second one had to wait for %s", took)
		}
		secondStop()
		if err := <-secondEnd; err != nil {
			t.Error(err)
		}
		if h := holder(t, client); h != "" {
			t.Errorf("%q still holds the lease", h)
		}
	})
}

func TestStandbyStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		first, second := newWork(), newWork()
		firstCtx, firstStop := context.WithCancel(t.Context())
		firstEnd := run(firstCtx, newElection(client, "first"), first)
		<-first.began
		secondCtx, secondStop := context.WithCancel(t.Context())
		secondEnd := run(secondCtx, newElection(client, "second"), second)
		time.Sleep(time.Minute)
		secondStop()
		if err := <-secondEnd; err != nil {
			t.Error(err)
		}
		if ended(second.began) || ended(first.ended) || holder(t, client) != "first" {
			t.Error("a standby that stops disturbs the leader")
		}
		firstStop()
		if err := <-firstEnd; err != nil {
			t.Error(err)
		}
	})
}

func TestWorkThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		broken := errors.New("broken")
		err := newElection(client, "first").run(t.Context(), func(_, _ context.Context) error { return broken })
		if !errors.Is(err, broken) || errors.Is(err, errLeaseLost) {
			t.Errorf("got %v", err)
		}
		if h := holder(t, client); h != "" {
			t.Errorf("%q still holds the lease", h)
		}
	})
}

// apiServer answers about leases until it goes away; then requests hang until the
// client gives up on them.
type apiServer struct {
	kubernetes.Interface
	away atomic.Bool
}

func (a *apiServer) CoordinationV1() coordinationv1client.CoordinationV1Interface {
	return coordination{a.Interface.CoordinationV1(), a}
}

type coordination struct {
	coordinationv1client.CoordinationV1Interface
	server *apiServer
}

func (c coordination) Leases(namespace string) coordinationv1client.LeaseInterface {
	return leases{c.CoordinationV1Interface.Leases(namespace), c.server}
}

type leases struct {
	coordinationv1client.LeaseInterface
	server *apiServer
}

func (l leases) Get(ctx context.Context, name string, o metav1.GetOptions) (*coordinationv1.Lease, error) {
	if err := l.server.reach(ctx); err != nil {
		return nil, err
	}
	return l.LeaseInterface.Get(ctx, name, o)
}

func (l leases) Update(ctx context.Context, lease *coordinationv1.Lease, o metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	if err := l.server.reach(ctx); err != nil {
		return nil, err
	}
	return l.LeaseInterface.Update(ctx, lease, o)
}

func (a *apiServer) reach(ctx context.Context) error {
	if !a.away.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, renewDeadline/2) // the client's timeout
	defer cancel()
	<-ctx.Done()
	return ctx.Err()
}

// A leader that cannot renew its lease has stopped before another may lead.
func TestLostLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &apiServer{Interface: fake.NewClientset()}
		first := newWork()
		end := run(t.Context(), newElection(server, "first"), first)
		<-first.began
		away := time.Now()
		server.away.Store(true)
		err := <-end
		if !errors.Is(err, errLeaseLost) {
			t.Errorf("got %v, want %v", err, errLeaseLost)
		}
		if took := time.Since(away); took >= leaseDuration {
			t.Errorf("the leader noticed after %s; the lease lasts for %s", took, leaseDuration)
		}
		if !ended(first.ended) {
			t.Error("the work goes on")
		}
	})
}

// Work that does not notice keeps the process for hardStop and no longer.
func TestLostLeaseAndStuckWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &apiServer{Interface: fake.NewClientset()}
		began, stuck := make(chan struct{}), make(chan struct{})
		var lost time.Time
		end := make(chan error, 1)
		go func() {
			end <- newElection(server, "first").run(t.Context(), func(_, lease context.Context) error {
				close(began)
				<-lease.Done()
				lost = time.Now()
				<-stuck
				return nil
			})
		}()
		<-began
		server.away.Store(true)
		if err := <-end; !errors.Is(err, errLeaseLost) {
			t.Errorf("got %v, want %v", err, errLeaseLost)
		}
		synctest.Wait() // lost is written
		if took := time.Since(lost); took != hardStop {
			t.Errorf("the process waited for %s, want %s", took, hardStop)
		}
		close(stuck)
	})
}
