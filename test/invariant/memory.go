package invariant

import (
	"context"
	"strings"
	"testing"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
	"github.com/lamina-csi/lamina/node/mount/mounttest"
)

// Memory is a node in memory. mounts may be nil.
func Memory(h *lvmtest.Host, mounts *mounttest.System) Node {
	n := Node{
		Client:  lvm.New(h, h, lvm.Options{}),
		Devices: func() ([]lvm.DeviceInfo, error) { return h.Devices(), nil },
		ThinIDs: func(vg lvm.VGName, pool lvm.LVName) ([]int64, error) { return h.ThinIDs(vg.String(), pool.String()) },
		Data:    h.CheckData,
	}
	if mounts != nil {
		n.Mounts = func() ([]Mount, error) { return mountsOf(mounts), nil }
	}
	return n
}

func mountsOf(s *mounttest.System) []Mount {
	var out []Mount
	for _, m := range s.Mounted() {
		out = append(out, Mount{Device: m.Device, Below: m.Below, Path: m.Path, Frozen: m.Frozen})
	}
	return out
}

// Watch is what is expected of a node in memory after a test.
type Watch struct{ left []string }

// After checks a node in memory when the test has ended. Register it before what
// the test itself cleans up.
func After(t testing.TB, h *lvmtest.Host, mounts *mounttest.System) *Watch {
	t.Helper()
	w := &Watch{}
	t.Cleanup(func() {
		t.Helper()
		h.OnStep(nil)
		h.Restart()
		w.report(t, Check(context.Background(), Memory(h, mounts)))
	})
	return w
}

// Leaves says that the test leaves something behind on purpose: a finding that holds
// the words. It must be there in the end.
func (w *Watch) Leaves(words string) { w.left = append(w.left, words) }

func (w *Watch) report(t testing.TB, err error) {
	t.Helper()
	found := ""
	if err != nil {
		found = err.Error()
	}
	for _, words := range w.left {
		rest := strings.Builder{}
		for line := range strings.Lines(found) {
			if !strings.Contains(line, words) {
				rest.WriteString(line)
			}
		}
		if rest.Len() == len(found) {
			t.Errorf("after the test: nothing is wrong that says %q", words)
		}
		found = rest.String()
	}
	if found != "" {
		t.Errorf("after the test:\n%s", found)
	}
}
