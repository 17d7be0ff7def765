package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/lamina-csi/lamina/controller"
)

// run wires the program and blocks until ctx ends or the lease is lost.
func run(ctx context.Context, f flags) error {
	c := f.Config
	c.Version, c.Log = version, logger(f.Debug)
	if c.Endpoint != "" && !filepath.IsAbs(c.Endpoint) {
		return fmt.Errorf("--endpoint %q is no absolute path", c.Endpoint)
	}
	if c.Endpoint == "" && !c.Sidecars {
		return errors.New("--sidecars=false without --endpoint: nobody could ask for a volume")
	}
	var err error
	if c.Pod, c.Identity, err = identity(); err != nil {
		return err
	}
	api, err := apiServer(f.Kubeconfig)
	if err != nil {
		return err
	}
	if c.Clients, err = controller.NewClients(api, version); err != nil {
		return err
	}
	c.Log.Info("lamina-controller starts", "version", version, "namespace", c.Namespace, "identity", c.Identity)
	if err := controller.Run(ctx, c); err != nil {
		return err
	}
	c.Log.Info("lamina-controller has stopped")
	return nil
}

// apiServer says where the API server is and who this program is to it.
func apiServer(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		c, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read --kubeconfig %s: %w", kubeconfig, err)
		}
		return c, nil
	}
	c, err := rest.InClusterConfig()
	if err != nil {
		return nil, fmt.Errorf("find the API server (outside of a pod --kubeconfig says where it is): %w", err)
	}
	return c, nil
}

// identity is the name of this process's pod, if it runs in one, and its name in
// the lease. The latter is another one at each start: a container that was restarted
// must not take its former life's lease for its own.
func identity() (pod, id string, err error) {
	pod = os.Getenv("POD_NAME")
	name := pod
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return "", "", fmt.Errorf("find a name for the lease: POD_NAME is not set, and %w", err)
		}
	}
	return pod, name + "_" + rand.Text(), nil
}

// logger makes the log, into which that of Kubernetes' libraries goes too. Their
// level stays below 8, where they log the bodies of requests, tokens among them.
func logger(debugging bool) *slog.Logger {
	level, verbosity := slog.LevelInfo, "0"
	if debugging {
		level, verbosity = slog.LevelDebug, "4"
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	klog.SetSlogLogger(log)
	// The level is klog's own whatever the receiver; this number is one.
	_ = new(klog.Level).Set(verbosity)
	return log
}
