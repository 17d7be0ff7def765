// Package service runs the spec of a Talos extension service without Talos: it turns
// the spec into the OCI configuration that Talos would make of it
// (internal/app/machined/pkg/system/services/extension.go, v1.13.9), for runc.
package service

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"sigs.k8s.io/yaml"
)

// Spec is a Talos extension service, without the fields that no spec of ours has.
type Spec struct {
	Name      string       `json:"name"`
	Container Container    `json:"container"`
	Depends   []Dependency `json:"depends,omitempty"`
	Restart   string       `json:"restart"`
}

// Container is what runs.
type Container struct {
	Entrypoint  string        `json:"entrypoint"`
	Args        []string      `json:"args,omitempty"`
	Environment []string      `json:"environment,omitempty"`
	Mounts      []specs.Mount `json:"mounts,omitempty"`
	Security    Security      `json:"security,omitempty"`
}

// Security loosens the container. Nil paths are containerd's defaults.
type Security struct {
	WriteableRootfs   bool     `json:"writeableRootfs,omitempty"`
	WriteableSysfs    bool     `json:"writeableSysfs,omitempty"`
	MaskedPaths       []string `json:"maskedPaths,omitempty"`
	ReadonlyPaths     []string `json:"readonlyPaths,omitempty"`
	RootfsPropagation string   `json:"rootfsPropagation,omitempty"`
}

// Dependency is one thing that Talos waits for before it starts the service.
type Dependency struct {
	Service string   `json:"service,omitempty"`
	Path    string   `json:"path,omitempty"`
	Network []string `json:"network,omitempty"`
	Time    bool     `json:"time,omitempty"`
}

// Parse reads a spec; a field that this package does not know is an error.
func Parse(text []byte) (Spec, error) {
	var s Spec
	if err := yaml.UnmarshalStrict(text, &s); err != nil {
		return s, fmt.Errorf("read the service spec: %w", err)
	}
	if s.Name == "" || s.Container.Entrypoint == "" || s.Restart == "" {
		return s, errors.New("read the service spec: name, container.entrypoint and restart are required")
	}
	return s, nil
}

// Waits lists the paths that the service depends on and that are not there below root:
// Talos does not start it before.
func (s Spec) Waits(root string) ([]string, error) {
	var out []string
	for _, d := range s.Depends {
		if d.Path == "" {
			continue
		}
		_, err := os.Stat(filepath.Join(root, d.Path))
		if errors.Is(err, fs.ErrNotExist) {
			out = append(out, d.Path)
		} else if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// MakeSources makes the sources of bind mounts that are missing, as Talos does: as
// directories that only root enters.
func (s Spec) MakeSources() error {
	for _, m := range s.Container.Mounts {
		if m.Type != "bind" {
			continue
		}
		if err := os.MkdirAll(m.Source, 0o700); err != nil {
			return fmt.Errorf("make the source of a mount: %w", err)
		}
	}
	return nil
}
