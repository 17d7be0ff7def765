package router

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/driver/link"
)

// holdWait is how long all nodes together get until they hold their writers. A
// node that holds them waits that long for the others at most.
const holdWait = 5 * time.Second

// part is what lies on one node of a group of snapshots.
type part struct {
	target
	ids []string // of its volumes, or of its snapshots
}

// partsOf sorts what a group consists of by nodes. The first part has the least id
// of all. about is the group.
func partsOf(about object, targets []target) []part {
	targets = slices.Clone(targets)
	slices.SortFunc(targets, func(a, b target) int { return strings.Compare(a.about.id, b.about.id) })
	targets = slices.CompactFunc(targets, func(a, b target) bool { return a.about.id == b.about.id })
	var parts []part
	for _, t := range targets {
		i := slices.IndexFunc(parts, func(p part) bool { return p.node == t.node })
		if i < 0 {
			i = len(parts)
			parts = append(parts, part{target: target{t.router, about, t.node, t.conn}})
		}
		parts[i].ids = append(parts[i].ids, t.about.id)
	}
	return parts
}

// eachPart does the same for all parts at once, and returns the first error.
func eachPart(parts []part, do func(part) error) error {
	var g errgroup.Group
	for _, p := range parts {
		g.Go(func() error { return do(p) })
	}
	return g.Wait()
}

// across makes a group of snapshots whose volumes lie on several nodes. All nodes
// hold their writers before the first one snapshots anything, and each node says
// of its snapshots that it held its writers until the last one was made: so there
// is a moment at which all writers were held, and the snapshots show that moment.
//
// Snapshots that are made are not ready. The first part's becoming ready is what
// decides that the group is made: it becomes ready before any other part does, and
// before it, what was made can be removed at any time. After it, what is not ready
// yet is made ready by whoever repeats the call, and never removed. The nodes' LVM
// metadata holds all of that; the controller may end at any point.
type across struct {
	req     *csi.CreateVolumeGroupSnapshotRequest
	parts   []part
	instant string // of this attempt
}

func (r *Router) createAcross(ctx context.Context, req *csi.CreateVolumeGroupSnapshotRequest, parts []part) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	free, err := r.claims.take(req.GetName(), parts)
	if err != nil {
		return nil, err
	}
	defer free()
	a := &across{req, parts, rand.Text()}
	instant, err := a.prepare(ctx)
	if err == nil && instant == "" {
		instant, err = a.instant, a.snapshot(ctx)
	}
	if err != nil {
		return nil, err
	}
	group, err := a.commit(ctx, instant)
	if err != nil {
		return nil, err
	}
	return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: group}, nil
}

// prepare has what earlier attempts left removed, the first part's first. If that
// one is ready, nothing is removed, and the group is that of the instant.
func (a *across) prepare(ctx context.Context) (instant string, err error) {
	prepare := func(p part) (string, error) {
		resp, err := send(ctx, p.target, link.NewPoolsClient(p.conn).PrepareGroup, &link.PrepareGroupRequest{Part: a.wire(p)})
		return resp.GetReadyInstant(), err
	}
	if instant, err = prepare(a.parts[0]); err != nil || instant != "" {
		return instant, err
	}
	return "", eachPart(a.parts[1:], func(p part) error {
		ready, err := prepare(p)
		if err == nil && ready != "" {
			err = a.halved(p, a.parts[0])
		}
		return err
	})
}

// snapshot has all nodes hold their writers, and then snapshot their volumes. Each
// node lets its writers go when it has its snapshots.
func (a *across) snapshot(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil) // lets go who is held still
	late := time.AfterFunc(holdWait, func() {
		cancel(status.Errorf(codes.Aborted, "group snapshot %.80q: not all nodes held their writers within %s", a.req.GetName(), holdWait))
	})
	_ = eachPart(a.parts, func(p part) error {
		if err := a.hold(ctx, p); err != nil {
			cancel(err) // the others are held in vain
		}
		return nil
	})
	late.Stop()
	if err := context.Cause(ctx); err != nil {
		if _, ok := status.FromError(err); !ok {
			err = status.FromContextError(err).Err()
		}
		return err
	}
	return eachPart(a.parts, func(p part) error {
		_, err := a.create(ctx, p, link.SnapshotKey, a.instant)
		return err
	})
}

// hold returns when the node holds its writers. It does so while ctx lasts.
func (a *across) hold(ctx context.Context, p part) error {
	stream, err := link.NewPoolsClient(p.conn).HoldGroup(ctx, &link.HoldGroupRequest{Part: a.wire(p)})
	if err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		err = status.Error(codes.Aborted, "it let its writers go at once")
	}
	return p.explain(ctx, err)
}

// commit makes the snapshots of all parts ready, those of the first part first.
func (a *across) commit(ctx context.Context, instant string) (*csi.VolumeGroupSnapshot, error) {
	head, err := a.create(ctx, a.parts[0], link.CommitKey, instant)
	if status.Code(err) == codes.NotFound {
		// Another attempt has removed them: this one is void.
		err = status.Error(codes.Aborted, status.Convert(err).Message())
	}
	if err != nil {
		return nil, err
	}
	var all merged
	if err := all.add(a.parts[0].target, head); err != nil {
		return nil, err
	}
	err = eachPart(a.parts[1:], func(p part) error {
		group, err := a.create(ctx, p, link.CommitKey, instant)
		if status.Code(err) == codes.NotFound {
			err = a.halved(a.parts[0], p)
		}
		if err == nil {
			err = all.add(p.target, group)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return all.group(), nil
}

// halved is an error about a group of which one part is ready and another part is
// gone: somebody is deleting it, or it is of other volumes.
func (a *across) halved(ready, gone part) error {
	return status.Errorf(codes.AlreadyExists, "group snapshot %.80q: node %s has snapshots of it that are ready, and node %s has not those that belong to them: it is of other volumes, or half deleted",
		a.req.GetName(), ready.node, gone.node)
}

func (a *across) wire(p part) *link.GroupPart {
	total := 0
	for _, p := range a.parts {
		total += len(p.ids)
	}
	return &link.GroupPart{
		Name: a.req.GetName(), SourceVolumeIds: p.ids, FirstSourceVolumeId: a.parts[0].ids[0], Total: int32(total), Instant: a.instant,
	}
}

// create does a step of making a part.
func (a *across) create(ctx context.Context, p part, key, instant string) (*csi.VolumeGroupSnapshot, error) {
	resp, err := send(metadata.AppendToOutgoingContext(ctx, key, instant), p.target, p.groups().CreateVolumeGroupSnapshot, &csi.CreateVolumeGroupSnapshotRequest{
		Name: a.req.GetName(), SourceVolumeIds: p.ids, Parameters: a.req.GetParameters(), Secrets: a.req.GetSecrets(),
	})
	if err == nil && key == link.CommitKey { // before that it has no group to tell of
		err = p.checkGroup(resp.GetGroupSnapshot(), p.ids)
	}
	if err != nil {
		return nil, err
	}
	return resp.GetGroupSnapshot(), nil
}

// merged collects what the nodes say of their parts.
type merged struct {
	mu    sync.Mutex
	parts []*csi.VolumeGroupSnapshot
}

// add takes over what a node says; all must speak of one group.
func (m *merged) add(t target, g *csi.VolumeGroupSnapshot) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.parts) > 0 && m.parts[0].GetGroupSnapshotId() != g.GetGroupSnapshotId() {
		return t.wrong("group snapshot %s, and another node says %s", g.GetGroupSnapshotId(), m.parts[0].GetGroupSnapshotId())
	}
	m.parts = append(m.parts, g)
	return nil
}

// group is the whole. It was taken when its last snapshot was made.
func (m *merged) group() *csi.VolumeGroupSnapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := &csi.VolumeGroupSnapshot{ReadyToUse: true}
	for _, g := range m.parts {
		all.GroupSnapshotId = g.GetGroupSnapshotId() // they have the same
		all.Snapshots = append(all.Snapshots, g.GetSnapshots()...)
		all.ReadyToUse = all.ReadyToUse && g.GetReadyToUse()
		if all.CreationTime.AsTime().Before(g.GetCreationTime().AsTime()) {
			all.CreationTime = g.GetCreationTime()
		}
	}
	slices.SortFunc(all.Snapshots, func(a, b *csi.Snapshot) int { return strings.Compare(a.GetSourceVolumeId(), b.GetSourceVolumeId()) })
	return all
}

// claims are the volumes of the groups that are being made across nodes, and by
// which. Two groups that share volumes could otherwise each hold writers on one
// node and wait for those on another.
type claims struct {
	mu sync.Mutex
	by map[string]string
}

// take claims the volumes of all parts, or none.
func (c *claims) take(group string, parts []part) (free func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for _, p := range parts {
		ids = append(ids, p.ids...)
	}
	for _, id := range ids {
		if by, busy := c.by[id]; busy {
			return nil, status.Errorf(codes.Aborted, "group snapshot %.80q: volume %s is being snapshotted with group %.80q", group, id, by)
		}
	}
	if c.by == nil {
		c.by = map[string]string{}
	}
	for _, id := range ids {
		c.by[id] = group
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, id := range ids {
			delete(c.by, id)
		}
	}, nil
}
