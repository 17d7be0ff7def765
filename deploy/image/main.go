// Command image builds the node bundle (the lock of its Debian packages, its root
// tree) and the OCI images of both programs.
//
//	go run ./deploy/image lock          pin the newest packages
//	go run ./deploy/image build         build the root tree and the images
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
)

const usage = `usage:
  go run ./deploy/image lock
        pin the newest Debian packages in deploy/image/packages.lock
  go run ./deploy/image build [--bin DIR] [--tag TAG] [--out DIR]
        build <out>/root and the OCI archives <out>/lamina-node.tar and
        <out>/lamina-controller.tar
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	root, err := bundle.ModuleRoot()
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return errors.New("no command\n" + usage)
	}
	switch args[0] {
	case "lock":
		return lock(ctx, root)
	case "build":
		return build(ctx, root, args[1:])
	}
	return fmt.Errorf("unknown command %q\n%s", args[0], usage)
}

func lock(ctx context.Context, root string) error {
	l, err := bundle.Resolve(ctx, root)
	if err != nil {
		return err
	}
	if err := os.WriteFile(bundle.LockPath(root), l.Format(), 0o644); err != nil {
		return err
	}
	fmt.Printf("pinned %d packages in %s\n", len(l), bundle.LockPath(root))
	return nil
}

func build(ctx context.Context, root string, args []string) error {
	fl := flag.NewFlagSet("build", flag.ContinueOnError)
	bin := fl.String("bin", filepath.Join(root, "bin"), "the `directory` of the built programs")
	tag := fl.String("tag", "dev", "the images' tag")
	out := fl.String("out", filepath.Join(bundle.CacheDir(root), "bundle"), "the `directory` to write to")
	if err := fl.Parse(args); err != nil {
		return err
	}
	tree, err := bundle.Build(ctx, bundle.Options{Root: root, Agent: filepath.Join(*bin, "lamina-node")})
	if err != nil {
		return err
	}
	dir := filepath.Join(*out, "root")
	if err := tree.WriteDir(dir); err != nil {
		return err
	}
	fmt.Printf("%s: %d entries\n", dir, len(tree.Entries()))
	if err := write(bundle.NodeImage(tree, *tag), *out); err != nil {
		return err
	}
	controller, err := bundle.ControllerImage(filepath.Join(*bin, "lamina-controller"), *tag)
	if err != nil {
		return err
	}
	return write(controller, *out)
}

func write(img bundle.Image, dir string) error {
	archive := filepath.Join(dir, img.Name+".tar")
	digest, err := img.WriteOCI(archive)
	if err != nil {
		return err
	}
	info, err := os.Stat(archive)
	if err != nil {
		return err
	}
	const mib = 1 << 20
	fmt.Printf("%s: %.1f MiB, %.1f MiB unpacked, %s@%s\n", archive,
		float64(info.Size())/mib, float64(img.Tree.Size())/mib, img.Reference(), digest)
	return nil
}
