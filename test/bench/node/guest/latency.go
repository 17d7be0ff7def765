package main

import (
	"context"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/test/agent"
)

const latencyBar = time.Millisecond

// latency watches a writer on one volume while others are worked on.
func (b *bench) latency(ctx context.Context) error {
	if err := b.fill(ctx, b.active); err != nil {
		return err
	}
	b.table.section(fmt.Sprintf("Worst write latency on an unrelated volume, %d active volumes", b.filled))
	w, err := startWriter(b.device(b.names[0]))
	if err != nil {
		return err
	}
	defer w.stop()
	var v agent.Volume
	var s *csi.Snapshot
	name := b.name()
	for _, step := range []struct {
		what   string
		judged bool
		do     func() error
	}{
		{"nothing, for 5 s", false, func() error { time.Sleep(5 * time.Second); return nil }},
		{"CreateVolume", true, func() (err error) { v, err = b.agent.Create(ctx, "fast", name, "", gib, nil); return err }},
		{"CreateSnapshot", true, func() (err error) { s, err = v.Snapshot(ctx, "snapshot-of-"+name); return err }},
		{"ControllerExpandVolume", true, func() error {
			_, err := b.agent.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
				VolumeId: v.VolumeId, CapacityRange: &csi.CapacityRange{RequiredBytes: 2 * gib}, VolumeCapability: agent.Capability(""),
			})
			return err
		}},
		{"DeleteVolume", true, func() error { return v.Delete(ctx) }},
		{"DeleteSnapshot", false, func() error {
			_, err := b.agent.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: s.SnapshotId})
			return err
		}},
		{"for comparison: plain lvextend of another volume", false, func() error {
			return runLVM(plainLVM, "lvextend", "-L", "2g", vg+"/"+b.names[1])
		}},
		{"for comparison: plain lvextend of the pool", false, func() error {
			return runLVM(plainLVM, "lvextend", "-L", "+64m", vg+"/"+thinPool)
		}},
	} {
		quiet()
		worst, err := w.worstDuring(step.do)
		if err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
		if step.judged {
			b.table.judge(step.what, "< 1 ms", ms(worst), worst < latencyBar)
		} else {
			b.table.tell(step.what, ms(worst))
		}
	}
	return b.growth(ctx, w)
}

// growth takes a part of the reserve away, and lets the agent find it at its start.
func (b *bench) growth(ctx context.Context, w *writer) error {
	if err := b.agent.Stop(); err != nil {
		return err
	}
	const tpool = vg + "-" + thinPool + "-tpool"
	before, err := b.kernel.Table(tpool)
	if err != nil {
		return err
	}
	b.reserve = "2%"
	worst, err := w.worstDuring(func() error { return b.startAgent(ctx) })
	if err != nil {
		return err
	}
	after, err := b.kernel.Table(tpool)
	if err != nil {
		return err
	}
	if after[0].Length <= before[0].Length {
		return fmt.Errorf("the pool did not grow")
	}
	b.table.tell("growth of the pool by the agent", ms(worst))
	return nil
}

func (b *bench) device(name string) string {
	info, err := b.kernel.Info(lvm.DMName(b.group.Name, mustLV(name), ""))
	if err != nil {
		return "/dev/" + vg + "/" + name
	}
	return info.Path()
}
