package driver

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lamina-csi/lamina/driver/link"
)

// PoolAgent is what the driver uses of the agent that makes the pools.
type PoolAgent interface {
	// Apply sets the pools that are wanted from now on. What is wrong with one pool
	// is in its status; an error refuses the whole set.
	Apply(pools []*link.Pool) error
	// Statuses tells how the pools are, without a process. settled: what is wanted
	// was reconciled once.
	Statuses() (pools []*link.PoolStatus, settled bool)
	// Told says why it is not known yet which pools are wanted; nil: it is.
	Told() error
	// Changed is closed when the statuses may have changed.
	Changed() <-chan struct{}
	// Touch says that they may have.
	Touch()
}

// poolsServer serves link.Pools.
type poolsServer struct {
	link.UnimplementedPoolsServer
	agent  PoolAgent
	driver *Driver
}

// Apply implements link.PoolsServer.
func (s *poolsServer) Apply(_ context.Context, req *link.ApplyRequest) (*link.ApplyResponse, error) {
	if s.agent == nil {
		return nil, errNoAgent
	}
	if err := s.agent.Apply(req.GetPools()); err != nil {
		return nil, status.Errorf(codes.FailedPrecondition, "apply pools: %v", err)
	}
	return &link.ApplyResponse{}, nil
}

var errNoAgent = status.Error(codes.Unimplemented, "no agent makes pools here")

// watchPause is the least time between two statuses on one stream: while many
// volumes are made, one status tells of several.
const watchPause = 100 * time.Millisecond

// Watch implements link.PoolsServer.
func (s *poolsServer) Watch(_ *link.WatchRequest, stream grpc.ServerStreamingServer[link.WatchResponse]) error {
	if s.agent == nil {
		return errNoAgent
	}
	done := stream.Context().Done()
	var last *link.WatchResponse
	for {
		// Asked for before the statuses, so that no change falls in between.
		changed := s.agent.Changed()
		now := &link.WatchResponse{}
		now.Pools, now.Settled = s.agent.Statuses()
		if last == nil || !proto.Equal(last, now) {
			if err := stream.Send(now); err != nil {
				return err
			}
			last = now
		}
		select {
		case <-changed:
		case <-done:
			return ended(stream.Context())
		}
		select {
		case <-time.After(watchPause):
		case <-done:
			return ended(stream.Context())
		}
	}
}

// ended says why a stream ends that would go on.
func ended(ctx context.Context) error { return context.Cause(ctx) }

// errStopping ends the streams, which otherwise keep the agent from stopping.
var errStopping = status.Error(codes.Unavailable, "the node agent stops")

// endWith ends the streams of a server when ctx ends.
func endWith(ctx context.Context) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		inner, cancel := context.WithCancelCause(stream.Context())
		defer cancel(nil)
		stop := context.AfterFunc(ctx, func() { cancel(errStopping) })
		defer stop()
		return handler(srv, &endingStream{stream, inner})
	}
}

type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *endingStream) Context() context.Context { return s.ctx }
