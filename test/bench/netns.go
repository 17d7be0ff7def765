package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// inside is set in the environment of the process in its own network.
const inside = "LAMINA_BENCH_INSIDE"

func inNamespace() bool { return os.Getenv(inside) != "" }

// again runs this program in a network namespace of its own, where every agent
// has an address: the controller bounds how many connections of one address may be
// on their way to become links. It returns the exit status.
func again(ctx context.Context) int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Setpgid: true}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: make a network namespace, which needs root:", err)
		return 1
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })()
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(1, exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

// address is where the agent of a node reaches the controller, and where its
// connection comes from: Linux takes a local address that is dialled as source.
func address(i int) string { return fmt.Sprintf("10.128.%d.%d", i/250, i%250+1) }

func addAddresses(ctx context.Context, nodes int) error {
	lines := []string{"link set lo up"}
	for i := range nodes {
		lines = append(lines, "addr add "+address(i)+"/32 dev lo")
	}
	cmd := exec.CommandContext(ctx, "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("give agents their addresses: %w: %s", err, out)
	}
	return nil
}
