package link_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/driver"
	"github.com/lamina-csi/lamina/driver/drivertest"
	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/driver/link/linktest"
	"github.com/lamina-csi/lamina/node/pool"
)

func volume(name string) *csi.CreateVolumeRequest {
	return &csi.CreateVolumeRequest{
		Name: name, CapacityRange: &csi.CapacityRange{RequiredBytes: 64 << 20},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		}},
	}
}

// controllerOf is CSI over the link of a node.
func controllerOf(t *testing.T, h *linktest.Hub, node string) csi.ControllerClient {
	t.Helper()
	conn, err := h.Conn(node)
	if err != nil {
		t.Fatal(err)
	}
	return csi.NewControllerClient(conn)
}

// The driver serves CSI over its link, and stops with it in order.
func TestDriverOverLink(t *testing.T) {
	noGoroutines(t)
	n := drivertest.New(t, drivertest.Spec("fast", pool.Thin))
	h := linktest.NewHub(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- n.Driver.Serve(ctx, link.Listen(ctx, h.DialConfig(t, drivertest.NodeID))) }()
	h.Next(t, linktest.Up(drivertest.NodeID))
	v, err := controllerOf(t, h, drivertest.NodeID).CreateVolume(t.Context(), volume("v"))
	if err != nil {
		t.Fatal(err)
	}
	// The same volume on the node's own socket.
	if _, err := n.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: v.GetVolume().GetVolumeId()}); err != nil {
		t.Error(err)
	}
	_, err = controllerOf(t, h, drivertest.NodeID).DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("a bad request: %v", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the driver ends with %v", err)
	}
	h.Next(t, linktest.Down(drivertest.NodeID))
}

// The agent comes, goes and comes again; the relay stays and holds its link.
func TestRelay(t *testing.T) {
	noGoroutines(t)
	h := linktest.NewHub(t)
	dir, err := os.MkdirTemp("", "relay-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "csi.sock")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- link.Relay(ctx, link.Listen(ctx, h.DialConfig(t, "a")), socket) }()
	for range 2 {
		t.Run("agent", func(t *testing.T) {
			n := drivertest.New(t, drivertest.Spec("fast", pool.Thin))
			n.Serve(t, func(c *driver.Config) { c.Endpoint = socket })
			h.Next(t, linktest.Up("a"))
			v, err := controllerOf(t, h, "a").CreateVolume(t.Context(), volume("v"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := n.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: v.GetVolume().GetVolumeId()}); err != nil {
				t.Error(err)
			}
		})
		h.Next(t, linktest.Down("a"))
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the relay ends with %v", err)
	}
}

// The relay carries what is no link too: the agent's metrics.
func TestRelayHTTP(t *testing.T) {
	noGoroutines(t)
	n := drivertest.New(t, drivertest.Spec("fast", pool.Thin))
	socket := n.Endpoint + ".http"
	agent, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: n.Driver.HTTPHandler()}
	go func() { _ = server.Serve(agent) }() // ends with Close
	defer server.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- link.Relay(ctx, l, socket) }()
	resp, err := http.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || len(body) == 0 {
		t.Errorf("%s, %d bytes, %v", resp.Status, len(body), err)
	}
	resp.Body.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the relay ends with %v", err)
	}
	http.DefaultClient.CloseIdleConnections()
}
