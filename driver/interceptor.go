package driver

import (
	"context"
	"log/slog"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/kubernetes-csi/csi-lib-utils/protosanitizer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/driver/link"
)

// ServerOptions are what every gRPC server of the driver needs: codes for errors,
// panics caught, one log line and one measurement a call.
func (d *Driver) ServerOptions() []grpc.ServerOption {
	return append(link.ServerOptions(),
		grpc.ChainUnaryInterceptor(d.record, d.recover), grpc.ChainStreamInterceptor(d.recoverStream))
}

// record logs and measures a call.
func (d *Driver) record(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	resp, err := handler(ctx, req)
	took := time.Since(start)
	method, code := path.Base(info.FullMethod), status.Code(err)
	if d.config.Agent != nil && !asks(method) {
		d.config.Agent.Touch()
	}
	d.metrics.requests.WithLabelValues(method, code.String()).Observe(took.Seconds())
	level := levelOf(method, code)
	if !d.log.Enabled(ctx, level) {
		return resp, err
	}
	attrs := []slog.Attr{
		slog.String("method", method),
		slog.String("code", code.String()),
		slog.Duration("took", took),
		// Fields marked csi_secret in the specification are replaced by a placeholder.
		slog.String("request", protosanitizer.StripSecrets(req).String()),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", status.Convert(err).Message()))
	}
	d.log.LogAttrs(ctx, level, "csi", attrs...)
	return resp, err
}

// levelOf keeps quiet about what is asked every minute and succeeds.
func levelOf(method string, code codes.Code) slog.Level {
	switch code {
	case codes.OK:
		if asks(method) {
			return slog.LevelDebug
		}
		return slog.LevelInfo
	case codes.Internal, codes.Unknown:
		return slog.LevelError
	}
	return slog.LevelWarn
}

// asks reports whether a method changes nothing.
func asks(method string) bool {
	return method == "Probe" || strings.Contains(method, "Get") || strings.Contains(method, "List") || strings.HasPrefix(method, "Validate")
}

// recover turns errors into statuses and a panic into Internal: one bad call must
// not end the calls about other volumes. The stack goes to the log only.
func (d *Driver) recover(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, d.panicked(ctx, path.Base(info.FullMethod), p)
		}
	}()
	if err := d.refuseEarly(path.Base(info.FullMethod)); err != nil {
		return nil, err
	}
	ctx, cancel := answerEarly(ctx)
	defer cancel()
	resp, err = handler(ctx, req)
	if err != nil {
		return nil, toStatus(err)
	}
	return resp, nil
}

// answerEarly ends a call while its caller still listens: what it waited for is in the
// error, and would be lost with the caller's own DeadlineExceeded.
func answerEarly(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithDeadline(ctx, end.Add(-min(time.Until(end)/10, time.Second)))
}

// recoverStream does the same for a stream.
func (d *Driver) recoverStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = d.panicked(stream.Context(), path.Base(info.FullMethod), p)
		}
	}()
	return toStatus(handler(srv, stream))
}

func (d *Driver) panicked(ctx context.Context, method string, p any) error {
	d.log.ErrorContext(ctx, "panic", "method", method, "panic", p, "stack", string(debug.Stack()))
	return status.Errorf(codes.Internal, "%s panicked; its stack is in the log of the node agent", method)
}

// refuseEarly answers calls that depend on which pools there are with
// Unavailable until the agent has looked, and those that take room in one until
// it was told which pools are wanted: otherwise they would say that there is no
// room, and the scheduler go elsewhere.
func (d *Driver) refuseEarly(method string) error {
	switch method {
	case "CreateVolume", "GetCapacity", "CreateSnapshot", "CreateVolumeGroupSnapshot", "ControllerExpandVolume":
		if d.config.Agent == nil {
			break
		}
		if err := d.config.Agent.Told(); err != nil {
			return status.Errorf(codes.Unavailable, "%s: %v", method, err)
		}
	}
	switch method {
	case "CreateVolume", "GetCapacity", "CreateSnapshot", "CreateVolumeGroupSnapshot", "ControllerExpandVolume",
		"ListVolumes", "ListSnapshots", "ControllerGetCapabilities", "GroupControllerGetCapabilities":
		if d.config.Ready == nil {
			return nil
		}
		if err := d.config.Ready(); err != nil {
			return status.Errorf(codes.Unavailable, "%s: the node agent is not ready: %v", method, err)
		}
	}
	return nil
}
