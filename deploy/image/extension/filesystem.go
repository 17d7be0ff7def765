package extension

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
)

// Format is the file system of a sysext image.
type Format string

// The formats of sysext images. Kernels that have one of them may lack the other.
const (
	Squashfs Format = "squashfs"
	Erofs    Format = "erofs"
)

// WriteImage writes the tree as a file system image; its directory is made. Equal
// trees give equal bytes with the same mksquashfs or mkfs.erofs.
func WriteImage(ctx context.Context, t *bundle.Tree, format Format, file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(file), ".image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	root, image := filepath.Join(tmp, "root"), filepath.Join(tmp, "image")
	if err := t.WriteDir(root); err != nil {
		return err
	}
	command := map[Format][]string{
		Squashfs: {"mksquashfs", root, image, "-all-root", "-all-time", "0", "-mkfs-time", "0", "-no-xattrs",
			"-noappend", "-no-progress", "-quiet", "-comp", "zstd", "-Xcompression-level", "18"},
		Erofs: {"mkfs.erofs", "--quiet", "-zlz4hc,12", "-C65536", "-T0", "-x-1", "--all-root",
			"-U00000000-0000-0000-0000-000000000000", image, root},
	}[format]
	if command == nil {
		return fmt.Errorf("write %s: unknown format %q", file, format)
	}
	if err := run(ctx, command[0], command[1:]...); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return os.Rename(image, file)
}

// HostPackages are the Debian packages with the programs that this package calls.
var HostPackages = []string{"patchelf", "squashfs-tools", "erofs-utils"}

// run keeps SOURCE_DATE_EPOCH away, which contradicts the times given above.
func run(ctx context.Context, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s (as root: apt-get install %s)", name, err,
			strings.TrimSpace(string(out)), strings.Join(HostPackages, " "))
	}
	return nil
}
