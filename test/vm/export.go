package vm

import (
	"context"
	"io"
	"slices"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
)

// What other rigs share with this one: the kernel, and how QEMU runs it.

// OpenKernel unpacks the pinned kernel into the cache of the module at root. It
// returns an image that QEMU starts and the directory of the package's files.
func OpenKernel(ctx context.Context, root string) (image, files string, err error) {
	k, err := openKernel(ctx, root)
	return k.image, k.files, err
}

// WriteInitramfs writes a tree, which holds /init, as an initramfs.
func WriteInitramfs(w io.Writer, t *bundle.Tree) error {
	if err := writeConsole(w); err != nil {
		return err
	}
	return writeCPIO(w, t)
}

// BaseArgs are QEMU's arguments for a machine without kernel and devices;
// memory is in bytes.
func BaseArgs(cpus int, memory int64) []string { return baseArgs(cpus, memory, false) }

// KernelParams are the kernel parameters of every machine.
func KernelParams() []string { return slices.Clone(kernelParams) }

// DiskArgs are QEMU's arguments for one NVMe disk. index is its number in the
// machine; a missing image is made.
func DiskArgs(index int, d Disk) ([]string, error) { return (&Machine{}).diskArgs(index, d) }
