//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/test/cluster/wire"
	"github.com/lamina-csi/lamina/test/service"
)

// containers is where a system extension has its services' root file systems, and
// services where their specs are.
const (
	containers = "/usr/local/lib/containers"
	services   = "/usr/local/etc/containers"
)

// mergeExtension lays the node's system extension, if it has one, over /usr/local:
// Talos does that with the whole root.
func mergeExtension() error {
	if _, err := os.Stat(wire.ExtensionDisk); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	const dir = "/run/extension"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// mount(8) asks the kernel for the driver of squashfs, as mount(2) does not.
	if err := call("", "mount", "-t", "squashfs", "-o", "ro", wire.ExtensionDisk, dir); err != nil {
		return err
	}
	return unix.Mount("overlay", "/usr/local", "overlay", unix.MS_RDONLY, "lowerdir="+dir+"/usr/local:/usr/local")
}

// startExtensions starts the services of the node's system extension.
func startExtensions() error {
	specs, err := filepath.Glob(services + "/*.yaml")
	if err != nil {
		return err
	}
	for _, file := range specs {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		spec, err := service.Parse(text)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		go func() {
			if err := runExtension(spec); err != nil {
				fmt.Fprintf(os.Stderr, "init: extension %s: %v\n", spec.Name, err)
			}
		}()
	}
	return nil
}

// runExtension waits for what the service depends on, and keeps it running.
func runExtension(spec service.Spec) error {
	for {
		missing, err := spec.Waits("/")
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err := spec.MakeSources(); err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	config, err := spec.Config(filepath.Join(containers, spec.Name), host)
	if err != nil {
		return err
	}
	bundle := filepath.Join("/run/extensions", spec.Name)
	if err := service.WriteBundle(bundle, config); err != nil {
		return err
	}
	keep("ext-"+spec.Name, "runc", "run", "--bundle", bundle, spec.Name)
	return nil
}
