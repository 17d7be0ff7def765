package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lamina-csi/lamina/test/agent"
)

// mounted is how many of the volumes whose stats are read have a file system
// mounted.
const mounted = 8

// stats reads the stats of 200 volumes as kubelet does, and the pool's capacity.
func (b *bench) stats(ctx context.Context) error {
	const calls = 200
	if err := b.fill(ctx, b.active); err != nil {
		return err
	}
	var volumes []agent.Volume
	for i := range mounted {
		v, err := b.agent.Create(ctx, "fast", b.name(), []string{"ext4", ""}[i%2], gib, nil)
		if err != nil {
			return err
		}
		if err := v.Mount(ctx); err != nil {
			return err
		}
		volumes = append(volumes, v)
	}
	before, err := b.agent.Commands()
	if err != nil {
		return err
	}
	var volume, raw, capacity, probe sample
	for i := range calls {
		v := volumes[i%mounted]
		to := &volume
		if v.FS == "" {
			to = &raw
		}
		if err := to.timed(func() error {
			_, err := b.agent.NodeGetVolumeStats(ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: v.VolumeId, VolumePath: v.Target()})
			return err
		}); err != nil {
			return err
		}
		if err := capacity.timed(func() error {
			_, err := b.agent.GetCapacity(ctx, &csi.GetCapacityRequest{Parameters: map[string]string{"pool": "fast"}})
			return err
		}); err != nil {
			return err
		}
		if err := probe.timed(func() error {
			_, err := b.agent.Probe(ctx, &csi.ProbeRequest{})
			return err
		}); err != nil {
			return err
		}
	}
	after, err := b.agent.Commands()
	if err != nil {
		return err
	}
	b.table.section(fmt.Sprintf("Stats and capacity, %d calls each in a pool of %d volumes", calls, b.filled+mounted))
	b.table.judge("lvm processes", "0", fmt.Sprint(len(after)-len(before)), len(after) == len(before))
	b.table.tell("NodeGetVolumeStats of a file system", volume.String())
	b.table.tell("NodeGetVolumeStats of a block volume", raw.String())
	b.table.tell("GetCapacity", capacity.String())
	b.table.tell("for comparison: Probe, a call that does nothing", probe.String())
	for _, v := range volumes {
		if err := v.Unmount(ctx); err != nil {
			return err
		}
		if err := v.Delete(ctx); err != nil {
			return err
		}
	}
	return nil
}

const memoryBar = 20 << 20 // bytes, with 200 volumes

// empty is the agent without a volume, and its program.
func (b *bench) empty() error {
	b.table.section("The agent")
	program, err := os.Stat("/usr/local/bin/lamina-node")
	if err != nil {
		return err
	}
	b.table.tell("binary", mib(program.Size()))
	return b.resident()
}

// residence reads the agent's memory as a new process that finds n volumes, and its
// CPU at rest.
func (b *bench) residence(ctx context.Context, n int) error {
	if err := b.fill(ctx, n); err != nil {
		return err
	}
	if err := b.agent.Stop(); err != nil {
		return err
	}
	if err := b.startAgent(ctx); err != nil {
		return err
	}
	b.table.section(fmt.Sprintf("The agent with %d volumes", b.filled))
	for range 5 {
		if _, err := b.agent.ListVolumes(ctx, nil); err != nil {
			return err
		}
	}
	if err := b.resident(); err != nil {
		return err
	}
	cpu, err := b.rest()
	if err != nil {
		return err
	}
	b.table.tell("CPU at rest over a minute", fmt.Sprintf("%s (%.4f %%)", ms(cpu), 100*cpu.Seconds()/60))
	return nil
}

func (b *bench) resident() error {
	all, anonymous, err := b.agent.ResidentMemory()
	if err != nil {
		return err
	}
	what := fmt.Sprintf("resident memory with %d volumes", b.filled)
	text := fmt.Sprintf("%s, %s of it anonymous", mib(all), mib(anonymous))
	if b.filled == 200 {
		b.table.judge(what, "< 20 MiB", text, all < memoryBar)
	} else {
		b.table.tell(what, text)
	}
	return nil
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// rest is the CPU time of the agent over a minute in which nobody asks it anything.
func (b *bench) rest() (time.Duration, error) {
	used := func() (sum time.Duration, err error) {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", b.agent.PID()))
		if err != nil {
			return 0, err
		}
		for _, t := range tasks {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", b.agent.PID(), t.Name()))
			if err != nil {
				return 0, err
			}
			var ns int64
			if _, err := fmt.Sscan(strings.TrimSpace(string(text)), &ns); err != nil {
				return 0, err
			}
			sum += time.Duration(ns)
		}
		return sum, nil
	}
	before, err := used()
	if err != nil {
		return 0, err
	}
	time.Sleep(time.Minute)
	after, err := used()
	return after - before, err
}
