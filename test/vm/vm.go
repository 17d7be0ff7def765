// Package vm runs a program or a Go test binary on a real Linux kernel, in QEMU
// with software emulation, with emulated NVMe disks and the node bundle as its
// userland. It needs no root and, once its packages are cached, no network.
//
// A machine runs one program and powers off. Its disks are files on the host,
// so a test can cut the power, boot again on the same disks, and look at or
// corrupt them in between.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
)

// Sentinels of [Machine.Wait]; the error that wraps them holds the end of the
// kernel's console.
var (
	ErrTimeout  = errors.New("the machine did not end in time and was killed")
	ErrPanic    = errors.New("the guest's kernel panicked")
	ErrPowerCut = errors.New("the power was cut")
	ErrStopped  = errors.New("the machine stopped before its program ended")
)

// Defaults of Config.
const (
	DefaultMemory  = 1 << 30
	DefaultTimeout = 5 * time.Minute
)

// DefaultModules are there when the program starts. lvm runs /sbin/modprobe
// for a device-mapper target that is missing, and the bundle has none. dm_raid
// is left out: the checksum benchmarks of its dependencies take a second.
var DefaultModules = []string{"dm_mod", "dm_thin_pool", "dm_snapshot", "loop"}

// Config says what a machine is and what it runs.
type Config struct {
	// Program is a host path, which holds a "/", or the bare name of a program
	// in the bundle. Programs from the host are static or use the bundle's libraries.
	Program string
	Args    []string
	Env     []string          // KEY=value, added to PATH, HOME, TMPDIR and LVM_SYSTEM_DIR
	Dir     string            // working directory in the guest
	Files   map[string]string // guest path to host file or directory, copied in
	Outputs map[string]string // guest path to host path, copied out when the program has ended

	Stdin  io.Reader // nil means empty
	Stdout io.Writer // nil discards
	Stderr io.Writer
	// Console receives the kernel's console and init's messages as they come.
	Console io.Writer

	Disks []Disk
	// Root is the serial of a disk with an ext4 of a host with systemd and udev,
	// which becomes process 1 there: a service runs the program, and the host shuts
	// down when it has ended. DefaultModules are not loaded, nothing is added to Env, of
	// Files only Program is copied in, and the bundle is not there.
	Root    string
	Memory  int64         // bytes; 0 means DefaultMemory
	CPUs    int           // 0 means 1
	Timeout time.Duration // from boot to the end; 0 means DefaultTimeout
	// Modules are loaded before the program, after DefaultModules. The kernel
	// loads others on demand; dm_raid must be named (see DefaultModules).
	Modules []string
	Kernel  []string // further kernel parameters
	QEMU    []string // further arguments of QEMU
	// Clock makes the guest's clock count executed instructions, one nanosecond each,
	// and jump over idle time: what a program takes does not depend on the host's
	// load. For measurements; it needs one CPU and runs several times slower.
	Clock bool
}

// Disk is one emulated NVMe disk, /dev/nvmeXn1 in the guest. X follows no
// order: find a disk by its serial in /sys/block/*/device/serial, or, with a
// WriteLog, in /sys/block/*/serial.
type Disk struct {
	Serial string // unique in the machine; up to 20 letters, digits, "-" and "_"
	// Path is the raw image. A missing file is made, sparse, of Size bytes. Empty
	// means a scratch disk that is gone with the machine.
	Path      string
	Size      int64
	ReadOnly  bool
	BlockSize int // logical block size in bytes: 512 (also 0) or 4096
	// Unsafe ignores flushes: faster, and never for tests that cut the power.
	Unsafe bool
	// Out is a disk that is not in the machine until InsertDisk.
	Out bool
	// WriteLog records every write and flush in a file (QEMU's blklogwrites), for
	// [ReadWriteLog]. Such a disk is no NVMe disk but /dev/vdX: QEMU's NVMe disk takes
	// a write with "force unit access" for one without, and the log would not say that
	// it must survive. To a virtio disk, Linux sends a flush after it instead.
	WriteLog string
}

// Run starts a machine and waits for its program to end.
func Run(ctx context.Context, cfg Config) (exit int, err error) {
	m, err := Start(ctx, cfg)
	if err != nil {
		return -1, err
	}
	return m.Wait()
}

// Start boots a machine. It lives until its program ends, its timeout passes,
// ctx is done or CutPower is called; the caller must call Wait.
func Start(ctx context.Context, cfg Config) (*Machine, error) {
	root, err := bundle.ModuleRoot()
	if err != nil {
		return nil, err
	}
	if err := CheckInstalled(); err != nil {
		return nil, err
	}
	k, err := openKernel(ctx, root)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "vm-")
	if err != nil {
		return nil, err
	}
	m := newMachine(cfg, dir)
	if err := m.start(ctx, root, k); err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("start a virtual machine: %w", err)
	}
	return m, nil
}

func (m *Machine) start(ctx context.Context, root string, k kernel) error {
	initrd := filepath.Join(m.dir, "initrd")
	f, err := os.Create(initrd)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := writeInitrd(ctx, f, root, k, m.cfg); err != nil {
		return err
	}
	args, err := m.qemuArgs(k.image, initrd)
	if err != nil {
		return err
	}
	return m.launch(ctx, args)
}
