package controller

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // requests, queues and election
)

// serveHTTP serves until ctx ends.
func (c *controller) serveHTTP(ctx context.Context) error {
	l, err := net.Listen("tcp", c.HTTP)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	s := &http.Server{Handler: c.handler(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// handler serves /metrics, /healthz and /readyz. /healthz fails when the lease ran
// out and the process did not notice: then a restart is what helps. A standby is
// ready, or a rolling update would wait for ever; a leader is when it takes links.
func (c *controller) handler() http.Handler {
	mux := http.NewServeMux()
	// Kubernetes' libraries, and with them the Go runtime, register with their own.
	metrics := prometheus.Gatherers{c.registry, legacyregistry.DefaultGatherer}
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := c.watchdog.Check(r); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		switch {
		case c.in(leading):
			fmt.Fprintln(w, "ok: leading")
		case c.in(standby):
			fmt.Fprintln(w, "ok: standby")
		default:
			http.Error(w, "starting to lead: the caches are being filled", http.StatusServiceUnavailable)
		}
	})
	return mux
}
