// Command lamina-node is the agent that runs on each node: it turns the node's
// blank disks into pools and serves them over CSI on a unix socket.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// version is set by the build (-X main.version).
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	smallMemory()
	if err := noCoreDumps(); err != nil {
		fmt.Fprintln(os.Stderr, "lamina-node:", err)
		os.Exit(1)
	}
	if err := command().ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "lamina-node:", err)
		os.Exit(1)
	}
}

// smallMemory keeps the agent small: little lives on its heap, so that collecting
// it often costs little, and a huge page for it would be mostly empty. GOGC overrides
// the first. The second is a wish that the kernel may refuse; children inherit it.
func smallMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(10)
	}
	_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0)
}

// noCoreDumps keeps passphrases, which pass through this process and cryptsetup, out
// of files: prctl(2) for this process, whatever the host's core_pattern is, and the
// limit for its children, which are dumpable again (execve(2)).
func noCoreDumps() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	return nil
}

func command() *cobra.Command {
	var c config
	cmd := &cobra.Command{
		Use:           "lamina-node",
		Short:         "LVM volumes on this node's disks, over CSI",
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.complete(); err != nil {
				return err
			}
			return run(cmd.Context(), c)
		},
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(relayCommand())
	c.Controller.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&c.Endpoint, "endpoint", "", "CSI socket, unix:///path (default <kubelet-dir>/plugins/lamina.dev/csi.sock)")
	f.StringVar(&c.NodeName, "node-name", os.Getenv("NODE_NAME"), "name of this node in Kubernetes (default $NODE_NAME, then the host name)")
	f.StringVar(&c.Pools, "pools", "", "file of profiles and of the pools wanted on this node (docs/pools.md); without it a controller says which")
	f.StringVar(&c.KubeletDir, "kubelet-dir", "/var/lib/kubelet", "kubelet's directory; volumes are only mounted below it")
	f.StringVar(&c.RegistrationDir, "registration-dir", "", "where kubelet looks for plugins (default <kubelet-dir>/plugins_registry; - for none)")
	f.StringVar(&c.HTTP, "http", "", "address for /metrics, /healthz and /readyz, such as 127.0.0.1:9809 or unix:///path (default none)")
	f.StringVar(&c.RunDir, "run-dir", "/run/lamina", "directory for lvm.conf and the lock of this agent")
	f.StringVar(&c.Userland, "userland", "", "directory tree whose programs are used, such as /usr/lib/lamina-node (default the system's own)")
	f.StringVar(&c.LVM, "lvm", "", "the lvm program (default <userland>/usr/sbin/lvm)")
	f.IntVar(&c.MaxVolumes, "max-volumes", 0, "volumes that this node takes at most (0: no limit)")
	f.BoolVar(&c.Debug, "debug", false, "log every lvm command")
	return cmd
}

// config is what the command line says.
type config struct {
	Endpoint, NodeName, Pools, KubeletDir, RegistrationDir, HTTP, RunDir, Userland, LVM string
	MaxVolumes                                                                          int
	Debug                                                                               bool
	Controller                                                                          controller
}

// complete fills in what follows from other values, and refuses what cannot work.
func (c *config) complete() error {
	if c.LVM == "" {
		c.LVM = c.Userland + "/usr/sbin/lvm"
	}
	for flag, dir := range map[string]string{"--kubelet-dir": c.KubeletDir, "--run-dir": c.RunDir, "--lvm": c.LVM} {
		if !filepath.IsAbs(dir) {
			return fmt.Errorf("%s %q is no absolute path", flag, dir)
		}
	}
	if c.Pools != "" && c.Controller.Address != "" {
		return errors.New("--pools and --controller exclude each other: either says which pools are wanted")
	}
	if err := c.Controller.complete(); err != nil {
		return err
	}
	if c.NodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("--node-name is not set, and the host name cannot be read: %w", err)
		}
		c.NodeName = host
	}
	if c.Endpoint == "" {
		c.Endpoint = "unix://" + filepath.Join(c.KubeletDir, "plugins", "lamina.dev", "csi.sock")
	}
	switch c.RegistrationDir {
	case "":
		c.RegistrationDir = filepath.Join(c.KubeletDir, "plugins_registry")
	case "-":
		c.RegistrationDir = ""
	}
	return nil
}
