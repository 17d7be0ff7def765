//go:build vm

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lamina-csi/lamina/test/agent"
)

// group snapshots three volumes under a writer that stamps a counter in one after
// the other. In the snapshots a counter may not be ahead of the one before it,
// nor more than one behind the first.
func group(ctx context.Context, a *agent.Agent) error {
	var volumes []agent.Volume
	var ids []string
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		v, err := a.Create(ctx, "fast", "g-"+fs, fs, volumeSize, nil)
		if err != nil {
			return err
		}
		if err := v.Mount(ctx); err != nil {
			return err
		}
		volumes, ids = append(volumes, v), append(ids, v.VolumeId)
	}
	var stop atomic.Bool
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- stamp(volumes, &stop, started) }()
	<-started
	for round := range 3 {
		resp, err := a.CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: fmt.Sprint("backup-", round), SourceVolumeIds: ids})
		if err != nil {
			return err
		}
		if err := agree(ctx, a, round, volumes, resp.GroupSnapshot); err != nil {
			return err
		}
	}
	stop.Store(true)
	if err := <-ended; err != nil {
		return err
	}
	for _, v := range volumes {
		if err := v.Unmount(ctx); err != nil {
			return err
		}
	}
	return a.Stop()
}

// stamp writes 1, 2, 3 … to each volume in turn, durably, until stop.
func stamp(volumes []agent.Volume, stop *atomic.Bool, started chan<- struct{}) error {
	for n := uint64(1); !stop.Load(); n++ {
		for _, v := range volumes {
			if err := put(filepath.Join(v.Target(), "counter"), binary.BigEndian.AppendUint64(nil, n)); err != nil {
				return err
			}
		}
		if n == 3 {
			close(started)
		}
	}
	return nil
}

// agree restores a group's snapshots and compares the counters.
func agree(ctx context.Context, a *agent.Agent, round int, volumes []agent.Volume, g *csi.VolumeGroupSnapshot) error {
	bySource := map[string]*csi.Snapshot{}
	for _, s := range g.Snapshots {
		bySource[s.SourceVolumeId] = s
	}
	var counters []uint64
	for _, v := range volumes {
		r, err := a.Create(ctx, "fast", fmt.Sprintf("r%d-%s", round, v.Name), v.FS, volumeSize, bySource[v.VolumeId])
		if err != nil {
			return err
		}
		if err := r.Mount(ctx); err != nil {
			return err
		}
		data, err := os.ReadFile(filepath.Join(r.Target(), "counter"))
		if err != nil || len(data) != 8 {
			return fmt.Errorf("counter of %s: %d bytes, %w", r.Name, len(data), err)
		}
		counters = append(counters, binary.BigEndian.Uint64(data))
		if err := r.Unmount(ctx); err != nil {
			return err
		}
	}
	fmt.Println("counters in the snapshots:", counters)
	first := counters[0]
	for i, c := range counters[1:] {
		if c > counters[i] || c+1 < first {
			return fmt.Errorf("the snapshots do not agree: counters %v", counters)
		}
	}
	return nil
}
