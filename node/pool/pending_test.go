package pool

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/lvm/lvmtest"
)

// A call that is repeated while its first lvcreate still runs gets what that makes.
func TestRepeatWhilePending(t *testing.T) {
	for name, call := range map[string]func(context.Context, *node, ID) error{
		"volume": func(ctx context.Context, n *node, _ ID) error {
			_, err := n.CreateVolume(ctx, CreateVolume{Name: "a", Pool: "fast", Required: gib, FS: FSNew})
			return err
		},
		"clone": func(ctx context.Context, n *node, src ID) error {
			_, err := n.CreateVolume(ctx, CreateVolume{Name: "a", Pool: "fast", FS: FSNew, Source: &Source{ID: src}})
			return err
		},
		"snapshot": func(ctx context.Context, n *node, src ID) error {
			_, err := n.CreateSnapshot(ctx, "a", src)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNode(t, spec(), "/dev/nvme0n1")
				src := n.create(t, CreateVolume{Name: "src", Required: gib}).ID
				ctx, cancel := context.WithCancel(t.Context())
				hold := make(chan struct{})
				n.host.OnStep(func(s lvmtest.Step) error {
					if s.Call == "lvcreate" && s.Point == lvmtest.Before {
						cancel()
						<-hold
					}
					return nil
				})
				if err := call(ctx, n, src); !errors.Is(err, ErrPending) {
					t.Fatalf("first call: %v", err)
				}
				again := make(chan error)
				go func() { again <- call(t.Context(), n, src) }()
				synctest.Wait() // it waits for the volume group
				close(hold)
				if err := <-again; err != nil {
					t.Errorf("repeated: %v", err)
				}
			})
		})
	}
}

// While an lvm command hangs its pool says so, what reads it goes on, and it is not
// waited for where the pools are grown.
func TestStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t, spec(), "/dev/nvme0n1")
		src := n.create(t, CreateVolume{Name: "src", Required: gib}).ID
		hold := make(chan struct{})
		n.host.OnStep(func(s lvmtest.Step) error {
			if s.Call == "lvcreate" && s.Point == lvmtest.Before {
				<-hold
			}
			return nil
		})
		made := make(chan error)
		go func() {
			_, err := n.CreateVolume(t.Context(), CreateVolume{Name: "a", Pool: "fast", Required: gib, FS: FSNew})
			made <- err
		}()
		synctest.Wait()
		since := time.Now().UTC().Format(time.RFC3339)
		if s := n.Statuses()[0]; s.Health != HealthOK {
			t.Errorf("at once: %+v", s)
		}
		time.Sleep(lvm.StuckAfter)
		s := n.Statuses()[0]
		if want := "lvcreate has been running since " + since; s.Health != HealthStuck || !strings.Contains(s.Text, want) {
			t.Errorf("%s: %s, want %s: %s", s.Health, s.Text, HealthStuck, want)
		}
		if s.Volumes != 1 || s.Free == 0 {
			t.Errorf("status %+v", s)
		}
		if _, err := n.GetVolume(src); err != nil {
			t.Error(err)
		}
		if err := n.Grow(t.Context()); err != nil {
			t.Error(err)
		}
		close(hold)
		if err := <-made; err != nil {
			t.Error(err)
		}
		if s := n.Statuses()[0]; s.Health != HealthOK || s.Volumes != 2 {
			t.Errorf("after it ended: %+v", s)
		}
	})
}
