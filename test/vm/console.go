package vm

import (
	"bytes"
	"io"
	"regexp"
	"sync"
)

// consoleKept is how many bytes of the console are remembered, and tailLines
// how many lines an error quotes.
const (
	consoleKept = 256 << 10
	tailLines   = 60
)

// faultLine begins the kernel's account of its own failure.
var (
	faultLine = regexp.MustCompile(`(?m)^.*(BUG: |Oops: |general protection fault|kernel BUG at |Kernel panic - not syncing).*$`)
	panicLine = regexp.MustCompile(`Kernel panic - not syncing`)
)

// console keeps the end of what the kernel wrote. QEMU's own messages arrive
// here too.
type console struct {
	copyTo io.Writer

	mu   sync.Mutex
	text []byte
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, p...)
	if extra := len(c.text) - consoleKept; extra > consoleKept {
		c.text = append([]byte(nil), c.text[extra:]...)
	}
	if c.copyTo != nil {
		return c.copyTo.Write(p)
	}
	return len(p), nil
}

// explain returns the kernel's own account if it panicked, else the last lines.
func (c *console) explain() (text string, panicked bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clean := bytes.ReplaceAll(c.text, []byte("\r"), nil)
	if panicLine.Match(clean) {
		return string(clean[faultLine.FindIndex(clean)[0]:]), true
	}
	lines := bytes.Split(bytes.TrimRight(clean, "\n"), []byte("\n"))
	if len(lines) > tailLines {
		lines = lines[len(lines)-tailLines:]
	}
	return string(bytes.Join(lines, []byte("\n"))), false
}
