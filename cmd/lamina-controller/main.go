// Command lamina-controller is the one process of a cluster that stands between
// Kubernetes and the agents on the nodes.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/controller"
)

// version is set by the build (-X main.version).
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	smallMemory()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lamina-controller:", err)
		os.Exit(1)
	}
}

// memoryLimit is where the collector begins to work harder: what 5,000 nodes with
// 50,000 volumes may take. It is no bound; a larger cluster takes more.
const memoryLimit = 960 << 20

// smallMemory trades a little CPU for memory: the caches of a large cluster live
// long, and at Go's default of 100 as much again is garbage. GOGC and GOMEMLIMIT
// override the first two. The last is a wish that the kernel may refuse.
func smallMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	_ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0)
}

// flags is what the command line says beside controller.Config.
type flags struct {
	controller.Config
	Kubeconfig string
	Debug      bool
}

func command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:           "lamina-controller",
		Short:         "Kubernetes' side of Lamina: provisioner, resizer, snapshotter, pools and capacity",
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), f) },
	}
	s := cmd.Flags()
	s.StringVar(&f.Kubeconfig, "kubeconfig", "", "file that says where the API server is (default: the pod's own ServiceAccount)")
	s.StringVar(&f.Namespace, "namespace", namespace(), "namespace of the lease, the Secret, the ConfigMaps and the agents (default $POD_NAMESPACE, then lamina-system)")
	s.StringVar(&f.Listen, "listen", ":9443", "address for the agents' links")
	s.StringVar(&f.HTTP, "http", ":9810", "address for /metrics, /healthz and /readyz (empty: none)")
	s.StringVar(&f.Endpoint, "endpoint", "", "unix socket that serves CSI to stock sidecars while this process leads, such as /run/lamina/csi.sock (default none)")
	s.BoolVar(&f.Sidecars, "sidecars", true, "provision, resize and snapshot; false where stock sidecars do it over --endpoint")
	s.BoolVar(&f.Elect, "leader-elect", true, "wait for the lease before doing anything; false only for a controller that is alone")
	s.BoolVar(&f.Debug, "debug", false, "log more")
	return cmd
}

func namespace() string {
	if n := os.Getenv("POD_NAMESPACE"); n != "" {
		return n
	}
	return "lamina-system"
}
