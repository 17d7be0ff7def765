// Command image builds the node bundle (the lock of its Debian packages, its root
// tree) and all that is made of it: the OCI images of both programs, the Talos
// system extension, the systemd-sysext images.
//
//	go run ./deploy/image lock          pin the newest packages
//	go run ./deploy/image build         build the root tree and the images
//	go run ./deploy/image extension     build the OS extensions
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
	"github.com/lamina-csi/lamina/deploy/image/extension"
)

const usage = `usage:
  go run ./deploy/image lock [--arch ARCH]
        pin the newest Debian packages in deploy/image/packages.lock
  go run ./deploy/image build [--arch ARCH] [--bin DIR] [--tag TAG] [--out DIR]
        build <out>/root and the OCI archives <out>/lamina-node.tar and
        <out>/lamina-controller.tar
  go run ./deploy/image extension [--arch ARCH] [--bin DIR] [--tag TAG] [--out DIR]
        build the Talos system extension <out>/lamina-node-talos.tar (docker-style),
        .oci.tar (OCI layout), <out>/talos (tree), and the systemd-sysext images
        <out>/squashfs/lamina-node.raw, <out>/erofs/lamina-node.raw
ARCH is amd64 or arm64.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// config is what the command line says.
type config struct {
	root, bin, tag, out string
	arch                bundle.Arch
}

func run(ctx context.Context, args []string) error {
	root, err := bundle.ModuleRoot()
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return errors.New("no command\n" + usage)
	}
	command, ok := map[string]func(context.Context, config) error{
		"lock": lock, "build": build, "extension": extensions,
	}[args[0]]
	if !ok {
		return fmt.Errorf("unknown command %q\n%s", args[0], usage)
	}
	c := config{root: root}
	fl := flag.NewFlagSet(args[0], flag.ContinueOnError)
	arch := fl.String("arch", string(bundle.AMD64), "amd64 or arm64")
	fl.StringVar(&c.bin, "bin", filepath.Join(root, "bin"), "the `directory` of the built programs")
	fl.StringVar(&c.tag, "tag", "dev", "the images' tag and the extensions' version")
	fl.StringVar(&c.out, "out", filepath.Join(bundle.CacheDir(root), "bundle"), "the `directory` to write to")
	if err := fl.Parse(args[1:]); err != nil {
		return err
	}
	c.arch = bundle.Arch(*arch)
	if c.arch != bundle.AMD64 && c.arch != bundle.ARM64 {
		return fmt.Errorf("no architecture %q: amd64 or arm64", *arch)
	}
	return command(ctx, c)
}

func lock(ctx context.Context, c config) error {
	l, err := bundle.Resolve(ctx, c.root, c.arch)
	if err != nil {
		return err
	}
	file := bundle.LockPath(c.root, c.arch)
	if err := os.WriteFile(file, l.Format(), 0o644); err != nil {
		return err
	}
	fmt.Printf("pinned %d packages in %s\n", len(l), file)
	return nil
}

func (c config) tree(ctx context.Context) (*bundle.Tree, error) {
	return bundle.Build(ctx, bundle.Options{Root: c.root, Agent: filepath.Join(c.bin, "lamina-node"), Arch: c.arch})
}

func build(ctx context.Context, c config) error {
	tree, err := c.tree(ctx)
	if err != nil {
		return err
	}
	dir := filepath.Join(c.out, "root")
	if err := tree.WriteDir(dir); err != nil {
		return err
	}
	fmt.Printf("%s: %d entries\n", dir, len(tree.Entries()))
	if err := write(bundle.NodeImage(tree, c.tag, c.arch), filepath.Join(c.out, "lamina-node.tar")); err != nil {
		return err
	}
	controller, err := bundle.ControllerImage(filepath.Join(c.bin, "lamina-controller"), c.tag, c.arch)
	if err != nil {
		return err
	}
	return write(controller, filepath.Join(c.out, "lamina-controller.tar"))
}

func extensions(ctx context.Context, c config) error {
	tree, err := c.tree(ctx)
	if err != nil {
		return err
	}
	pinned, err := bundle.ReadLock(bundle.LockPath(c.root, c.arch))
	if err != nil {
		return err
	}
	release := extension.Release{Version: c.tag, Arch: c.arch, Packages: pinned.Set(bundle.SetBundle)}
	talos, err := extension.Talos(tree, release)
	if err != nil {
		return err
	}
	if err := talos.WriteDir(filepath.Join(c.out, "talos")); err != nil {
		return err
	}
	img := extension.TalosImage(talos, release)
	if err := write(img, filepath.Join(c.out, img.Name+".oci.tar")); err != nil {
		return err
	}
	if err := img.WriteDocker(filepath.Join(c.out, img.Name+".tar")); err != nil {
		return err
	}
	sysext, err := extension.Sysext(ctx, tree, release)
	if err != nil {
		return err
	}
	for _, format := range []extension.Format{extension.Squashfs, extension.Erofs} {
		file := filepath.Join(c.out, string(format), extension.Name+".raw")
		if err := extension.WriteImage(ctx, sysext, format, file); err != nil {
			return err
		}
		if err := report(file, sysext, ""); err != nil {
			return err
		}
	}
	return nil
}

func write(img bundle.Image, archive string) error {
	digest, err := img.WriteOCI(archive)
	if err != nil {
		return err
	}
	return report(archive, img.Tree, ", "+img.Reference()+"@"+digest.String())
}

// report prints the size of what was written.
func report(file string, tree *bundle.Tree, more string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	const mib = 1 << 20
	fmt.Printf("%s: %.1f MiB, %.1f MiB unpacked%s\n", file,
		float64(info.Size())/mib, float64(tree.Size())/mib, more)
	return nil
}
