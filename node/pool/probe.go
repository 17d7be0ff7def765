package pool

import (
	"fmt"
	"time"

	"github.com/lamina-csi/lamina/lvm"
)

// probeTime is how long a disk may take for one sector before it is told of.
const probeTime = 5 * time.Second

// probe is the last read of a disk.
type probe struct {
	since time.Time     // when it began
	done  chan struct{} // closed when it has ended
	err   error         // of the one that ended last
}

// Probe reads a sector of each disk of each pool, past the page cache: metadata that is
// cached can be read long after its disk has died, and a thin pool notices nothing
// before it has metadata to write. A disk that hangs delays nobody but its own next
// probe. It returns when all have answered or probeTime is over, and runs no process.
func (m *Manager) Probe() {
	deadline := time.After(probeTime)
	var running []*probe
	for _, p := range m.snapshot() {
		for _, dev := range p.group.Devices {
			running = append(running, m.startProbe(dev))
		}
	}
	for _, p := range running {
		select {
		case <-p.done:
		case <-deadline:
			return
		}
	}
}

// startProbe begins one, or returns the one that hangs.
func (m *Manager) startProbe(dev lvm.DevicePath) *probe {
	m.mu.Lock()
	defer m.mu.Unlock()
	last := m.probes[dev]
	if last != nil {
		select {
		case <-last.done:
		default:
			return last
		}
	}
	next := &probe{since: time.Now(), done: make(chan struct{})}
	if last != nil {
		next.err = last.err
	}
	m.probes[dev] = next
	go func() {
		err := m.dm.Probe(dev)
		m.mu.Lock()
		defer m.mu.Unlock()
		next.err = err
		close(next.done)
	}()
	return next
}

// diskFault says which disk of the pool does not read.
func (m *Manager) diskFault(p *Pool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, dev := range p.group.Devices {
		last := m.probes[dev]
		if last == nil {
			continue
		}
		if last.err != nil {
			return fmt.Errorf("%w: disk %s cannot be read: %v", ErrUnavailable, dev, last.err)
		}
		select {
		case <-last.done:
		default:
			if time.Since(last.since) >= probeTime {
				return fmt.Errorf("%w: disk %s has not answered a read", ErrUnavailable, dev)
			}
		}
	}
	return nil
}

// raid reports whether the pool survives a disk.
func (s Spec) raid() bool { return s.Layout == lvm.Raid1 || s.Layout == lvm.Raid10 }
