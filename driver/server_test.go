package driver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/testing/protocmp"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/lamina-csi/lamina/driver"
	"github.com/lamina-csi/lamina/node/pool"
)

// socketDir is short enough for a socket's path.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "csi-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// panicking is a pool manager with a bug, and one that takes its time.
type panicking struct {
	driver.Pools
	entered, leave chan struct{}
}

func (panicking) GetVolume(pool.ID) (pool.Volume, error) { panic("a bug: " + passphrase) }

func (p panicking) ListVolumes() ([]pool.Volume, error) {
	close(p.entered)
	<-p.leave
	return nil, nil
}

func TestPanic(t *testing.T) {
	n := thin(t)
	v := n.create(t, request("v")).GetVolumeId()
	n.Serve(t, func(c *driver.Config) {
		c.Endpoint += "2"
		c.Pools = panicking{Pools: n.Pools}
	})
	_, err := n.ControllerGetVolume(t.Context(), &csi.ControllerGetVolumeRequest{VolumeId: v})
	wantError(t, err, codes.Internal, "ControllerGetVolume panicked")
	if strings.Contains(err.Error(), "a bug") {
		t.Errorf("the caller is told: %v", err)
	}
	if log := n.Log.String(); !strings.Contains(log, "a bug") || !strings.Contains(log, "server_test.go") {
		t.Error("the log has no stack")
	}
	// A panic lets go of the volume and of the server.
	if _, err := n.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: v, StagingTargetPath: n.path(t, "s/x")}); err == nil {
		t.Error("no panic")
	}
	if _, err := n.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{}); err != nil {
		t.Error(err)
	}
}

func config(n node, endpoint string) driver.Config {
	return driver.Config{NodeID: "n", Endpoint: endpoint, Pools: n.Pools, Mounter: n.Mounter}
}

func TestSocket(t *testing.T) {
	n := thin(t)
	info, err := os.Lstat(n.Endpoint)
	if err != nil || info.Mode().Perm() != 0o600 || info.Mode().Type() != os.ModeSocket {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	// One that is served stays.
	err = driver.New(config(n, n.Endpoint)).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "another process serves it") {
		t.Errorf("second driver: %v", err)
	}
	if _, err := n.Probe(t.Context(), &csi.ProbeRequest{}); err != nil {
		t.Error(err)
	}
	// A file stays.
	file := filepath.Join(socketDir(t), "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	err = driver.New(config(n, file)).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("on a file: %v", err)
	}
	if text, err := os.ReadFile(file); string(text) != "precious" || err != nil {
		t.Errorf("the file: %q, %v", text, err)
	}
	// One left by a killed agent is replaced.
	stale := filepath.Join(socketDir(t), "csi.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	n.Serve(t, func(c *driver.Config) { c.Endpoint = "unix://" + stale })
}

func TestGracefulStop(t *testing.T) {
	n := thin(t)
	slow := panicking{Pools: n.Pools, entered: make(chan struct{}), leave: make(chan struct{})}
	c := config(n, filepath.Join(socketDir(t), "csi.sock"))
	c.Pools = slow
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- driver.New(c).Run(ctx) }()
	conn := dial(t, c.Endpoint)
	answered := make(chan error, 1)
	go func() {
		_, err := csi.NewControllerClient(conn).ListVolumes(t.Context(), &csi.ListVolumesRequest{}, grpc.WaitForReady(true))
		answered <- err
	}()
	<-slow.entered
	cancel()
	close(slow.leave)
	if err := <-answered; err != nil {
		t.Errorf("the call under way: %v", err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(c.Endpoint); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket is left: %v", err)
	}
}

// waiting is a pool manager that waits for something until the call's end.
type waiting struct{ driver.Pools }

func (waiting) DeleteVolume(ctx context.Context, _ pool.ID) error {
	<-ctx.Done()
	return fmt.Errorf("%w: lvcreate has run for 3m0s (%w)", pool.ErrPending, ctx.Err())
}

// The caller hears what a call waited for, not only that its own time is over.
func TestAnswerEarly(t *testing.T) {
	n := thin(t)
	v := n.create(t, request("v")).GetVolumeId()
	n.Serve(t, func(c *driver.Config) {
		c.Endpoint += "2"
		c.Pools = waiting{n.Pools}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := n.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: v})
	wantError(t, err, codes.Aborted, "lvcreate has run for 3m0s")
}

// A call that does not end does not keep the agent from ending.
func TestBoundedStop(t *testing.T) {
	n := thin(t)
	slow := panicking{Pools: n.Pools, entered: make(chan struct{}), leave: make(chan struct{})}
	defer close(slow.leave)
	c := config(n, filepath.Join(socketDir(t), "csi.sock"))
	c.Pools, c.StopTimeout = slow, time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- driver.New(c).Run(ctx) }()
	conn := dial(t, c.Endpoint)
	go func() {
		_, _ = csi.NewControllerClient(conn).ListVolumes(t.Context(), &csi.ListVolumesRequest{}, grpc.WaitForReady(true)) // cut off
	}()
	<-slow.entered
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestRegistration(t *testing.T) {
	n := thin(t)
	dir := socketDir(t)
	n.Serve(t, func(c *driver.Config) {
		c.Endpoint += "2"
		c.RegistrationDir = dir
	})
	socket := filepath.Join(dir, "lamina.dev-reg.sock")
	kubelet := registration.NewRegistrationClient(dial(t, socket))
	info, err := kubelet.GetInfo(t.Context(), &registration.InfoRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	want := &registration.PluginInfo{Type: "CSIPlugin", Name: "lamina.dev", Endpoint: n.Endpoint, SupportedVersions: []string{"1.0.0"}}
	if diff := cmp.Diff(want, info, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if _, err := kubelet.NotifyRegistrationStatus(t.Context(), &registration.RegistrationStatus{Error: "no such driver"}); err != nil {
		t.Error(err)
	}
	if !strings.Contains(n.Log.String(), "no such driver") {
		t.Error("a refusal is not logged")
	}
	if mode, err := os.Lstat(socket); err != nil || mode.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", mode.Mode(), err)
	}
}

func get(t *testing.T, d *driver.Driver, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	d.HTTPHandler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(body)
}

func TestHTTP(t *testing.T) {
	n := thin(t)
	n.create(t, request("v"))
	var notReady error
	n.Serve(t, func(c *driver.Config) {
		c.Endpoint += "2"
		c.Ready = func() error { return notReady }
		c.Running = func() []driver.RunningCommand {
			return []driver.RunningCommand{{VG: "lamina-fast", Command: "lvcreate", Since: time.Now().Add(-time.Minute)}}
		}
	})
	notReady = errors.New("looking for disks")
	if code, body := get(t, n.Driver, "/readyz"); code != 503 || !strings.Contains(body, "looking for disks") {
		t.Errorf("readyz: %d %s", code, body)
	}
	if p, err := n.Probe(t.Context(), &csi.ProbeRequest{}); err != nil || p.GetReady().GetValue() {
		t.Errorf("probe %v, %v", p, err)
	}
	if code, _ := get(t, n.Driver, "/healthz"); code != 200 {
		t.Errorf("healthz: %d", code)
	}
	notReady = nil
	if code, body := get(t, n.Driver, "/readyz"); code != 200 {
		t.Errorf("readyz: %d %s", code, body)
	}
	n.create(t, request("v"))
	commands := len(n.Host.Commands())
	code, body := get(t, n.Driver, "/metrics")
	if code != 200 {
		t.Errorf("metrics: %d %s", code, body)
	}
	for _, line := range []string{
		`lamina_csi_request_duration_seconds_count{code="OK",method="CreateVolume"} 1`,
		`lamina_pool_volumes{pool="fast",vg="lamina-fast"} 1`,
		`lamina_pool_virtual_bytes{pool="fast",vg="lamina-fast"} 6.7108864e+07`,
		`lamina_pool_health{health="ok",pool="fast",vg="lamina-fast"} 1`,
		`lamina_lvm_command_running_seconds{command="lvcreate",vg="lamina-fast"} 6`,
	} {
		if !strings.Contains(body, line) {
			t.Errorf("no line %s", line)
		}
	}
	if ran := n.Host.Commands()[commands:]; len(ran) != 0 {
		t.Errorf("a scrape ran %v", ran)
	}
}

func TestCommandMetrics(t *testing.T) {
	m := driver.NewCommandMetrics()
	n := thin(t)
	n.Serve(t, func(c *driver.Config) {
		c.Endpoint += "2"
		c.Registry = newRegistry(t, m)
	})
	m.Observe("lvcreate", time.Second, 5)
	if _, body := get(t, n.Driver, "/metrics"); !strings.Contains(body, `lamina_lvm_command_duration_seconds_sum{command="lvcreate",exit="5"} 1`) {
		t.Error(body)
	}
}
