package bundle

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Registry holds the published images.
const Registry = "ghcr.io/lamina-csi"

// Image is a tree as a container image of one layer.
type Image struct {
	Tree *Tree
	Name string // without registry
	Tag  string
	Arch Arch
	// Config says what runs, as whom.
	Config v1.Config
}

// Reference is the full name, registry/name:tag.
func (i Image) Reference() string { return Registry + "/" + i.Name + ":" + i.Tag }

// NodeImage is the image of a bundle. The agent, if the tree holds it, is the
// entry point.
func NodeImage(t *Tree, tag string, arch Arch) Image {
	img := Image{Tree: t, Name: "lamina-node", Tag: tag, Arch: arch}
	img.Config.Env = []string{"PATH=/usr/local/bin:/usr/sbin:/usr/bin", "LVM_SYSTEM_DIR=/etc/lvm"}
	if _, ok := t.Lookup(AgentPath); ok {
		img.Config.Entrypoint = []string{"/" + AgentPath}
	}
	return img
}

// ControllerImage is the image of the controller: its binary, a host path, and
// nothing else. The root may be read-only.
func ControllerImage(binary, tag string, arch Arch) (Image, error) {
	if err := static(binary); err != nil {
		return Image{}, fmt.Errorf("make the controller's image: %w", err)
	}
	t := NewTree()
	if err := t.AddHostFile("lamina-controller", binary, 0o755); err != nil {
		return Image{}, err
	}
	img := Image{Tree: t, Name: "lamina-controller", Tag: tag, Arch: arch}
	img.Config.Entrypoint = []string{"/lamina-controller"}
	img.Config.User = "65532:65532" // no user of the host
	return img, nil
}

// static refuses a program that an empty root cannot start.
func static(binary string) error {
	f, err := elf.Open(binary)
	if err != nil {
		return fmt.Errorf("%s: %w", binary, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s needs a dynamic loader: build it with CGO_ENABLED=0", binary)
		}
	}
	return nil
}

// Build makes the image.
func (i Image) Build() (v1.Image, error) {
	if _, err := name.NewTag(i.Reference(), name.StrictValidation); err != nil {
		return nil, fmt.Errorf("name the image: %w", err)
	}
	var layerTar bytes.Buffer
	if err := i.Tree.WriteTar(&layerTar); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layerTar.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, fmt.Errorf("make the image layer: %w", err)
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, fmt.Errorf("add the image layer: %w", err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", string(i.Arch)
	cfg.Created = v1.Time{Time: Epoch}
	cfg.Config = i.Config
	return mutate.ConfigFile(img, cfg)
}

// WriteOCI writes the image as a tar of an OCI layout and returns the digest
// of the image. Equal images give equal bytes.
func (i Image) WriteOCI(file string) (v1.Hash, error) {
	img, err := i.Build()
	if err != nil {
		return v1.Hash{}, err
	}
	dir, err := os.MkdirTemp("", "oci-")
	if err != nil {
		return v1.Hash{}, err
	}
	defer os.RemoveAll(dir)
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{
		Add: img,
		Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: string(i.Arch)},
			Annotations: map[string]string{
				// containerd takes the name from the first (core/images/annotations.go);
				// the second is the tag in the layout (OCI image spec, annotations).
				"io.containerd.image.name":          i.Reference(),
				"org.opencontainers.image.ref.name": i.Tag,
			},
		},
	})
	if _, err := layout.Write(dir, index); err != nil {
		return v1.Hash{}, fmt.Errorf("write the OCI layout: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return v1.Hash{}, err
	}
	if err := tarDir(dir, file); err != nil {
		return v1.Hash{}, fmt.Errorf("write %s: %w", file, err)
	}
	return img.Digest()
}

// WriteDocker writes the image as `docker save` does. Equal images give equal bytes.
func (i Image) WriteDocker(file string) error {
	img, err := i.Build()
	if err != nil {
		return err
	}
	tag, err := name.NewTag(i.Reference(), name.StrictValidation)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return tarball.WriteToFile(file, tag, img)
}

// tarDir packs a directory in lexical order with fixed owner and time.
func tarDir(dir, file string) (err error) {
	tmp := file + ".part"
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	defer f.Close()
	tw := tar.NewWriter(f)
	err = fs.WalkDir(os.DirFS(dir), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == "." {
			return err
		}
		if d.IsDir() {
			return tw.WriteHeader(&tar.Header{Name: p + "/", Mode: 0o755, ModTime: Epoch, Typeflag: tar.TypeDir})
		}
		data, err := os.ReadFile(filepath.Join(dir, p))
		if err != nil {
			return err
		}
		h := &tar.Header{Name: p, Mode: 0o644, ModTime: Epoch, Size: int64(len(data)), Typeflag: tar.TypeReg}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err = tw.Write(data)
		return err
	})
	if err != nil {
		return err
	}
	if err := tw.Close(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}
