package vm

import (
	"fmt"
	"io"
	"io/fs"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
)

// writeCPIO writes a tree as a "newc" archive, the form of an initramfs
// (kernel Documentation/driver-api/early-userspace/buffer-format.rst). Several
// archives in a row make one initramfs.
func writeCPIO(w io.Writer, t *bundle.Tree) error {
	cw := &cpioWriter{w: w}
	for i, e := range t.Entries() {
		data := e.Data
		mode := uint32(e.Mode.Perm())
		switch {
		case e.Mode.IsDir():
			mode |= 0o040000
		case e.Mode&fs.ModeSymlink != 0:
			mode |= 0o120000
			data = []byte(e.Link)
		default:
			mode |= 0o100000
		}
		cw.entry(cpioHead{name: e.Path, mode: mode, ino: i + 1}, data)
	}
	cw.entry(cpioHead{name: "TRAILER!!!"}, nil)
	return cw.err
}

type cpioHead struct {
	name         string
	mode         uint32
	ino          int
	major, minor int // of a device node
}

// writeConsole writes the one device node that the kernel opens before any
// program can mount /dev.
func writeConsole(w io.Writer) error {
	cw := &cpioWriter{w: w}
	cw.entry(cpioHead{name: "dev", mode: 0o040755, ino: 1}, nil)
	cw.entry(cpioHead{name: "dev/console", mode: 0o020600, ino: 2, major: 5, minor: 1}, nil)
	cw.entry(cpioHead{name: "TRAILER!!!"}, nil)
	return cw.err
}

type cpioWriter struct {
	w   io.Writer
	err error
}

func (c *cpioWriter) entry(h cpioHead, data []byte) {
	c.write([]byte(fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		h.ino, h.mode, 0, 0, 1, 0, len(data), 0, 0, h.major, h.minor, len(h.name)+1, 0, h.name)))
	c.pad(110 + len(h.name) + 1)
	c.write(data)
	c.pad(len(data))
}

func (c *cpioWriter) pad(n int) { c.write(make([]byte, -n&3)) }

func (c *cpioWriter) write(p []byte) {
	if c.err == nil {
		_, c.err = c.w.Write(p)
	}
}
