package agent

import (
	"context"
	"fmt"

	"github.com/lamina-csi/lamina/driver/link"
)

// MakePool asks for one pool, as the controller does over the link, and waits until the
// agent has made it or found it.
func (a *Agent) MakePool(ctx context.Context, pool, profile string) error {
	_, err := a.Pools.Apply(ctx, &link.ApplyRequest{Pools: []*link.Pool{{Name: pool, Profile: "test", Text: profile}}})
	if err != nil {
		return err
	}
	return a.AwaitPools(ctx, "well", func(s *link.PoolStatus) bool { return s.GetHealth() == "ok" && s.GetError() == "" })
}

// AwaitPools waits until the agent has looked at what it was asked for, and a pool's
// status is as wanted; what says how that is, for people.
func (a *Agent) AwaitPools(ctx context.Context, what string, ok func(*link.PoolStatus) bool) error {
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
