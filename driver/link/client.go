package link

import (
	"context"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// A peer that does not answer a ping within pingTimeout is dead. 10 seconds is
// the shortest that gRPC allows a client (proposal A8).
const (
	pingEvery   = 10 * time.Second
	pingTimeout = 5 * time.Second
)

// ServerOptions are what a gRPC server on a link needs: it lets the controller
// ping it, and finds out when the controller is gone.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingEvery / 2, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingEvery, Timeout: pingTimeout}),
		grpc.ConnectionTimeout(readyTimeout),
	}
}

// newClient is a gRPC client on that connection and no other. It returns once the
// agent speaks gRPC; ctx must end when the connection does.
func newClient(ctx context.Context, node string, conn net.Conn) (*grpc.ClientConn, error) {
	only := make(chan net.Conn, 1)
	only <- conn
	client, err := grpc.NewClient("passthrough:///"+node,
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case c := <-only:
				return c, nil
			default:
				return nil, fmt.Errorf("node %s: %w: it has ended", node, ErrNoLink)
			}
		}),
		// TLS is below, and done.
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		// There are thousands of links, nearly always idle; TLS has a buffer too.
		grpc.WithReadBufferSize(0),
		grpc.WithSharedWriteBuffer(true),
		grpc.WithUnaryInterceptor(unary(node)),
		grpc.WithStreamInterceptor(stream(node)),
	)
	if err != nil {
		return nil, fmt.Errorf("link of node %s: %w", node, err)
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	client.Connect()
	for state := client.GetState(); state != connectivity.Ready; state = client.GetState() {
		if state == connectivity.TransientFailure || !client.WaitForStateChange(ctx, state) {
			client.Close()
			return nil, fmt.Errorf("link of node %s: the agent does not speak gRPC on it", node)
		}
	}
	return client, nil
}

// gone gives a call that was cut off the code for a node that cannot be reached.
// gRPC says Canceled when the client closes, as if the caller had wished it.
func gone(ctx context.Context, node string, err error) error {
	if status.Code(err) != codes.Canceled || ctx.Err() != nil {
		return err
	}
	return status.Errorf(codes.Unavailable, "node %s: the call was cut off: %s", node, status.Convert(err).Message())
}

func unary(node string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return gone(ctx, node, invoke(ctx, method, req, reply, cc, opts...))
	}
}

func stream(node string) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		s, err := open(ctx, desc, cc, method, opts...)
		return s, gone(ctx, node, err)
	}
}
