// Command demo shows the main job on a real kernel: it boots a virtual machine
// with blank NVMe disks and runs the guest program beside lamina-node there.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/lamina-csi/lamina/test/vm"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	code, err := run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(ctx context.Context) (int, error) {
	dir, err := os.MkdirTemp("", "lamina-demo-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	guest := filepath.Join(dir, "guest")
	build := exec.CommandContext(ctx, "go", "build", "-o", guest, "./test/demo/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("build the guest program: %w\n%s", err, out)
	}
	agent, err := filepath.Abs("bin/lamina-node")
	if err != nil {
		return 0, err
	}
	start := time.Now()
	fmt.Println("Booting a virtual machine with two blank NVMe disks of 4 GiB (software emulation: times are many times those of a real node).")
	code, err := vm.Run(ctx, vm.Config{
		Program: guest,
		Files:   map[string]string{"/usr/local/bin/lamina-node": agent},
		Disks:   []vm.Disk{{Serial: "DEMO1", Size: 4 << 30, Unsafe: true}, {Serial: "DEMO2", Size: 4 << 30, Unsafe: true}},
		Timeout: 5 * time.Minute,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
	})
	fmt.Printf("\n%.0f seconds in all.\n", time.Since(start).Seconds())
	return code, err
}
