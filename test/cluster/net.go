package cluster

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// The addresses of every cluster. They exist in the cluster's own network
// namespace only, so that clusters neither meet each other nor the host.
const (
	bridge        = "br0"
	hostAddress   = "10.77.0.1"
	prefixLength  = 24
	serviceCIDR   = "10.96.0.0/16"
	apiServiceIP  = "10.96.0.1"
	dnsServiceIP  = "10.96.0.10"
	podCIDR       = "10.244.0.0/16"
	clusterDomain = "cluster.local"
	apiPort       = 6443
)

func nodeAddress(i int) string { return fmt.Sprintf("10.77.0.%d", 10+i) }
func nodePods(i int) string    { return fmt.Sprintf("10.244.%d.0/24", i+1) }
func nodeTap(i int) string     { return fmt.Sprintf("tap%d", i) }

// network is a network namespace with a bridge, and a tap for every node.
type network struct{ name string }

// networkName is the namespace of the cluster in a directory.
func networkName(dir string) string {
	return fmt.Sprintf("lamina-%x", sha256.Sum256([]byte(dir)))[:15]
}

// newNetwork makes the namespace anew: one that is there was left by a cluster
// of the same directory, which is gone.
func newNetwork(ctx context.Context, dir string, nodes int) (*network, error) {
	n := &network{name: networkName(dir)}
	if _, err := os.Stat(n.path()); err == nil {
		if err := n.remove(); err != nil {
			return nil, err
		}
	}
	if err := ip(ctx, nil, "netns", "add", n.name); err != nil {
		return nil, err
	}
	batch := []string{
		"link set lo up",
		"link add " + bridge + " type bridge forward_delay 0",
		fmt.Sprintf("addr add %s/%d dev %s", hostAddress, prefixLength, bridge),
		"link set " + bridge + " up",
	}
	for i := range nodes {
		batch = append(batch,
			fmt.Sprintf("tuntap add dev %s mode tap", nodeTap(i)),
			fmt.Sprintf("link set %s master %s up", nodeTap(i), bridge),
			fmt.Sprintf("route add %s via %s", nodePods(i), nodeAddress(i)))
	}
	if err := ip(ctx, strings.NewReader(strings.Join(batch, "\n")), "-n", n.name, "-batch", "-"); err != nil {
		_ = n.remove() // the first error says it
		return nil, err
	}
	return n, nil
}

func (n *network) path() string { return filepath.Join("/run/netns", n.name) }

func (n *network) remove() error { return ip(context.Background(), nil, "netns", "delete", n.name) }

func ip(ctx context.Context, stdin io.Reader, args ...string) error {
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.Stdin = stdin
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// within runs fn in the namespace, on a thread that ends with it.
func (n *network) within(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is thrown away
		done <- n.enter(fn)
	}()
	return <-done
}

// enter moves the calling thread into the namespace for good, and calls fn.
func (n *network) enter(fn func() error) error {
	f, err := os.Open(n.path())
	if err != nil {
		return fmt.Errorf("enter the cluster's network: %w", err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the cluster's network: %w", err)
	}
	return fn()
}

// dial connects from inside the namespace to a numeric address: with a single
// address the dialer makes its socket on the calling thread.
func (n *network) dial(ctx context.Context, proto, address string) (conn net.Conn, err error) {
	err = n.within(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, proto, address)
		return err
	})
	return conn, err
}

// joinAddress is that of a network that has joined.
const joinAddress = "10.77.0.2"

// Join connects the network namespace of the caller with the cluster's, and returns
// the API server's URL there: for a measurement that the forwarding in this process
// would disturb. One namespace can join; the connection goes with either of the two.
func (c *Cluster) Join(ctx context.Context) (api string, err error) {
	for _, args := range [][]string{
		{"link", "add", "cluster0", "type", "veth", "peer", "name", "join0", "netns", c.net.name},
		{"addr", "add", fmt.Sprintf("%s/%d", joinAddress, prefixLength), "dev", "cluster0"},
		{"link", "set", "cluster0", "up"},
		{"-n", c.net.name, "link", "set", "join0", "master", bridge, "up"},
	} {
		if err := ip(ctx, nil, args...); err != nil {
			return "", err
		}
	}
	return internalAPI, nil
}

// forward listens on a loopback port of the host and passes connections on to
// an address in the namespace, until the listener is closed.
func (n *network) forward(to string) (net.Listener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go n.splice(c, to)
		}
	}()
	return l, nil
}

func (n *network) splice(client net.Conn, to string) {
	defer client.Close()
	server, err := n.dial(context.Background(), "tcp", to)
	if err != nil {
		return // the client sees its connection end, as if nobody listened
	}
	defer server.Close()
	var wg sync.WaitGroup
	for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
		wg.Go(func() {
			_, _ = io.Copy(pair[0], pair[1]) // either end may go at any time
			_ = pair[0].(*net.TCPConn).CloseWrite()
		})
	}
	wg.Wait()
}
