// Command bench measures lamina-controller at scale: the real program, with the
// rights of the manifests, against a real API server, with thousands of simulated
// agents that link to it over TLS with tokens of their own.
//
//	go run ./test/bench -nodes 1000 -volumes 10000
//
// An agent is the real driver and link on LVM in memory; its pod is an object that
// no kubelet runs. There is no scheduler: the bench selects the nodes of its claims
// as one does. It needs root and what test/cluster needs.
//
// It prints a table with the aims beside the figures, and fails when the controller
// writes more than five times to the API for a volume, or needs more than 1 GiB.
// Times are printed and not judged: they are the machine's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/rest"

	"github.com/lamina-csi/lamina/test/cluster"
)

// scale is what is measured.
type scale struct {
	Nodes     int
	Volumes   int // that exist already
	Claims    int // bound to nodes, as late binding gives
	Immediate int // of a class with immediate binding
	Calls     int // CreateVolume calls each way
}

func main() {
	var s scale
	flag.IntVar(&s.Nodes, "nodes", 50, "simulated nodes")
	flag.IntVar(&s.Volumes, "volumes", 500, "bound volumes that exist when the controller starts")
	flag.IntVar(&s.Claims, "claims", 500, "claims created at once, with a node selected")
	flag.IntVar(&s.Immediate, "immediate", 20, "claims created at once, of a class with immediate binding")
	flag.IntVar(&s.Calls, "calls", 1000, "CreateVolume calls through the controller, and as many to agents directly")
	program := flag.String("controller", "bin/lamina-controller", "the program to measure")
	sidecars := flag.String("sidecars", "", "`directory` of csi-provisioner, csi-resizer and csi-snapshotter, to compare with (none)")
	keep := flag.Bool("keep", false, "keep logs and profiles in the directory that is printed")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if !inNamespace() {
		os.Exit(again(ctx))
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(ctx, s, programs{*program, *sidecars}, *keep, log); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	scale
	log     *slog.Logger
	dir     string // of logs, tokens and sockets
	program string
	// sidecars is the directory of the stock ones; empty: they are not measured.
	sidecars string
	cluster  *cluster.Cluster
	api      *rest.Config // an administrator's
	audit    *audit
	fleet    *agents
	result   table
}

// programs are host paths.
type programs struct{ controller, sidecars string }

func run(ctx context.Context, s scale, p programs, keep bool, log *slog.Logger) (err error) {
	b := &bench{scale: s, log: log, sidecars: p.sidecars}
	if b.program, err = filepath.Abs(p.controller); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "lamina-bench-"); err != nil {
		return err
	}
	if keep {
		fmt.Fprintln(os.Stderr, "logs:", b.dir)
	} else {
		defer os.RemoveAll(b.dir)
	}
	if err := addAddresses(ctx, s.Nodes); err != nil {
		return err
	}
	if err := b.startPlane(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.cluster.Stop()) }()
	if err := b.populate(ctx); err != nil {
		return err
	}
	err = b.measure(ctx)
	b.result.print(os.Stdout, s) // as far as it came
	return errors.Join(err, b.result.verdict())
}

// measure does all measurements, of one controller and the one that follows it.
func (b *bench) measure(ctx context.Context) error {
	linkCtx, unlink := context.WithCancel(ctx)
	defer unlink()
	c, err := b.startController(ctx, "first")
	if err != nil {
		return err
	}
	defer func() { c.kill() }()
	if err := b.becomeReady(ctx, c, func() error { return b.dialAll(linkCtx) }); err != nil {
		return err
	}
	for _, step := range []func(context.Context, *controller) error{
		b.latency, b.lateBinding, b.immediateBinding, b.deletion,
	} {
		if err := step(ctx, c); err != nil {
			return err
		}
	}
	if err := b.footprint(ctx, c, "after the work"); err != nil {
		return err
	}
	if err := c.stop(); err != nil {
		return err
	}
	next, err := b.startController(ctx, "next")
	if err != nil {
		return err
	}
	c = next
	if err := b.becomeReady(ctx, c, func() error { return nil }); err != nil || b.sidecars == "" {
		return err
	}
	if err := b.usage(ctx, "lamina-controller", c); err != nil {
		return err
	}
	if err := c.stop(); err != nil {
		return err
	}
	if c, err = b.startController(ctx, "without", "--sidecars=false"); err != nil {
		return err
	}
	return b.stock(ctx, c)
}

// each calls f for 0 to n-1, in several goroutines.
func each(ctx context.Context, n, workers int, f func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(workers)
	for i := range n {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error { return f(ctx, i) })
	}
	return g.Wait()
}

// poll asks until the answer is yes, ctx ends, which happens after most, or the
// controller has.
func poll(ctx context.Context, what string, most time.Duration, ask func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := ask()
		if done {
			return nil
		}
		if errors.Is(err, errEnded) {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}
