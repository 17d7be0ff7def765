package router

import (
	"context"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// A list of all nodes is the nodes' lists one after the other, by name. A token is
// "<node>/<token of that node's agent>".
//
// A list without the volumes of a node that is away would look complete, and who
// compares it with something else would take those volumes for lost. So every node
// that the fleet knows must have a link, or the call is Unavailable. What changes
// between pages may be missed, as CSI allows.

// Bounds of one page, whatever the caller allows: an answer stays below gRPC's
// default limit of 4 MiB, and a call asks a bounded number of nodes. A page may be
// short of max_entries and still have a next_token.
const (
	pageEntries = 10_000
	pageNodes   = 500
)

// pager is a request for a page.
type pager struct {
	router *Router
	what   object
	nodes  []string // sorted
	max    int32
	token  string
}

// everywhere is a pager over all nodes.
func (r *Router) everywhere(what string, maxEntries int32, token string) pager {
	return pager{router: r, what: object{kind: "list of " + what}, nodes: r.fleet.Nodes(), max: maxEntries, token: token}
}

// list collects a page. fetch asks one node for at most max entries.
func list[E any](ctx context.Context, p pager, fetch func(ctx context.Context, t target, max int32, token string) ([]E, string, error)) (entries []E, next string, err error) {
	first, token, err := p.start()
	if err != nil {
		return nil, "", err
	}
	limit := pageEntries
	if p.max > 0 {
		limit = min(limit, int(p.max))
	}
	for i := first; i < len(p.nodes); i++ {
		node := p.nodes[i]
		if len(entries) >= limit || i-first == pageNodes {
			return entries, node + "/", nil
		}
		t, err := p.router.on(node, p.what)
		if err != nil {
			return nil, "", err
		}
		part, more, err := fetch(ctx, t, int32(limit-len(entries)), token)
		if err == nil && len(part) > limit-len(entries) {
			err = t.wrong("%d entries, at most %d were asked for", len(part), limit-len(entries))
		}
		if err != nil {
			return nil, "", err
		}
		entries, token = append(entries, part...), ""
		if more != "" {
			return entries, node + "/" + more, nil
		}
	}
	return entries, "", nil
}

// start checks the request and finds the node to begin with.
func (p pager) start() (first int, token string, err error) {
	if p.max < 0 {
		return 0, "", status.Errorf(codes.InvalidArgument, "max_entries %d is negative", p.max)
	}
	if p.token != "" {
		node, rest, ok := strings.Cut(p.token, "/")
		if first, ok2 := slices.BinarySearch(p.nodes, node); ok && ok2 {
			return first, rest, nil
		}
		return 0, "", status.Errorf(codes.Aborted, "starting_token %.200q is not one of ours, or its node is gone; start again without a token", p.token)
	}
	return 0, "", nil
}

// complete refuses a list that would lack nodes.
func (p pager) complete() error {
	if away := p.router.fleet.Away(); len(away) > 0 {
		return status.Errorf(codes.Unavailable, "%s: %s cannot be reached, and the list would lack what is there", p.what.kind, nodeList(away))
	}
	if len(p.nodes) == 0 {
		return status.Errorf(codes.Unavailable, "%s: no node has a link to this controller", p.what.kind)
	}
	return nil
}

// ListVolumes implements csi.ControllerServer.
func (r *Router) ListVolumes(ctx context.Context, req *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	p := r.everywhere("volumes", req.GetMaxEntries(), req.GetStartingToken())
	if err := p.complete(); err != nil {
		return nil, err
	}
	entries, next, err := list(ctx, p, func(ctx context.Context, t target, n int32, token string) ([]*csi.ListVolumesResponse_Entry, string, error) {
		part := proto.CloneOf(req)
		part.MaxEntries, part.StartingToken = n, token
		resp, err := send(ctx, t, t.controller().ListVolumes, part)
		for _, e := range resp.GetEntries() {
			if err == nil {
				err = t.checkVolume(e.GetVolume(), "")
			}
		}
		return resp.GetEntries(), resp.GetNextToken(), err
	})
	return &csi.ListVolumesResponse{Entries: entries, NextToken: next}, err
}

// ControllerListVolumeHealth implements csi.ControllerServer. A node that is away
// makes it Unavailable too: an entry that is missing would say that a volume is
// well again.
func (r *Router) ControllerListVolumeHealth(ctx context.Context, req *csi.ControllerListVolumeHealthRequest) (*csi.ControllerListVolumeHealthResponse, error) {
	p := r.everywhere("volumes' health", req.GetMaxEntries(), req.GetStartingToken())
	if err := p.complete(); err != nil {
		return nil, err
	}
	entries, next, err := list(ctx, p, func(ctx context.Context, t target, n int32, token string) ([]*csi.VolumeHealth, string, error) {
		part := proto.CloneOf(req)
		part.MaxEntries, part.StartingToken = n, token
		resp, err := send(ctx, t, t.controller().ControllerListVolumeHealth, part)
		for _, e := range resp.GetEntries() {
			if err == nil && !t.hasID(e.GetVolumeId()) {
				err = t.wrong("volume %.80q is not the node's", e.GetVolumeId())
			}
		}
		return resp.GetEntries(), resp.GetNextToken(), err
	})
	return &csi.ControllerListVolumeHealthResponse{Entries: entries, NextToken: next}, err
}

// ListSnapshots implements csi.ControllerServer. A snapshot lies in the volume
// group of its source: with either id, one node is asked.
func (r *Router) ListSnapshots(ctx context.Context, req *csi.ListSnapshotsRequest) (*csi.ListSnapshotsResponse, error) {
	p := r.everywhere("snapshots", req.GetMaxEntries(), req.GetStartingToken())
	switch {
	case req.GetSnapshotId() != "":
		p.what = snapshot(req.GetSnapshotId())
	case req.GetSourceVolumeId() != "":
		p.what = object{"volume", "source_volume_id", req.GetSourceVolumeId()}
	}
	if p.what.id == "" {
		if err := p.complete(); err != nil {
			return nil, err
		}
	} else {
		t, err := r.find(p.what)
		if status.Code(err) == codes.NotFound {
			return &csi.ListSnapshotsResponse{}, nil
		}
		if err != nil {
			return nil, err
		}
		p.nodes = []string{t.node}
	}
	entries, next, err := list(ctx, p, func(ctx context.Context, t target, n int32, token string) ([]*csi.ListSnapshotsResponse_Entry, string, error) {
		part := proto.CloneOf(req)
		part.MaxEntries, part.StartingToken = n, token
		resp, err := send(ctx, t, t.controller().ListSnapshots, part)
		for _, e := range resp.GetEntries() {
			if err == nil {
				err = t.checkSnapshot(e.GetSnapshot(), req.GetSnapshotId(), req.GetSourceVolumeId())
			}
		}
		return resp.GetEntries(), resp.GetNextToken(), err
	})
	return &csi.ListSnapshotsResponse{Entries: entries, NextToken: next}, err
}
