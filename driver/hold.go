package driver

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/node/pool"
)

// PrepareGroup implements link.PoolsServer.
func (s *poolsServer) PrepareGroup(ctx context.Context, req *link.PrepareGroupRequest) (*link.PrepareGroupResponse, error) {
	part, err := groupPart(req.GetPart())
	if err != nil {
		return nil, err
	}
	instant, err := s.driver.pools.PrepareGroup(ctx, part)
	if err != nil {
		return nil, err
	}
	return &link.PrepareGroupResponse{ReadyInstant: instant}, nil
}

// HoldGroup implements link.PoolsServer. The stream's end, for whatever reason,
// lets the writers go.
func (s *poolsServer) HoldGroup(req *link.HoldGroupRequest, stream grpc.ServerStreamingServer[link.HoldGroupResponse]) error {
	part, err := groupPart(req.GetPart())
	if err != nil {
		return err
	}
	ctx, start := stream.Context(), time.Now()
	unlock, err := s.driver.lockSources(ctx, part.Sources...)
	if err != nil {
		return err
	}
	defer unlock()
	err = s.driver.pools.HoldGroup(ctx, part, func() error { return stream.Send(&link.HoldGroupResponse{}) })
	// The controller ends the stream and does not wait for what comes of it.
	attrs := []any{"group", part.Name, "volumes", len(part.Sources), "took", time.Since(start)}
	if err != nil {
		s.driver.log.Log(ctx, slog.LevelWarn, "writers held", append(attrs, "error", err)...)
		return err
	}
	s.driver.log.Log(ctx, slog.LevelInfo, "writers held", attrs...)
	return ended(ctx)
}

func groupPart(p *link.GroupPart) (pool.GroupPart, error) {
	if err := validateName("name", p.GetName()); err != nil {
		return pool.GroupPart{}, err
	}
	sources, err := parseIDs("source_volume_id", p.GetSourceVolumeIds())
	if err != nil {
		return pool.GroupPart{}, err
	}
	first, err := parseID("first_source_volume_id", p.GetFirstSourceVolumeId())
	if err != nil {
		return pool.GroupPart{}, err
	}
	return pool.GroupPart{Name: p.GetName(), Sources: sources, First: first, Total: int(p.GetTotal()), Instant: p.GetInstant()}, nil
}

// lockVolumes keeps RPCs about the mounts of volumes away while they are frozen:
// the kernel keeps a file system frozen that is unmounted meanwhile, and nobody
// could thaw it.
func (d *Driver) lockVolumes(ctx context.Context, ids []pool.ID) (unlock func(), err error) {
	ids = slices.Clone(ids)
	slices.SortFunc(ids, func(a, b pool.ID) int { return strings.Compare(a.String(), b.String()) })
	var unlocks []func()
	unlock = func() {
		for _, u := range unlocks {
			u()
		}
	}
	for _, id := range slices.Compact(ids) {
		u, err := d.volumes.lock(ctx, id)
		if err != nil {
			unlock()
			return nil, err
		}
		unlocks = append(unlocks, u)
	}
	return unlock, nil
}

// lockSources locks volumes that are to be copied: no first format of them starts or
// goes on meanwhile. One that an agent did not live to end is refused: the copy would
// say that it was never formatted, hold a file system, and be refused when it is
// staged.
func (d *Driver) lockSources(ctx context.Context, ids ...pool.ID) (unlock func(), err error) {
	if unlock, err = d.lockVolumes(ctx, ids); err != nil {
		return nil, err
	}
	for _, id := range ids {
		if err := d.notHalfFormatted(ctx, id); err != nil {
			unlock()
			return nil, err
		}
	}
	return unlock, nil
}

func (d *Driver) notHalfFormatted(ctx context.Context, id pool.ID) error {
	v, err := d.pools.GetVolume(id)
	// What is wrong with it otherwise, package pool finds.
	if err != nil || v.FS != pool.FSNew || v.Thick {
		return nil
	}
	if _, err := d.pools.OpenDevice(ctx, id); err != nil {
		return err
	}
	empty, err := d.pools.Prezeroed(id)
	if err == nil && !empty {
		err = fmt.Errorf("copy %s: %w: its first format has not ended; it does when the volume is staged again", id, pool.ErrAborted)
	}
	return err
}

func parseIDs(field string, texts []string) ([]pool.ID, error) {
	var ids []pool.ID
	for _, text := range texts {
		id, err := parseID(field, text)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}
