package agent

import (
	"context"
	"fmt"

	"github.com/lamina-csi/lamina/driver/link"
)

// MakePool asks for one pool, as the controller does over the link, and waits until the
// agent has made it or found it.
func (a *Agent) MakePool(ctx context.Context, pool, profile string) error {
	if err := a.WantPool(ctx, pool, profile); err != nil {
		return err
	}
	return a.AwaitPool(ctx, "well", Healthy)
}

// WantPool asks for it and does not wait.
func (a *Agent) WantPool(ctx context.Context, pool, profile string) error {
	_, err := a.Pools.Apply(ctx, &link.ApplyRequest{Pools: []*link.Pool{{Name: pool, Profile: "test", Text: profile}}})
	return err
}

// Healthy is what a pool is that serves.
func Healthy(s *link.PoolStatus) bool { return s.GetHealth() == "ok" && s.GetError() == "" }

// AwaitPool waits until the agent has looked at all that is wanted (before, it makes no
// volume) and a pool's status is ok; what says how that is, for people.
func (a *Agent) AwaitPool(ctx context.Context, what string, ok func(*link.PoolStatus) bool) error {
	watch, err := a.Pools.Watch(ctx, &link.WatchRequest{})
	if err != nil {
		return err
	}
	last := "none"
	for {
		got, err := watch.Recv()
		if err != nil {
			return fmt.Errorf("the pool is not %s; its last status: %s (%w)", what, last, err)
		}
		for _, s := range got.GetPools() {
			if last = s.String(); got.GetSettled() && ok(s) {
				return nil
			}
		}
	}
}
