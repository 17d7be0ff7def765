// Command node measures the agent on a real kernel: it boots one virtual machine whose
// clock counts instructions, runs the guest program there, and prints its table.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/lamina-csi/lamina/test/vm"
)

type config struct {
	volumes, parts         string
	rounds, active, memory int
	timeout                time.Duration
}

func main() {
	var c config
	flag.StringVar(&c.volumes, "volumes", "1,100,500", "how many volumes are in the pool when an operation is timed; ascending")
	flag.IntVar(&c.rounds, "rounds", 3, "how often each operation is timed; the median counts")
	flag.IntVar(&c.active, "active", 200, "active volumes while the latency of a writer is watched")
	flag.IntVar(&c.memory, "memory", 1000, "volumes with which the agent's memory is read at last")
	flag.StringVar(&c.parts, "parts", "processes,ops,burst,first,mount,io,chunks,latency,stats,memory", "what is measured")
	flag.DurationVar(&c.timeout, "timeout", 85*time.Minute, "kill the machine after this time")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: make build && go run ./test/bench/node [flags]\n\n"+
			"A smaller run: go run ./test/bench/node -volumes 1,20 -rounds 3 -active 20 -memory 50\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	code, err := run(ctx, c)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(ctx context.Context, c config) (int, error) {
	dir, err := os.MkdirTemp("", "lamina-bench-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	guest := filepath.Join(dir, "guest")
	build := exec.CommandContext(ctx, "go", "build", "-o", guest, "./test/bench/node/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build the guest program: %w\n%s", err, out)
	}
	agent, err := filepath.Abs("bin/lamina-node")
	if err != nil {
		return 0, err
	}
	debian := filepath.Join(dir, "debian")
	if err := plainInstallation(ctx, debian); err != nil {
		return 0, fmt.Errorf("a plain installation of lvm2: %w", err)
	}
	start := time.Now()
	code, err := vm.Run(ctx, vm.Config{
		Program: guest,
		Args: []string{
			"-volumes", c.volumes, "-parts", c.parts,
			"-rounds", fmt.Sprint(c.rounds), "-active", fmt.Sprint(c.active), "-memory", fmt.Sprint(c.memory),
		},
		Files: map[string]string{
			"/usr/local/bin/lamina-node": agent,
			"/usr":                       filepath.Join(debian, "usr"),
			"/plain":                     filepath.Join(debian, "etc", "lvm"),
		},
		Memory:  3 << 30,
		Clock:   true,
		Timeout: c.timeout,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
	})
	fmt.Fprintf(os.Stderr, "%.0f minutes in all.\n", time.Since(start).Minutes())
	return code, err
}
