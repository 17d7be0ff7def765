package driver

import (
	"context"
	"errors"
	"net"
	"path/filepath"

	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// registrar answers kubelet's plugin watcher, which dials each socket that appears
// in its plugins_registry directory (pkg/kubelet/pluginmanager).
type registrar struct {
	registration.UnimplementedRegistrationServer
	d *Driver
}

// GetInfo implements registration.RegistrationServer.
func (r registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type:     registration.CSIPlugin,
		Name:     r.d.config.Name,
		Endpoint: r.d.config.Endpoint,
		// Of CSI, as kubelet counts it (pkg/volume/csi/csi_plugin.go).
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

// NotifyRegistrationStatus implements registration.RegistrationServer. Kubelet
// tries again by itself after a failure.
func (r registrar) NotifyRegistrationStatus(ctx context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if s.GetPluginRegistered() {
		r.d.log.InfoContext(ctx, "registered with kubelet")
	} else {
		r.d.log.ErrorContext(ctx, "kubelet refused the registration", "error", s.GetError())
	}
	return &registration.RegistrationStatusResponse{}, nil
}

func (d *Driver) listenForKubelet() (net.Listener, error) {
	return listen(filepath.Join(d.config.RegistrationDir, d.config.Name+"-reg.sock"))
}

func (d *Driver) serveRegistration(ctx context.Context, l net.Listener) error {
	s := grpc.NewServer()
	registration.RegisterRegistrationServer(s, registrar{d: d})
	err := d.serve(ctx, s, l)
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}
