package asset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
)

const (
	// imageStoreSize is the size in bytes of the disk for images and containers.
	imageStoreSize = 6 << 30
	// containerdTime is how long containerd may take to answer.
	containerdTime = 60 * time.Second
)

// imageStore imports images with containerd here, at the host's speed, so that
// nodes find them unpacked. Its directory becomes the nodes' second disk.
func (b *builder) imageStore(ctx context.Context, bin string, n nodeAssets, archives []string) (string, error) {
	pause, err := b.ours(ctx, "pause")
	if err != nil {
		return "", err
	}
	key, err := (&digest{}).text(layout, filepath.Base(bin), PauseImage, BusyboxImage, SnapshotControllerImage).
		file(pause, n.busybox).file(archives...).key()
	if err != nil {
		return "", err
	}
	return b.cached("images", key, func(tmp string) error {
		stage, err := os.MkdirTemp("", "images-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(stage)
		own, err := ownImages(ctx, stage, ownPrograms{pause: pause, busybox: n.busybox, bin: bin})
		if err != nil {
			return err
		}
		if err := importImages(ctx, bin, stage, append(own, archives...)); err != nil {
			return err
		}
		return makeExt4(ctx, tmp, filepath.Join(stage, "root"), imageStoreSize)
	})
}

// ownPrograms are host paths.
type ownPrograms struct{ pause, busybox, bin string }

// ownImages writes the archives of the images that are made here.
func ownImages(ctx context.Context, dir string, p ownPrograms) ([]string, error) {
	busybox := bundle.NewTree()
	if err := busybox.AddHostFile("bin/busybox", p.busybox, 0o755); err != nil {
		return nil, err
	}
	names, err := applets(ctx, p.busybox)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		busybox.AddLink("bin/"+n, "busybox")
	}
	for _, d := range []string{"dev", "etc", "proc", "root", "sys", "tmp", "var"} {
		busybox.AddDir(d)
	}
	busybox.AddFile("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	busybox.AddFile("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	pause, snapshot := bundle.NewTree(), bundle.NewTree()
	if err := pause.AddHostFile("pause", p.pause, 0o755); err != nil {
		return nil, err
	}
	if err := snapshot.AddHostFile("snapshot-controller", filepath.Join(p.bin, "snapshot-controller"), 0o755); err != nil {
		return nil, err
	}
	var archives []string
	for _, i := range []struct {
		ref    string
		tree   *bundle.Tree
		config v1.Config
	}{
		{PauseImage, pause, v1.Config{Entrypoint: []string{"/pause"}, User: "65535:65535"}},
		{BusyboxImage, busybox, v1.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}}},
		{SnapshotControllerImage, snapshot, v1.Config{Entrypoint: []string{"/snapshot-controller"}, User: "65532:65532"}},
	} {
		archive := filepath.Join(dir, fmt.Sprintf("own-%d.tar", len(archives)))
		if err := writeImage(archive, i.ref, i.tree, i.config); err != nil {
			return nil, fmt.Errorf("make image %s: %w", i.ref, err)
		}
		archives = append(archives, archive)
	}
	return archives, nil
}

// writeImage writes an image of one layer.
func writeImage(archive, ref string, tree *bundle.Tree, config v1.Config) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return err
	}
	var content bytes.Buffer
	if err := tree.WriteTar(&content); err != nil {
		return err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	})
	if err != nil {
		return err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", "amd64", config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		return err
	}
	return tarball.WriteToFile(archive, tag, img)
}

// containerdConfig keeps containerd on the host to a directory, and without
// what only nodes need.
const containerdConfig = `version = 3
root = "%[1]s/root"
state = "%[1]s/state"
temp = "%[1]s/temp"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing", "io.containerd.internal.v1.opt"]
[grpc]
  address = "%[1]s/containerd.sock"
[debug]
  address = "%[1]s/debug.sock"
`

func importImages(ctx context.Context, bin, dir string, archives []string) (err error) {
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, containerdConfig, dir), 0o644); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(bin, "containerd"), "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // Wait tells how it ended
		if end := cmd.Wait(); end != nil && err == nil {
			err = fmt.Errorf("end containerd: %w", end)
		}
		if err != nil {
			text, _ := os.ReadFile(log.Name())
			err = fmt.Errorf("%w; containerd said:\n%s", err, text)
		}
	}()
	socket := filepath.Join(dir, "containerd.sock")
	if err := awaitSocket(ctx, socket); err != nil {
		return err
	}
	for _, a := range archives {
		if err := run(ctx, "", nil, filepath.Join(bin, "ctr"), "--address", socket, "--namespace", "k8s.io",
			"images", "import", "--snapshotter", "overlayfs", a); err != nil {
			return err
		}
	}
	return nil
}

func awaitSocket(ctx context.Context, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, containerdTime)
	defer cancel()
	for {
		c, err := net.Dial("unix", socket)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("containerd did not answer: %w", ctx.Err()), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
