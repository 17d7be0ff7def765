// Package wire is what the host and the guest's init say to each other: a
// configuration in the initramfs and frames over a virtio serial port.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Where the guest finds its things, and the name of the serial port.
const (
	ConfigPath  = "vm/config.json"
	ModulesPath = "vm/modules.json"
	ModulesDir  = "vm/modules"
	PortName    = "vm.0"

	// HostDir is where it has them on a root of its own, and RunArg tells init to run
	// the program there.
	HostDir = "/run/vm"
	RunArg  = "run"
)

// Config tells the guest's init what to run.
type Config struct {
	Program string   // absolute path or a name looked up in PATH
	Args    []string // without the program
	Env     []string // KEY=value
	Dir     string   // working directory
	Modules []string // kernel modules loaded before the program
	Outputs []string // guest files sent back when the program has ended
	Stdin   bool     // whether the host sends standard input
	Disks   []Disk   // NVMe disks that must be there before the program starts
	Root    string   // serial of the disk whose systemd runs the program; "" runs it from the initramfs
}

// Disk is an NVMe disk that the guest waits for.
type Disk struct {
	Serial   string
	ReadOnly bool // to be marked so: QEMU 7.2 does not tell the guest
}

// Modules is the guest's module index: files in ModulesDir, each with the
// files that must be loaded before it, and the kernel's aliases.
type Modules struct {
	Deps    map[string][]string // module name to module names, in load order
	Aliases []Alias
}

// Alias maps a pattern (modules.alias, "*" and "?") to a module name.
type Alias struct{ Pattern, Module string }

// Kind says what a frame holds.
type Kind byte

// Kinds of frames.
const (
	Ready  Kind = 'r' // guest: the program starts
	Stdout Kind = 'o' // guest: bytes of the program's standard output
	Stderr Kind = 'e' // guest: bytes of its standard error
	File   Kind = 'f' // guest: a chunk of an output file: name, NUL, bytes
	Exit   Kind = 'x' // guest: the exit code in decimal; the last frame
	Fail   Kind = 'l' // guest: why init could not run the program
	Stdin  Kind = 'i' // host: bytes of standard input; empty at its end
	Dump   Kind = 'd' // host: say on the console what hangs
)

// MaxPayload is the limit in bytes for one frame.
const MaxPayload = 64 << 10

// ErrFrame is wrapped when the stream is not a sequence of frames.
var ErrFrame = errors.New("bad frame")

// Write writes one frame in one call of Write.
func Write(w io.Writer, kind Kind, payload []byte) error {
	if len(payload) > MaxPayload {
		return fmt.Errorf("%w: %d bytes", ErrFrame, len(payload))
	}
	buf := make([]byte, 5+len(payload))
	buf[0] = byte(kind)
	binary.BigEndian.PutUint32(buf[1:], uint32(len(payload)))
	copy(buf[5:], payload)
	_, err := w.Write(buf)
	return err
}

// Read reads one frame. At a clean end it returns io.EOF.
func Read(r io.Reader) (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxPayload {
		return 0, nil, fmt.Errorf("%w: %d bytes announced", ErrFrame, n)
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return Kind(head[0]), payload, nil
}
