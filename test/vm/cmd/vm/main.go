// Command vm runs a program or a package's tests on a real kernel in QEMU, with
// emulated NVMe disks and the node bundle.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lamina-csi/lamina/test/vm"
)

const usage = `usage:
  vm install                                 install QEMU and what else the host lacks
  vm [flags] -- PROGRAM [ARGS...]            PROGRAM is a host path (with a "/") or in the bundle
  vm [flags] gotest PACKAGE [-test.v ...]    compile a package's tests and run them

flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	code, err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		code = 125 // as other runners do when the run itself fails
	}
	os.Exit(code)
}

// lists collects the flags that may be given several times.
type lists struct{ disks, env, files, outputs, modules, kernel []string }

func appendTo(to *[]string) func(string) error {
	return func(v string) error {
		*to = append(*to, v)
		return nil
	}
}

func run(ctx context.Context, args []string) (int, error) {
	cfg := vm.Config{Stdout: os.Stdout, Stderr: os.Stderr}
	var l lists
	var keep, tags, mem string
	var verbose, stdin bool
	fl := flag.NewFlagSet("vm", flag.ContinueOnError)
	fl.Usage = func() { fmt.Fprint(fl.Output(), usage); fl.PrintDefaults() }
	fl.Func("disk", "an NVMe disk of `SIZE` (2G) or SIZE,PATH; may be repeated; serials are disk0, disk1, ...", appendTo(&l.disks))
	fl.StringVar(&keep, "keep-disks", "", "keep the disks' images in `DIR`, and use those that are there")
	fl.DurationVar(&cfg.Timeout, "timeout", vm.DefaultTimeout, "kill the machine after this time")
	fl.StringVar(&mem, "mem", "1G", "memory of the machine")
	fl.IntVar(&cfg.CPUs, "cpus", 1, "processors")
	fl.Func("env", "`KEY=VALUE` for the program; may be repeated", appendTo(&l.env))
	fl.Func("file", "copy `GUEST=HOST` (a file or a directory) in; may be repeated", appendTo(&l.files))
	fl.Func("output", "copy `GUEST=HOST` out at the end; may be repeated", appendTo(&l.outputs))
	fl.Func("module", "load kernel module `NAME` first; may be repeated", appendTo(&l.modules))
	fl.Func("kernel", "add kernel parameter `P`; may be repeated", appendTo(&l.kernel))
	fl.StringVar(&tags, "tags", "", "build tags of gotest")
	fl.BoolVar(&cfg.Clock, "clock", false, "let the guest's clock count instructions, so that times do not depend on the host's load")
	fl.BoolVar(&stdin, "i", false, "pass standard input on")
	fl.BoolVar(&verbose, "console", false, "show the kernel's console on standard error")
	if err := fl.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0, nil
		}
		return -1, err
	}
	if verbose {
		cfg.Console = os.Stderr
	}
	if stdin {
		cfg.Stdin = os.Stdin
	}
	cfg.Env, cfg.Modules, cfg.Kernel = l.env, l.modules, l.kernel
	if err := fill(&cfg, l, keep, mem); err != nil {
		return -1, err
	}
	return dispatch(ctx, cfg, tags, fl.Args())
}

func dispatch(ctx context.Context, cfg vm.Config, tags string, rest []string) (int, error) {
	switch {
	case len(rest) == 0:
		return -1, errors.New("no program\n" + usage)
	case rest[0] == "install" && len(rest) == 1:
		return 0, install(ctx)
	case rest[0] == "gotest" && len(rest) > 1:
		return vm.RunGoTest(ctx, rest[1], tags, cfg, rest[2:]...)
	}
	cfg.Program, cfg.Args = rest[0], rest[1:]
	m, err := vm.Start(ctx, cfg)
	if err != nil {
		return -1, err
	}
	code, err := m.Wait()
	if cfg.Console != nil {
		fmt.Fprintf(os.Stderr, "vm: the program started %.1f s after power-on\n", m.BootTime().Seconds())
	}
	return code, err
}

func fill(cfg *vm.Config, l lists, keep, mem string) (err error) {
	if cfg.Memory, err = parseSize(mem); err != nil {
		return err
	}
	if keep != "" {
		if err := os.MkdirAll(keep, 0o755); err != nil {
			return err
		}
	}
	for i, spec := range l.disks {
		size, path, _ := strings.Cut(spec, ",")
		d := vm.Disk{Serial: fmt.Sprintf("disk%d", i), Path: path}
		if d.Size, err = parseSize(size); err != nil {
			return err
		}
		if path == "" && keep != "" {
			d.Path = filepath.Join(keep, d.Serial+".raw")
		}
		cfg.Disks = append(cfg.Disks, d)
	}
	if cfg.Files, err = parsePairs(l.files); err != nil {
		return err
	}
	cfg.Outputs, err = parsePairs(l.outputs)
	return err
}

func parsePairs(specs []string) (map[string]string, error) {
	out := make(map[string]string)
	for _, s := range specs {
		guest, host, ok := strings.Cut(s, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not GUEST=HOST", s)
		}
		out[guest] = host
	}
	return out, nil
}

// parseSize reads bytes with an optional binary suffix K, M, G or T.
func parseSize(s string) (int64, error) {
	digits := strings.TrimRight(s, "KMGT")
	shift := map[string]uint{"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
	bits, ok := shift[s[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n <= 0 || n > (1<<62)>>bits {
		return 0, fmt.Errorf("%q is no size: want a number and K, M, G or T", s)
	}
	return n << bits, nil
}

func install(ctx context.Context) error {
	if vm.CheckInstalled() == nil {
		fmt.Println("nothing is missing")
		return nil
	}
	argv := vm.InstallCommand()
	if os.Geteuid() != 0 {
		return fmt.Errorf("run as root: apt-get update && %s", strings.Join(argv, " "))
	}
	for _, a := range [][]string{{"apt-get", "update"}, argv} {
		cmd := exec.CommandContext(ctx, a[0], a[1:]...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = io.Writer(os.Stdout), os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("install: %s: %w", strings.Join(a, " "), err)
		}
	}
	return nil
}
