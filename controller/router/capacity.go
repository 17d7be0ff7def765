package router

import (
	"context"
	"math"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lamina-csi/lamina/driver/link"
)

// GetCapacity implements csi.ControllerServer. Without a topology it is the sum
// over the nodes that can be reached now: no volume can be made on any other.
func (r *Router) GetCapacity(ctx context.Context, req *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	about := object{kind: "capacity"}
	if req.GetAccessibleTopology() == nil {
		return r.totalCapacity(ctx, about, req)
	}
	node := req.GetAccessibleTopology().GetSegments()[link.TopologyKey]
	if node == "" {
		return &csi.GetCapacityResponse{MaximumVolumeSize: wrapperspb.Int64(0)}, nil
	}
	t, err := r.on(node, about)
	if err != nil {
		return nil, err
	}
	return send(ctx, t, t.controller().GetCapacity, req)
}

func (r *Router) totalCapacity(ctx context.Context, about object, req *csi.GetCapacityRequest) (*csi.GetCapacityResponse, error) {
	nodes := r.fleet.Nodes()
	answers, errs := make([]*csi.GetCapacityResponse, len(nodes)), make([]error, len(nodes))
	eachNode(nodes, func(i int, node string) {
		t, err := r.on(node, about)
		if err == nil {
			answers[i], err = send(ctx, t, t.controller().GetCapacity, req)
		}
		errs[i] = err
	})
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	total := &csi.GetCapacityResponse{}
	silent := status.Error(codes.Unavailable, "capacity: no node has a link to this controller")
	for i, err := range errs {
		switch status.Code(err) {
		case codes.OK:
			silent = nil
			addCapacity(total, answers[i])
		case codes.Unavailable:
			if silent != nil {
				silent = err
			}
		default:
			return nil, err
		}
	}
	return total, silent
}

// addCapacity adds a node's. A single volume is as large as the largest and as
// small as the smallest of any node.
func addCapacity(total, node *csi.GetCapacityResponse) {
	total.AvailableCapacity += min(max(0, node.GetAvailableCapacity()), math.MaxInt64-total.AvailableCapacity)
	if m := node.GetMaximumVolumeSize(); m != nil && (total.MaximumVolumeSize == nil || m.GetValue() > total.GetMaximumVolumeSize().GetValue()) {
		total.MaximumVolumeSize = m
	}
	if m := node.GetMinimumVolumeSize(); m != nil && (total.MinimumVolumeSize == nil || m.GetValue() < total.GetMinimumVolumeSize().GetValue()) {
		total.MinimumVolumeSize = m
	}
}
