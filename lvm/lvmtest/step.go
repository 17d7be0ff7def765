package lvmtest

import (
	"errors"

	"github.com/lamina-csi/lamina/lvm"
)

// ErrCrashed is what every call returns from a crash until [Host.Restart].
var ErrCrashed = errors.New("the agent has crashed")

// Point is where within a command or kernel call a step lies.
type Point string

// The points. Before and After occur in each command and each kernel call that
// changes something; the others in the commands that they name.
const (
	Before Point = "before"
	// Committed: lvcreate of a thin volume has written the LV, or lvremove has
	// forgotten it, with the message for the kernel, to LVM's metadata. The kernel
	// knows nothing yet. The next command that uses the pool sends the message.
	Committed Point = "committed"
	// Created: the kernel has made the thin device (lvcreate), or deleted it
	// (lvremove), but the pool's transaction id in the kernel lags behind LVM's. If
	// it was a snapshot, every later command that uses the pool fails.
	Created Point = "created"
	// Inactive: the thin volume is complete and not yet active (lvcreate), or it
	// is deactivated and not yet removed (lvremove).
	Inactive Point = "inactive"
	After    Point = "after"
)

// Step is a moment at which the agent may crash.
type Step struct {
	N       int         // counts from 1
	Command lvm.Command // zero for a kernel call
	Call    string      // lvcreate … or load, suspend, resume, flush, discard, zero
	Point   Point
}

// OnStep sets what is called at each step, without any lock of the host held.
// ErrCrashed from it crashes the agent there; another error is what the call
// returns, after the fact if the point is After.
func (h *Host) OnStep(f func(Step) error) {
	h.stepLock.Lock()
	defer h.stepLock.Unlock()
	h.onStep = f
}

// CrashAt crashes the agent at the nth step from now, 1 being the next; 0 never.
func (h *Host) CrashAt(n int) {
	h.stepLock.Lock()
	defer h.stepLock.Unlock()
	h.crashAt = 0
	if n > 0 {
		h.crashAt = h.steps + n
	}
}

// Steps is how many steps there were.
func (h *Host) Steps() int {
	h.stepLock.Lock()
	defer h.stepLock.Unlock()
	return h.steps
}

// Crashed reports whether the agent has crashed and not been restarted.
func (h *Host) Crashed() bool {
	h.stepLock.Lock()
	defer h.stepLock.Unlock()
	return h.crashed
}

// Restart lets calls through again after a crash. The kernel's state stays:
// devices that were suspended stay so. For a power cut use [Host.Reboot].
func (h *Host) Restart() {
	h.stepLock.Lock()
	defer h.stepLock.Unlock()
	h.crashed, h.crashAt = false, 0
}

func (h *Host) step(s Step) error {
	h.stepLock.Lock()
	if h.crashed {
		h.stepLock.Unlock()
		return ErrCrashed
	}
	h.steps++
	s.N = h.steps
	if h.steps == h.crashAt {
		h.crashed = true
		h.stepLock.Unlock()
		return ErrCrashed
	}
	hook := h.onStep
	h.stepLock.Unlock()
	if hook == nil {
		return nil
	}
	err := hook(s)
	if errors.Is(err, ErrCrashed) {
		h.stepLock.Lock()
		h.crashed = true
		h.stepLock.Unlock()
	}
	return err
}

// alive fails calls that change nothing, and so are no steps, after a crash.
func (h *Host) alive() error {
	if h.Crashed() {
		return ErrCrashed
	}
	return nil
}

// mutate runs a kernel call that changes something between its two steps.
func (h *Host) mutate(call string, change func() error) error {
	if err := h.step(Step{Call: call, Point: Before}); err != nil {
		return err
	}
	h.mu.Lock()
	err := change()
	h.mu.Unlock()
	if serr := h.step(Step{Call: call, Point: After}); serr != nil {
		return serr
	}
	return err
}
