package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"
)

// Run serves CSI at the endpoint and registers with kubelet, until ctx ends. It
// returns nil after an orderly stop.
func (d *Driver) Run(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(d.config.Endpoint), 0o750); err != nil {
		return err
	}
	l, err := listen(d.config.Endpoint)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	registered := make(chan error, 1)
	if d.config.RegistrationDir == "" {
		registered <- nil
	} else {
		r, err := d.listenForKubelet()
		if err != nil {
			return errors.Join(err, l.Close())
		}
		go func() {
			defer cancel()
			registered <- d.serveRegistration(ctx, r)
		}()
	}
	err = d.Serve(ctx, l)
	cancel()
	return errors.Join(err, <-registered)
}

// Serve serves CSI on a listener until ctx ends. Calls that are under way get
// StopTimeout to end; the listener is closed.
func (d *Driver) Serve(ctx context.Context, l net.Listener) error {
	s := grpc.NewServer(append(d.ServerOptions(), grpc.ChainStreamInterceptor(endWith(ctx)))...)
	d.Register(s)
	return d.serve(ctx, s, l)
}

func (d *Driver) serve(ctx context.Context, s *grpc.Server, l net.Listener) error {
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	select {
	case err := <-served:
		if ctx.Err() == nil {
			return fmt.Errorf("serve %s: %w", l.Addr(), err)
		}
		served <- err
	case <-ctx.Done():
	}
	stopped := make(chan struct{})
	go func() {
		s.GracefulStop()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-time.After(d.config.StopTimeout):
		// lvm commands that have begun run to their end without us.
		d.log.Warn("calls had not ended when the agent stopped", "waited", d.config.StopTimeout)
		s.Stop()
	}
	// A listener of package link ends with the context, as the server does.
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// listen makes a unix socket that only root may connect to. A socket that nobody
// answers on is left over from an earlier life and is removed; anything else at
// that path stays.
func listen(path string) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// Until here the umask stands guard: connecting needs write permission.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close())
	}
	return l, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("a file that is no socket is there")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return errors.Join(errors.New("another process serves it"), conn.Close())
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}
