package fleettest

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	"github.com/lamina-csi/lamina/driver/link"
)

// Agent is an agent's Pools service that does what the test says.
type Agent struct {
	link.UnimplementedPoolsServer
	// Applied gets what each successful Apply brought.
	Applied chan []*link.Pool

	mu      sync.Mutex
	status  []*link.PoolStatus
	changed chan struct{} // closed at the next change of status
	refuse  error
}

// NewAgent makes an Agent that has those pools.
func NewAgent(pools ...*link.PoolStatus) *Agent {
	return &Agent{Applied: make(chan []*link.Pool, 100), status: pools, changed: make(chan struct{})}
}

// Server serves the agent alone.
func (a *Agent) Server() *grpc.Server {
	s := grpc.NewServer()
	link.RegisterPoolsServer(s, a)
	return s
}

// Show changes the pools, and sends them to who watches.
func (a *Agent) Show(pools ...*link.PoolStatus) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.status = pools
	close(a.changed)
	a.changed = make(chan struct{})
}

// Refuse makes every further call fail, and ends the streams that are open. nil
// undoes that.
func (a *Agent) Refuse(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refuse = err
	close(a.changed)
	a.changed = make(chan struct{})
}

// Apply implements link.PoolsServer.
func (a *Agent) Apply(_ context.Context, req *link.ApplyRequest) (*link.ApplyResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refuse != nil {
		return nil, a.refuse
	}
	a.Applied <- req.GetPools()
	return &link.ApplyResponse{}, nil
}

// Watch implements link.PoolsServer.
func (a *Agent) Watch(_ *link.WatchRequest, stream grpc.ServerStreamingServer[link.WatchResponse]) error {
	for {
		a.mu.Lock()
		resp, changed, err := &link.WatchResponse{Pools: a.status, Settled: true}, a.changed, a.refuse
		a.mu.Unlock()
		if err == nil {
			err = stream.Send(resp)
		}
		if err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
