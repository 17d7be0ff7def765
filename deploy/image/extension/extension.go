// Package extension makes the packages that bring the agent into an operating
// system, from the same bundle as the container image: a Talos system extension
// and a systemd-sysext image.
package extension

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"regexp"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
)

// Name is that of the extensions, of the service in them and of the node label
// extensions.talos.dev/<name> that Talos sets.
const Name = "lamina-node"

// MinTalos is the first Talos whose extension services share the host's IPC
// namespace. In another one LVM must not wait for udevd.
const MinTalos = "v1.13.9"

// Release says what is in a package.
type Release struct {
	Version  string
	Arch     bundle.Arch
	Packages bundle.Lock // of the userland
}

// labelValue is what Kubernetes takes as the value of a label: Talos publishes an
// extension's version as one.
var labelValue = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)

func (r Release) check(b *bundle.Tree) error {
	if _, ok := b.Lookup(bundle.AgentPath); !ok {
		return errors.New("the bundle has no agent")
	}
	if !labelValue.MatchString(r.Version) {
		return fmt.Errorf("the version %q cannot be the value of a node label", r.Version)
	}
	if len(r.Packages) == 0 {
		return errors.New("no packages of the userland")
	}
	return nil
}

//go:embed lamina-node.yaml
var talosService []byte

const (
	// TalosServicePath and TalosRootPath are below the extension's rootfs.
	TalosServicePath = "usr/local/etc/containers/" + Name + ".yaml"
	TalosRootPath    = "usr/local/lib/containers/" + Name
	talosSPDXPath    = "usr/local/share/spdx/" + Name + ".spdx.json"
)

// Talos makes the root of a Talos system extension: manifest.yaml and rootfs.
func Talos(b *bundle.Tree, r Release) (*bundle.Tree, error) {
	if err := r.check(b); err != nil {
		return nil, fmt.Errorf("make the Talos extension: %w", err)
	}
	t := bundle.NewTree()
	t.AddFile("manifest.yaml", 0o644, talosManifest(r))
	t.AddFile("rootfs/"+TalosServicePath, 0o644, talosService)
	t.AddTree("rootfs/"+TalosRootPath, b)
	// Where Talos mounts what the service names.
	for _, d := range []string{"var/lib/kubelet", "sys", "proc", "dev", "run"} {
		t.AddDir("rootfs/" + TalosRootPath + "/" + d)
	}
	t.AddFile("rootfs/"+talosSPDXPath, 0o644, spdx(r))
	return t, nil
}

func talosManifest(r Release) []byte {
	return fmt.Appendf(nil, `version: v1alpha1
metadata:
  name: %s
  version: %s
  author: The Lamina authors
  description: |
    Lamina's node agent: LVM volumes on local disks for Kubernetes (CSI).
  compatibility:
    talos:
      version: ">= %s"
`, Name, r.Version, MinTalos)
}

// TalosImage is the container image that Talos' imager takes: only its files count.
func TalosImage(t *bundle.Tree, r Release) bundle.Image {
	return bundle.Image{Tree: t, Name: Name + "-talos", Tag: r.Version, Arch: r.Arch}
}

//go:embed lamina-node.service
var unit []byte

// SysextRoot is where the userland lies in the sysext image; the programs in it
// find their loader and libraries only there.
const SysextRoot = "usr/lib/" + Name

const unitDir = "usr/lib/systemd/system"

// Sysext makes the tree of a systemd-sysext image named lamina-node.raw.
func Sysext(ctx context.Context, b *bundle.Tree, r Release) (*bundle.Tree, error) {
	if err := r.check(b); err != nil {
		return nil, fmt.Errorf("make the sysext image: %w", err)
	}
	moved, err := relocate(ctx, b, r.Arch)
	if err != nil {
		return nil, fmt.Errorf("make the sysext image: %w", err)
	}
	t := bundle.NewTree()
	t.AddTree(SysextRoot, moved)
	t.AddFile(unitDir+"/"+Name+".service", 0o644, unit)
	// An [Install] section has no effect in a unit that appears after systemd's start.
	t.AddFile(unitDir+"/multi-user.target.d/10-"+Name+".conf", 0o644,
		[]byte("[Unit]\nUpholds="+Name+".service\n"))
	t.AddFile("usr/lib/extension-release.d/extension-release."+Name, 0o644, release(r))
	t.AddFile("usr/share/spdx/"+Name+".spdx.json", 0o644, spdx(r))
	return t, nil
}

// release is os-release(5) for any system of the architecture: nothing of the host's
// /usr is used.
func release(r Release) []byte {
	arch := map[bundle.Arch]string{bundle.AMD64: "x86-64", bundle.ARM64: "arm64"}[r.Arch]
	return fmt.Appendf(nil, "ID=_any\nARCHITECTURE=%s\nEXTENSION_RELOAD_MANAGER=1\nSYSEXT_VERSION_ID=%s\n", arch, r.Version)
}
