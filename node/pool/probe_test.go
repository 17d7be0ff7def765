package pool

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lamina-csi/lamina/lvm"
)

// reading is a host on which the pool's metadata can be read although its disk does not
// answer, as from the page cache.
type reading struct {
	lvm.Kernel
	probe func() error
}

func (r *reading) Probe(lvm.DevicePath) error { return r.probe() }

// A disk that does not read, or hangs, is told of and gets no new volume, and all is well
// when it reads again.
func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, spec(), "/dev/nvme0n1")
		n.Probe()
		if s := n.Statuses()[0]; s.Health != HealthOK {
			t.Fatalf("%+v", s)
		}
		disk := &reading{Kernel: n.dm}
		n.dm = disk
		bad := func(when, words string) {
			t.Helper()
			if s := n.Statuses()[0]; s.Health != HealthError || !strings.Contains(s.Text, words) {
				t.Errorf("%s: %+v", when, s)
			}
			if _, err := n.CreateVolume(t.Context(), CreateVolume{Name: "b", Pool: "fast"}); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), words) {
				t.Errorf("%s: create: %v", when, err)
			}
		}
		disk.probe = func() error { return syscall.EIO }
		n.Probe()
		bad("it fails", "/dev/nvme0n1 cannot be read: input/output error")
		answer := make(chan error)
		disk.probe = func() error { return <-answer }
		start := time.Now()
		n.Probe() // hangs
		n.Probe() // and does not start another one
		if d := time.Since(start); d != 2*probeTime {
			t.Errorf("two probes of a hanging disk took %v", d)
		}
		bad("it fails and hangs", "/dev/nvme0n1")
		answer <- nil
		synctest.Wait()
		n.hangs(t, disk)
	})
}

// hangs finds a disk that hangs and was well before.
func (n *node) hangs(t *testing.T, disk *reading) {
	t.Helper()
	if s := n.Statuses()[0]; s.Health != HealthOK {
		t.Errorf("it reads again: %+v", s)
	}
	answer := make(chan error)
	disk.probe = func() error { return <-answer }
	n.Probe()
	if s := n.Statuses()[0]; s.Health != HealthError || !strings.Contains(s.Text, "has not answered") {
		t.Errorf("it hangs: %+v", s)
	}
	answer <- nil
}
