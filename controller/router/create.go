package router

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// CreateVolume implements csi.ControllerServer.
//
// One name must give one volume, on one node, however often and with whatever
// interruptions the call is repeated. With one possible node (late binding, or a
// content source) the node sees to that itself. With several:
//
//   - A second call for a name while the first is under way is Aborted.
//   - A node that was asked and gave no certain answer is asked first the next
//     time, and no other one before it has answered. The router remembers which.
//   - What an earlier controller has begun, this one does not remember. So, unless
//     the name is fresh, all possible nodes are asked first whether they have the
//     volume; those that
//     cannot say are waited for while the router is younger than Config.Settle.
//     After that they are passed over: a node that stays away must not keep volumes
//     from all others. The worst that comes of it is an empty volume that nobody
//     knows of.
//
// Only a node that says that it has no room (ResourceExhausted) lets the next one
// be tried.
func (r *Router) CreateVolume(ctx context.Context, req *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if req.GetName() == "" {
		return nil, errNoName
	}
	about := object{"volume", "name", req.GetName()}
	asked, ok := r.attempts.begin(req.GetName())
	if !ok {
		return nil, status.Errorf(codes.Aborted, "%s: an earlier call to create it has not ended", about)
	}
	c := &creation{router: r, req: req, about: about, asked: asked}
	defer func() { r.attempts.end(req.GetName(), c.asked) }()
	return c.run(ctx)
}

// creation is one CreateVolume call.
type creation struct {
	router *Router
	req    *csi.CreateVolumeRequest
	about  object
	// asked is the node that may have the volume without our knowing; "": none.
	asked string
}

func (c *creation) run(ctx context.Context) (*csi.CreateVolumeResponse, error) {
	nodes, err := c.candidates()
	if err != nil {
		return nil, err
	}
	at := slices.Index(nodes, c.asked)
	switch {
	case at >= 0:
		nodes = slices.Insert(slices.Delete(nodes, at, at+1), 0, c.asked)
	case c.asked != "":
		// The caller has been told so by somebody who knows more, such as that the node
		// was removed.
		c.router.log.Warn("a volume that was being created on one node is to be created on others now; if the first comes back, it may have one that nobody knows of",
			"volume", c.about.id, "node", c.asked, "now", nodes)
		c.asked = ""
	}
	if c.asked == "" && len(nodes) > 1 && !c.fresh() {
		if nodes, err = c.holder(ctx, nodes); err != nil {
			return nil, err
		}
	}
	return c.try(ctx, nodes)
}

// fresh reports whether no node can have the volume but one that the attempts
// remember.
func (c *creation) fresh() bool {
	fresh := c.router.config.Fresh
	return fresh != nil && fresh(c.req.GetName()) && c.router.attempts.complete()
}

// try asks one node after the other until one has given a volume or a reason that
// holds for all.
func (c *creation) try(ctx context.Context, nodes []string) (*csi.CreateVolumeResponse, error) {
	var away []string
	var full error
	for _, node := range nodes {
		t, err := c.router.on(node, c.about)
		if err != nil && node == c.asked {
			return nil, status.Errorf(codes.Unavailable, "%v; an earlier call may have created it there", status.Convert(err).Message())
		}
		if err != nil {
			away = append(away, node)
			continue
		}
		if err := c.refuseDouble(node); err != nil {
			if node == c.asked {
				return nil, err
			}
			full = err
			continue
		}
		resp, err := send(ctx, t, t.controller().CreateVolume, c.req)
		if err == nil {
			if err = c.checkCreated(t, resp.GetVolume()); err != nil {
				resp = nil
			}
		}
		if certain(status.Code(err)) {
			c.asked = ""
		} else {
			c.asked = node
		}
		if status.Code(err) != codes.ResourceExhausted {
			return resp, err
		}
		full = err
	}
	if len(away) == 0 {
		return nil, full
	}
	// Not ResourceExhausted: the caller would look elsewhere, for what a node that is
	// away may well have room for.
	text := "cannot be reached"
	if full != nil {
		text += ", and " + status.Convert(full).Message()
	}
	return nil, status.Errorf(codes.Unavailable, "%s: %s %s", c.about, nodeList(away), text)
}

// certain reports whether a node that answers so has no volume that the caller
// does not know of. Any other code may come with a volume, or before one.
func certain(code codes.Code) bool {
	switch code {
	case codes.OK, codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.ResourceExhausted,
		codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented, codes.PermissionDenied, codes.Unauthenticated:
		return true
	}
	return false
}

// refuseDouble refuses a node whose pool lies in a volume group that another node
// shows too.
func (c *creation) refuseDouble(node string) error {
	pools, _ := c.router.fleet.Status(node)
	for _, p := range pools {
		if named := c.pool(); named != "" && p.GetName() != named {
			continue
		}
		if err := c.router.refuseDouble(c.about, p.GetVgUuid()); err != nil {
			return err
		}
	}
	return nil
}

// lookTimeout bounds the question to one node whether it has a volume.
const lookTimeout = 5 * time.Second

// holder asks the nodes which of them has the volume already, and returns that
// one alone, or all.
func (c *creation) holder(ctx context.Context, nodes []string) ([]string, error) {
	answers := make([]codes.Code, len(nodes))
	eachNode(nodes, func(i int, node string) { answers[i] = c.look(ctx, node) })
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	if i := slices.Index(answers, codes.OK); i >= 0 {
		return nodes[i : i+1], nil
	}
	var silent []string
	for i, node := range nodes {
		if answers[i] != codes.NotFound {
			silent = append(silent, node)
		}
	}
	if len(silent) > 0 && time.Now().Before(c.router.settled) {
		return nil, status.Errorf(codes.Unavailable, "%s: %s cannot say yet whether an earlier controller has begun to create it there", c.about, nodeList(silent))
	}
	return nodes, nil
}

// look asks a node whether it has the volume: OK, NotFound, or anything else where
// it cannot say.
func (c *creation) look(ctx context.Context, node string) codes.Code {
	t, err := c.router.on(node, c.about)
	if err != nil {
		return codes.Unavailable
	}
	pools, _ := c.router.fleet.Status(node)
	if pools == nil {
		return codes.Unavailable
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	for _, p := range pools { // a name is unique on a node, whatever its pool
		if p.GetVgUuid() == "" {
			continue
		}
		id := p.GetVgUuid() + "/" + volumeLV(c.req.GetName())
		_, err := send(ctx, t, t.controller().ControllerGetVolume, &csi.ControllerGetVolumeRequest{VolumeId: id})
		if status.Code(err) != codes.NotFound {
			return status.Code(err)
		}
	}
	return codes.NotFound
}

// nodeList names nodes, not all if they are many.
func nodeList(nodes []string) string {
	const enough = 5
	switch {
	case len(nodes) == 1:
		return "node " + nodes[0]
	case len(nodes) > enough:
		return "nodes " + strings.Join(nodes[:enough], ", ") + " and others"
	}
	return "nodes " + strings.Join(nodes, ", ")
}
