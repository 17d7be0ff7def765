// Command cluster runs the test cluster outside tests.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
	"github.com/lamina-csi/lamina/test/cluster"
	"github.com/lamina-csi/lamina/test/cluster/asset"
)

const usage = `usage:
  cluster install                          install the Debian packages that the host lacks
  cluster build                            build Kubernetes, if it is not built, at the lowest priority
  cluster up [--nodes N] [--image FILE]... start a cluster in the background
  cluster down                             stop it
  cluster kubectl ARGS...                  kubectl, as its administrator
  cluster exec NODE PROGRAM [ARGS...]      run a program on node 0, 1, ... as root
  cluster lock                             pin the newest Debian packages for nodes
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("no command\n" + usage)
	}
	switch command, args := args[0], args[1:]; command {
	case "install":
		return install(ctx)
	case "build":
		_, err := asset.BuildPrograms(ctx, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		return err
	case "lock":
		return asset.Lock(ctx)
	case "up":
		return up(ctx, args)
	case "supervise":
		return supervise(ctx, args)
	case "down":
		return down(ctx)
	case "kubectl":
		return kubectl(ctx, args)
	case "exec":
		return execute(ctx, args)
	default:
		return fmt.Errorf("unknown command %q\n%s", command, usage)
	}
}

func install(ctx context.Context) error {
	if cluster.CheckHost() == nil {
		fmt.Println("nothing is missing")
		return nil
	}
	for _, args := range [][]string{{"apt-get", "update"}, cluster.InstallCommand()} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if err := pass(cmd); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
		}
	}
	return nil
}

// pass runs a program with our input and output.
func pass(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd.Run()
}

// stateDir is the directory of the one cluster that this command runs.
func stateDir() (string, error) {
	root, err := bundle.ModuleRoot()
	return filepath.Join(asset.Dir(root), "up"), err
}

type options struct {
	nodes  int
	images []string
}

func parse(args []string) (options, error) {
	var o options
	fl := flag.NewFlagSet("up", flag.ContinueOnError)
	fl.IntVar(&o.nodes, "nodes", cluster.DefaultNodes, "number of nodes")
	fl.Func("image", "put the images of an archive `FILE` on the nodes; may be repeated", func(v string) error {
		file, err := filepath.Abs(v)
		o.images = append(o.images, file)
		return err
	})
	return o, fl.Parse(args)
}

// supervise holds the cluster until it is told to end. Its last line on
// standard output says that the cluster is up.
func supervise(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	dir, err := stateDir()
	if err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Config{
		Nodes: o.nodes, Dir: dir, Images: o.images,
		Log: slog.New(slog.NewTextHandler(os.Stdout, nil)),
	})
	if err != nil {
		return err
	}
	fmt.Println(upLine)
	<-ctx.Done()
	return c.Stop()
}

func kubectl(ctx context.Context, args []string) error {
	c, err := attach()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, c.KubectlPath(), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	return pass(cmd)
}

func execute(ctx context.Context, args []string) error {
	c, err := attach()
	if err != nil {
		return err
	}
	if len(args) < 2 {
		return errors.New("exec needs a node and a program\n" + usage)
	}
	for _, n := range c.Nodes() {
		if n.Name() != args[0] && strings.TrimPrefix(n.Name(), "node-") != args[0] {
			continue
		}
		out, err := n.Exec(ctx, args[1:]...)
		fmt.Print(out)
		return err
	}
	return fmt.Errorf("no node %s", args[0])
}
