package pool

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

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
