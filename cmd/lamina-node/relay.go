package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/lamina-csi/lamina/driver/link"
)

// relayConfig is what the command line of the relay says.
type relayConfig struct {
	controller

	Socket, HTTP, HTTPSocket string
}

func relayCommand() *cobra.Command {
	var c relayConfig
	cmd := &cobra.Command{
		Use:   "relay",
		Short: "Hold the link to the controller for an agent that is no pod",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.complete(); err != nil {
				return err
			}
			return relay(cmd.Context(), c, newLog(false))
		},
	}
	c.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&c.Socket, "socket", "/var/lib/kubelet/plugins/lamina.dev/csi.sock", "CSI socket of the agent")
	f.StringVar(&c.HTTP, "http", "", "address where the agent's /metrics, /healthz and /readyz are passed on, such as :9809 (default none)")
	f.StringVar(&c.HTTPSocket, "http-socket", "/run/lamina/http.sock", "socket that the agent serves them on (its --http unix:///path)")
	return cmd
}

func (c *relayConfig) complete() error {
	if c.Address == "" {
		return errors.New("--controller is not set")
	}
	for flag, path := range map[string]string{"--socket": c.Socket, "--http-socket": c.HTTPSocket} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("%s %q is no absolute path", flag, path)
		}
	}
	return c.controller.complete()
}

// relay runs until ctx ends.
func relay(ctx context.Context, c relayConfig, log *slog.Logger) error {
	log.Info("lamina-node relays", "version", version, "socket", c.Socket, "controller", c.Address)
	g, ctx := errgroup.WithContext(ctx)
	if c.HTTP != "" {
		l, err := net.Listen("tcp", c.HTTP)
		if err != nil {
			return fmt.Errorf("relay metrics: %w", err)
		}
		g.Go(func() error { return link.Relay(ctx, l, c.HTTPSocket) })
	}
	g.Go(func() error { return link.Relay(ctx, link.Listen(ctx, c.dial(log)), c.Socket) })
	return g.Wait()
}
