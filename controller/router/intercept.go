package router

import (
	"context"
	"log/slog"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-lib-utils/protosanitizer"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// metrics time the calls of the router, and within them those to the nodes. The
// difference is what the router adds.
type metrics struct {
	requests, nodes *prometheus.HistogramVec
}

func newMetrics() metrics {
	buckets := []float64{0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 120, 600}
	return metrics{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "lamina_controller_csi_request_duration_seconds",
			Help:    "Duration of CSI calls to the controller, by method and gRPC code.",
			Buckets: buckets,
		}, []string{"method", "code"}),
		nodes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "lamina_controller_node_request_duration_seconds",
			Help:    "Duration of the calls to nodes that CSI calls to the controller led to, by the controller's method and gRPC code.",
			Buckets: buckets,
		}, []string{"method", "code"}),
	}
}

// record logs and measures a call.
func (r *Router) record(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	resp, err := handler(ctx, req)
	took := time.Since(start)
	method, code := path.Base(info.FullMethod), status.Code(err)
	r.metrics.requests.WithLabelValues(method, code.String()).Observe(took.Seconds())
	level := levelOf(method, code)
	if !r.log.Enabled(ctx, level) {
		return resp, err
	}
	attrs := []slog.Attr{
		slog.String("method", method),
		slog.String("code", code.String()),
		slog.Duration("took", took),
		// Fields marked csi_secret in the specification are replaced by a placeholder.
		slog.String("request", protosanitizer.StripSecrets(brief(req)).String()),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", status.Convert(err).Message()))
	}
	r.log.LogAttrs(ctx, level, "csi", attrs...)
	return resp, err
}

// brief leaves a long list of nodes out of what is logged: with immediate binding
// CreateVolume names every node of the cluster, twice.
func brief(req any) any {
	const enough = 5
	r, ok := req.(*csi.CreateVolumeRequest)
	if !ok || len(r.GetAccessibilityRequirements().GetRequisite()) <= enough {
		return req
	}
	return &csi.CreateVolumeRequest{
		Name: r.GetName(), CapacityRange: r.GetCapacityRange(), VolumeCapabilities: r.GetVolumeCapabilities(),
		Parameters: r.GetParameters(), MutableParameters: r.GetMutableParameters(), VolumeContentSource: r.GetVolumeContentSource(),
	}
}

// levelOf keeps quiet about what is asked often and succeeds.
func levelOf(method string, code codes.Code) slog.Level {
	switch code {
	case codes.OK:
		if method == "Probe" || strings.Contains(method, "Get") || strings.Contains(method, "List") {
			return slog.LevelDebug
		}
		return slog.LevelInfo
	case codes.Internal, codes.Unknown:
		return slog.LevelError
	}
	return slog.LevelWarn
}

// recover turns a panic into Internal: one bad call must not end the others. The
// stack goes to the log only.
func (r *Router) recover(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			r.log.ErrorContext(ctx, "panic", "method", path.Base(info.FullMethod), "panic", p, "stack", string(debug.Stack()))
			resp, err = nil, status.Errorf(codes.Internal, "%s panicked; its stack is in the log of the controller", path.Base(info.FullMethod))
		}
	}()
	return handler(ctx, req)
}
