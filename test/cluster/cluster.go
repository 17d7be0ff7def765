package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lamina-csi/lamina/test/cluster/asset"
)

// Images that every node has, beside those of [Config].
const (
	BusyboxImage            = asset.BusyboxImage
	SnapshotControllerImage = asset.SnapshotControllerImage
)

// Defaults of Config.
const (
	DefaultNodes    = 2
	DefaultDisks    = 2
	DefaultDiskSize = 10 << 30
	DefaultMemory   = 2 << 30
	DefaultCPUs     = 2
)

// Config says what a cluster is made of. Zero values mean the defaults above.
type Config struct {
	Nodes int
	// Dir holds the nodes' disks, etcd's data and all logs. It is emptied first;
	// Start refuses one that holds anything but an earlier cluster. An empty Dir
	// means one in the cache that is removed by Stop.
	Dir string
	// Images are host paths of image archives (OCI layouts or `docker save`, in a
	// tar). They are on the nodes before they boot, under the full names that the
	// archives give them; pods need imagePullPolicy IfNotPresent or Never.
	Images   []string
	Disks    int   // emulated NVMe disks of each node
	DiskSize int64 // bytes; the files are sparse
	Memory   int64 // of each node, bytes
	CPUs     int   // of each node
	// Bare: etcd and the API server alone, without nodes, name server, scheduler
	// and controller manager ([Cluster.StartControllerManager]). Nodes must be 0.
	Bare bool
	// APIServerFlags are added to those that the API server has.
	APIServerFlags []string
	Log            *slog.Logger
}

// Cluster is a running cluster. Its methods may be called by many, but each
// node's power and the API server's by one at a time.
type Cluster struct {
	cfg    Config
	dir    string
	own    bool     // whether Stop removes dir
	held   *os.File // the locked mark in dir
	log    *slog.Logger
	assets asset.Assets
	net    *network
	ca     *authority
	proxy  net.Listener // the API server's address on the host
	rest   *rest.Config
	client kubernetes.Interface

	etcd, api *process
	others    []*process
	nodes     []*Node
}

func (cfg Config) withDefaults() Config {
	for _, d := range []struct {
		field *int
		value int
	}{{&cfg.Nodes, DefaultNodes}, {&cfg.Disks, DefaultDisks}, {&cfg.CPUs, DefaultCPUs}} {
		if *d.field == 0 && !cfg.Bare {
			*d.field = d.value
		}
	}
	if cfg.DiskSize == 0 {
		cfg.DiskSize = DefaultDiskSize
	}
	if cfg.Memory == 0 {
		cfg.Memory = DefaultMemory
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return cfg
}

// Start builds what is missing, starts a new cluster, and returns when all
// nodes are Ready. ctx limits the start alone; the cluster ends with Stop or
// with this process. It needs root.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	if err := CheckHost(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	assets, err := build(ctx, cfg)
	if err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, log: cfg.Log, assets: assets}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start a cluster: %w", err), c.Stop())
	}
	return c, nil
}

func build(ctx context.Context, cfg Config) (asset.Assets, error) {
	if cfg.Bare {
		return asset.BuildPrograms(ctx, cfg.Log)
	}
	return asset.Build(ctx, cfg.Images, cfg.Log)
}

func (c *Cluster) start(ctx context.Context) (err error) {
	began := time.Now()
	if err := c.makeDir(); err != nil {
		return err
	}
	if c.net, err = newNetwork(ctx, c.dir, c.cfg.Nodes); err != nil {
		return err
	}
	if c.ca, err = newAuthority(filepath.Join(c.dir, "pki")); err != nil {
		return err
	}
	if err := c.makeCredentials(); err != nil {
		return err
	}
	if err := c.openClient(); err != nil {
		return err
	}
	if err := c.startEtcd(); err != nil {
		return err
	}
	if err := c.makeNodes(ctx); err != nil {
		return err
	}
	// The nodes take longest: they boot while the control plane starts.
	booted := c.eachNode(func(n *Node) error { return n.Boot(ctx) })
	if err := c.StartAPIServer(ctx); err != nil {
		return errors.Join(err, <-booted)
	}
	c.log.Info("the API server is ready", "after", time.Since(began).Round(time.Second))
	if c.cfg.Bare {
		return nil
	}
	if err := errors.Join(c.startControllers(), c.addDNSService(ctx)); err != nil {
		return errors.Join(err, <-booted)
	}
	if err := <-booted; err != nil {
		return err
	}
	c.log.Info("the nodes have booted", "after", time.Since(began).Round(time.Second))
	if err := <-c.eachNode(func(n *Node) error { return n.WaitReady(ctx) }); err != nil {
		return err
	}
	c.log.Info("the nodes are ready", "after", time.Since(began).Round(time.Second))
	return c.checkHost()
}

// openClient opens the way from the host to the API server.
func (c *Cluster) openClient() (err error) {
	if c.proxy, err = c.net.forward(fmt.Sprintf("%s:%d", hostAddress, apiPort)); err != nil {
		return err
	}
	data, err := c.ca.kubeconfig("https://"+c.proxy.Addr().String(), admin)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.Kubeconfig(), data, 0o600); err != nil {
		return err
	}
	if c.rest, err = clientcmd.RESTConfigFromKubeConfig(data); err != nil {
		return err
	}
	c.rest.QPS = -1 // no limit
	c.client, err = kubernetes.NewForConfig(c.rest)
	return err
}

// eachNode calls fn for all nodes at once and sends the joined errors.
func (c *Cluster) eachNode(fn func(*Node) error) <-chan error {
	errs := make([]error, len(c.nodes))
	var wg sync.WaitGroup
	for i, n := range c.nodes {
		wg.Go(func() { errs[i] = fn(n) })
	}
	done := make(chan error, 1)
	go func() {
		wg.Wait()
		done <- errors.Join(errs...)
	}()
	return done
}

// Stop ends everything at once. It may be called on a cluster that has not
// fully started, and leaves Config.Dir for a look at the logs.
func (c *Cluster) Stop() error {
	for _, n := range c.nodes {
		n.CutPower()
	}
	for _, p := range append(c.others, c.api, c.etcd) {
		if p != nil {
			p.kill()
		}
	}
	var errs []error
	if c.proxy != nil {
		errs = append(errs, c.proxy.Close())
	}
	if c.net != nil {
		errs = append(errs, c.net.remove())
	}
	if c.own {
		errs = append(errs, os.RemoveAll(c.dir))
	}
	if c.held != nil {
		errs = append(errs, c.held.Close())
	}
	return errors.Join(errs...)
}

// Dir is the host directory with the disks and logs.
func (c *Cluster) Dir() string { return c.dir }

// Kubeconfig is the path of an administrator's kubeconfig. Its server is a
// loopback port of the host.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.dir, "kubeconfig") }

// RESTConfig is the administrator's, without a rate limit; the caller may change it.
func (c *Cluster) RESTConfig() *rest.Config { return rest.CopyConfig(c.rest) }

// Client is an administrator's client.
func (c *Cluster) Client() kubernetes.Interface { return c.client }

// Node returns a node; the first is 0.
func (c *Cluster) Node(i int) *Node { return c.nodes[i] }

// Nodes returns all nodes.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// Dial connects to a numeric address inside the cluster's network: a node, a
// pod, but no Service.
func (c *Cluster) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return c.net.dial(ctx, network, address)
}

// KubectlPath is the host path of kubectl.
func (c *Cluster) KubectlPath() string { return filepath.Join(c.assets.Bin, "kubectl") }

// Kubectl runs kubectl as administrator and returns its standard output; the
// error holds its standard error.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.KubectlInput(ctx, nil, args...)
}

// KubectlInput is Kubectl with a standard input, for "apply -f -".
func (c *Cluster) KubectlInput(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, c.KubectlPath(), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	cmd.Stdin = stdin
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return string(out), err
}
