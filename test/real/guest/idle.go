//go:build vm

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/lamina-csi/lamina/test/agent"
)

// idle measures the agent's memory with 200 volumes: right after it has made
// them, which is told, and as a new process that finds them, which is bounded.
func idle(ctx context.Context, a *agent.Agent) error {
	for i := range 200 {
		if _, err := a.Create(ctx, "fast", fmt.Sprint("v", i), "ext4", 16<<20, nil); err != nil {
			return err
		}
	}
	if _, err := resident(a, "after making 200 volumes"); err != nil {
		return err
	}
	if err := a.Stop(); err != nil {
		return err
	}
	a, err := start(ctx)
	if err != nil {
		return err
	}
	for range 5 {
		list, err := a.ListVolumes(ctx, nil)
		if err != nil || len(list.Entries) != 200 {
			return fmt.Errorf("%d volumes: %w", len(list.GetEntries()), err)
		}
	}
	// At rest: the agent gives back what it does not need when it has been quiet.
	rest, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		all, err := resident(a, "with 200 volumes")
		if err != nil {
			return err
		}
		if all > 0 && all < 20<<20 {
			return a.Stop()
		}
		select {
		case <-rest.Done():
			return fmt.Errorf("%d bytes resident, 20 MiB are the bound", all)
		case <-time.After(5 * time.Second):
		}
	}
}

func resident(a *agent.Agent, when string) (int64, error) {
	all, anonymous, err := a.ResidentMemory()
	fmt.Printf("resident %s: %.1f MiB, %.1f of it anonymous\n", when, float64(all)/(1<<20), float64(anonymous)/(1<<20))
	return all, err
}
