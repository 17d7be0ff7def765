package mount_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/mount/mounttest"
)

// crashAt runs do and dies at the k-th of all points before and after a step. It tells whether it died.
func crashAt(n *node, k int, do func() error) (died bool, err error) {
	at := 0
	point := func(mount.Command) error {
		if at++; at == k {
			panic(mounttest.Crash{})
		}
		return nil
	}
	n.Before, n.After = point, point
	defer func() {
		n.Before, n.After = nil, nil
		if r := recover(); r != nil {
			if _, crash := r.(mounttest.Crash); !crash {
				panic(r)
			}
			died = true
		}
	}()
	return false, do()
}

func TestStageCrashes(t *testing.T) {
	for _, fsType := range fsTypes {
		for _, luks := range []bool{false, true} {
			for _, reboot := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s luks=%v reboot=%v", fsType, luks, reboot), func(t *testing.T) {
					points := 0
					for k := 1; crashOnce(t, crashCase{fsType, luks, reboot, k}); k++ {
						points = k
					}
					if points < 6 {
						t.Errorf("only %d crash points", points)
					}
				})
			}
		}
	}
}

type crashCase struct {
	fsType       mount.FSType
	luks, reboot bool
	k            int
}

// crashOnce stages a new volume, dies at point k, and stages it again.
func crashOnce(t *testing.T, c crashCase) bool {
	t.Helper()
	n := newNode(t)
	request := func() mount.StageRequest {
		r := maybe(c.luks, n.request(c.fsType))
		mark := r.MarkFormatted
		r.MarkFormatted = func(ctx context.Context, s mount.State) error {
			cmd := mount.Command{Name: "mark", Args: []string{string(s)}}
			if n.Before != nil {
				check(t, n.Before(cmd))
			}
			err := mark(ctx, s)
			if n.After != nil {
				check(t, n.After(cmd))
			}
			return err
		}
		return r
	}
	died, err := crashAt(n, c.k, func() error { return n.Stage(t.Context(), request()) })
	if !died {
		check(t, err)
		return false
	}
	if c.reboot {
		n.Reboot()
	}
	marked := n.state != mount.StateNew
	n.Commands()
	check(t, n.Stage(t.Context(), request()))
	if got := count(n.Commands(), formats...); marked && got != 0 {
		t.Errorf("point %d: %d formats after the record", c.k, got)
	}
	if n.state != mount.Formatted(c.fsType) || n.marks != 1 {
		t.Errorf("point %d: recorded %q %d times", c.k, n.state, n.marks)
	}
	check(t, n.Write(n.path("staging"), "x"))
	return true
}

func TestStageCopyCrashes(t *testing.T) {
	for _, fsType := range fsTypes {
		for _, reboot := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s reboot=%v", fsType, reboot), func(t *testing.T) {
				points := 0
				for k := 1; crashCopyOnce(t, fsType, reboot, k); k++ {
					points = k
				}
				if points < 8 {
					t.Errorf("only %d crash points", points)
				}
			})
		}
	}
}

func crashCopyOnce(t *testing.T, fsType mount.FSType, reboot bool, k int) bool {
	t.Helper()
	n := newNode(t)
	check(t, n.Stage(t.Context(), n.request(fsType)))
	copyDisk(t, n, fsType, false)
	n.disks["/dev/dm-2"].Resize(2 * gib)
	died, err := crashAt(n, k, func() error { return n.Stage(t.Context(), copyRequest(n, fsType, false)) })
	if !died {
		check(t, err)
		return false
	}
	if reboot {
		n.Reboot()
		check(t, n.Stage(t.Context(), n.request(fsType)))
	}
	n.Commands()
	check(t, n.Stage(t.Context(), copyRequest(n, fsType, false)))
	if got := count(n.Commands(), formats...); got != 0 {
		t.Errorf("point %d: %d formats of a copy", k, got)
	}
	checkCopy(t, n, false)
	return true
}
