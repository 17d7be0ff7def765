package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/lamina-csi/lamina/driver"
	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/node"
	"github.com/lamina-csi/lamina/node/disk"
	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/pool"
)

// run wires the agent and blocks until ctx ends.
func run(ctx context.Context, c config) error {
	log := newLog(c.Debug)
	// mount-utils finds mount(8) through PATH, and whoever starts the agent may
	// have set none or another.
	if err := os.Setenv("PATH", mount.SearchPath(c.Userland)); err != nil {
		return err
	}
	unlock, err := lockNode(ctx, c.RunDir, log)
	if err != nil {
		return err
	}
	defer unlock()
	kernel := &lvm.LinuxKernel{}
	udev := newUdev(c, log)
	client, commands, err := newClient(c, udev, kernel, log)
	if err != nil {
		return err
	}
	mounter := mount.New(mount.Config{KubeletDir: c.KubeletDir, Runner: mount.Exec{Root: c.Userland, Udev: udev}})
	if err := mounter.CheckPropagation(); err != nil {
		return err
	}
	pools := pool.NewManager(client, mounter)
	agent := node.NewAgent(pools, &disk.System{Prober: prober{mounter}}, kernel, log)
	if c.Pools != "" {
		wanted, err := node.ReadPools(c.Pools)
		if err != nil {
			return err
		}
		agent.Want(wanted)
	}

	registry := prometheus.NewRegistry()
	registry.MustRegister(commands)
	drv := driver.New(driver.Config{
		Version:         version,
		NodeID:          c.NodeName,
		MaxVolumes:      int64(c.MaxVolumes),
		Endpoint:        c.Endpoint,
		RegistrationDir: c.RegistrationDir,
		Pools:           pools,
		Mounter:         mounter,
		Agent:           &poolAgent{Agent: agent, pools: pools, fromFile: c.Pools != ""},
		Ready:           func() error { return ready(agent) },
		Lacks:           agent.Lacks,
		Running:         func() []driver.RunningCommand { return running(client) },
		Log:             log,
		Registry:        registry,
	})
	log.Info("lamina-node starts", "version", version, "node", c.NodeName, "endpoint", c.Endpoint, "pools", c.Pools, "controller", c.Controller.Address)

	// The errgroup's context ends all parts when one of them ends.
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return agent.Run(ctx) })
	g.Go(func() error { return drv.Run(ctx) })
	if c.Controller.Address != "" {
		g.Go(func() error { return drv.Serve(ctx, link.Listen(ctx, c.Controller.dial(log))) })
	}
	if c.HTTP != "" {
		g.Go(func() error { return serveHTTP(ctx, c.HTTP, drv.HTTPHandler()) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	if err := closeAll(pools, mounter); err != nil {
		log.Warn("volumes that nobody uses stay active", "error", err)
	}
	log.Info("lamina-node has stopped")
	return nil
}

// closeTime bounds what is done after the last call has ended.
const closeTime = 20 * time.Second

// closeAll leaves only volumes that are in use, so that the disks of a node that shuts
// down can be closed.
func closeAll(pools *pool.Manager, mounter *mount.Mounter) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTime)
	defer cancel()
	return pools.CloseAll(ctx, func(device string) bool {
		at, err := mounter.MountedAt(device)
		return err != nil || len(at) > 0 // what cannot be seen may be in use
	})
}

func newLog(debug bool) *slog.Logger {
	level := slog.LevelInfo
	if debug {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// systemDir holds lvm.conf.
func (c config) systemDir() string { return filepath.Join(c.RunDir, "lvm") }

// newUdev returns nil where LVM and cryptsetup must not wait for udev.
func newUdev(c config, log *slog.Logger) *lvm.Udev {
	if err := lvm.CheckUdev(); err != nil {
		log.Info("LVM does not wait for udev", "reason", err)
		return nil
	}
	return &lvm.Udev{GiveUp: func(program string) {
		log.Warn("udevd does not answer, perhaps for want of device-mapper's rules (95-dm-notify.rules): LVM does not wait for it any more", "program", program)
		if err := lvm.WriteConfig(c.systemDir(), c.Userland, false); err != nil {
			log.Error("each lvm command will wait for udev", "error", err)
		}
	}}
}

// newClient makes the lvm client and its metrics.
func newClient(c config, udev *lvm.Udev, kernel lvm.Kernel, log *slog.Logger) (*lvm.Client, *driver.CommandMetrics, error) {
	if err := lvm.WriteConfig(c.systemDir(), c.Userland, udev.Answers()); err != nil {
		return nil, nil, err
	}
	commands := driver.NewCommandMetrics()
	client := lvm.New(lvm.Exec{Program: c.LVM, SystemDir: c.systemDir(), Udev: udev}, kernel, lvm.Options{
		Observe: func(cmd lvm.Command, took time.Duration, res lvm.Result) {
			commands.Observe(cmd.Name, took, res.Exit)
			log.Debug("lvm", "command", cmd.Name, "args", cmd.Args, "took", took, "exit", res.Exit)
		},
		Stuck: func(r lvm.Running) {
			log.Warn("lvm does not end: what waits for it fails with Aborted; docs/operations.md says what to look for",
				"command", r.Command, "vg", r.VG.String(), "after", lvm.StuckAfter.String())
		},
	})
	return client, commands, nil
}

// ready says why the agent cannot serve yet.
func ready(agent *node.Agent) error {
	if !agent.Ready() {
		return errors.New("the disks of this node are being looked at")
	}
	return nil
}

func running(client *lvm.Client) []driver.RunningCommand {
	var out []driver.RunningCommand
	for _, r := range client.Running() {
		out = append(out, driver.RunningCommand{VG: r.VG.String(), Command: r.Command, Since: r.Since})
	}
	return out
}

// prober lets the vetting of disks ask blkid.
type prober struct{ mounter *mount.Mounter }

func (p prober) Probe(ctx context.Context, device string) (disk.Signature, error) {
	sig, err := p.mounter.Probe(ctx, device)
	return disk.Signature(sig), err
}

// serveHTTP serves until ctx ends, on a TCP address or on unix:///path.
func serveHTTP(ctx context.Context, address string, h http.Handler) error {
	network := "tcp"
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		network, address = "unix", path
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("serve metrics: %w", err)
		}
	}
	l, err := net.Listen(network, address)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}
