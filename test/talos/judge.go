// Package talos judges what is shipped for Talos with Talos' own code, and more
// strictly where that code is lax.
package talos

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/blang/semver/v4"
	"github.com/siderolabs/talos/pkg/machinery/extensions"
	"github.com/siderolabs/talos/pkg/machinery/extensions/services"
	"go.yaml.in/yaml/v4"
)

// judge says what is wrong with the tree of an extension for a version of Talos.
func judge(dir, talos string) error {
	version, err := semver.ParseTolerant(talos)
	if err != nil {
		return err
	}
	ext, err := extensions.Load(dir)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	err = ext.Validate(extensions.WithValidateConstraints(), extensions.WithValidateContents(), extensions.WithTalosVersion(&version))
	if err != nil {
		return fmt.Errorf("validate: %w", err)
	}
	return errors.Join(judgeManifest(dir), judgeFiles(ext.RootfsPath()), judgeServices(ext.RootfsPath(), ext.Manifest.Metadata.Name))
}

// labelValue is what Kubernetes takes: Talos publishes an extension's version so.
var labelValue = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

// judgeManifest refuses keys that Talos' decoder passes over.
func judgeManifest(dir string) error {
	var m extensions.Manifest
	if err := strictly(filepath.Join(dir, "manifest.yaml"), &m); err != nil {
		return err
	}
	if !labelValue.MatchString(m.Metadata.Name) {
		return fmt.Errorf("the name %q cannot be part of a node label", m.Metadata.Name)
	}
	if !labelValue.MatchString(m.Metadata.Version) {
		return fmt.Errorf("the version %q cannot be the value of a node label", m.Metadata.Version)
	}
	return nil
}

// strictly decodes one document without unknown keys.
func strictly(file string, out any) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(out); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s holds more than one document", filepath.Base(file))
	}
	return nil
}

// judgeFiles looks at what Talos' test of contents misses: modes (it looks at the
// type's bits, which hold none), directories and links.
func judgeFiles(root string) error {
	var errs []error
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		name = filepath.Join("/", name)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch mode := info.Mode(); {
		case name != "/" && name != "/usr" && name != "/usr/local" && !strings.HasPrefix(name, "/usr/local/"):
			errs = append(errs, fmt.Errorf("%s is outside of /usr/local, and would hide what the host has there", name))
		case mode&fs.ModeSymlink != 0:
			errs = append(errs, judgeLink(root, path, name))
		case mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0:
			errs = append(errs, fmt.Errorf("%s is setuid, setgid or sticky", name))
		case mode.Perm()&0o022 != 0:
			errs = append(errs, fmt.Errorf("%s may be written by others: %s", name, mode))
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// judgeLink refuses a link that leaves the container's root.
func judgeLink(root, path, name string) error {
	target, err := os.Readlink(path)
	if err != nil {
		return err
	}
	top := root
	const containers = "/usr/local/lib/containers/"
	if rest, ok := strings.CutPrefix(name, containers); ok {
		container, _, _ := strings.Cut(rest, "/")
		top = filepath.Join(root, containers, container)
	}
	to := filepath.Join(filepath.Dir(path), target)
	if filepath.IsAbs(target) || to != top && !strings.HasPrefix(to, top+"/") {
		return fmt.Errorf("the link %s leads out of its tree, to %s", name, target)
	}
	return nil
}

// needed are paths that the agent waits for: started earlier it would see the wrong
// directory, or find that it cannot work.
var needed = []string{"/sys/module/dm_thin_pool", "/dev/mapper/control", "/var/lib/kubelet/plugins_registry"}

// judgeServices wants exactly one service, that of the extension.
func judgeServices(root, name string) error {
	files, err := filepath.Glob(filepath.Join(root, "usr/local/etc/containers/*.yaml"))
	if err != nil {
		return err
	}
	if len(files) != 1 || filepath.Base(files[0]) != name+".yaml" {
		return fmt.Errorf("its services are %q, want %s.yaml", files, name)
	}
	var spec services.Spec
	if err := strictly(files[0], &spec); err != nil {
		return fmt.Errorf("service: %w", err)
	}
	if err := spec.Validate(); err != nil {
		return fmt.Errorf("service: %w", err)
	}
	if spec.Name != name {
		return fmt.Errorf("the service %s is not named as its extension %s", spec.Name, name)
	}
	program := filepath.Join(root, "usr/local/lib/containers", name, spec.Container.Entrypoint)
	if info, err := os.Stat(program); err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("the entry point %s cannot be run", spec.Container.Entrypoint)
	}
	return errors.Join(judgeMounts(spec), judgeDepends(spec))
}

func judgeMounts(spec services.Spec) error {
	var errs []error
	if spec.Container.Security.RootfsPropagation != "shared" {
		errs = append(errs, errors.New("rootfsPropagation is not shared: no mount reaches kubelet"))
	}
	if spec.Restart != services.RestartAlways {
		errs = append(errs, errors.New("it is not restarted"))
	}
	for path, option := range map[string]string{
		"/dev": "rshared", "/var/lib/kubelet": "rshared", "/run/udev": "ro", "/run/lock/lvm": "rw", "/run/lamina": "rw",
	} {
		found := false
		for _, m := range spec.Container.Mounts {
			if m.Destination != path {
				continue
			}
			found = true
			if m.Source != path || m.Type != "bind" || !slices.Contains(m.Options, "rbind") || !slices.Contains(m.Options, option) {
				errs = append(errs, fmt.Errorf("%s is mounted as %+v", path, m))
			}
		}
		if !found {
			errs = append(errs, fmt.Errorf("%s is not mounted", path))
		}
	}
	return errors.Join(errs...)
}

func judgeDepends(spec services.Spec) error {
	var errs []error
	var on []string
	for _, d := range spec.Depends {
		on = append(on, d.Service+d.Path)
		if d.Service == "kubelet" {
			errs = append(errs, errors.New("it depends on kubelet, and would be stopped before kubelet has unmounted"))
		}
		if d.Configuration {
			errs = append(errs, errors.New("it depends on a configuration, and would wait where nobody gives one"))
		}
	}
	for _, want := range append([]string{"cri", "udevd"}, needed...) {
		if !slices.Contains(on, want) {
			errs = append(errs, fmt.Errorf("it does not wait for %s", want))
		}
	}
	return errors.Join(errs...)
}
