package router

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// object is what a request is about.
type object struct {
	kind  string // for people
	field string // of the request that holds id
	id    string
}

func volume(id string) object   { return object{"volume", "volume_id", id} }
func snapshot(id string) object { return object{"snapshot", "snapshot_id", id} }

func (o object) String() string {
	if o.id == "" {
		return o.kind
	}
	return fmt.Sprintf("%s %.200s", o.kind, o.id)
}

// vgUUID is the form that id_write_format() in lvm2's lib/uuid/uuid.c prints.
var vgUUID = regexp.MustCompile(`^[A-Za-z0-9]{6}(-[A-Za-z0-9]{4}){5}-[A-Za-z0-9]{6}$`)

// splitID takes an id apart: <VG UUID>/<LV name>. The name's form is the agents'
// business.
func splitID(id string) (vg, lv string, ok bool) {
	vg, lv, ok = strings.Cut(id, "/")
	return vg, lv, ok && lv != "" && vgUUID.MatchString(vg)
}

// vgOf is the volume group of an object. An id of another form was never given
// out, so nothing has it: NotFound, as an agent answers.
func (o object) vgOf() (string, error) {
	if o.id == "" {
		return "", status.Errorf(codes.InvalidArgument, "%s is missing", o.field)
	}
	vg, _, ok := splitID(o.id)
	if !ok {
		return "", status.Errorf(codes.NotFound, "%s %.80q is not <VG UUID>/<LV name>", o.field, o.id)
	}
	return vg, nil
}

// target is the node that a request goes to.
type target struct {
	router *Router
	about  object
	node   string
	conn   *grpc.ClientConn
}

// find is where an object lies, for calls that change nothing.
func (r *Router) find(o object) (target, error) {
	vg, err := o.vgOf()
	if err != nil {
		return target{}, err
	}
	node, ok := r.fleet.NodeOf(vg)
	if !ok {
		text := fmt.Sprintf("%s: no linked node has volume group %s", o, vg)
		if hint := r.config.NodeHint(o.id); hint != "" {
			text += "; it was on node " + hint
		}
		return target{}, status.Error(codes.Unavailable, text)
	}
	return r.on(node, o)
}

// on is the node of that name, if it has a link.
func (r *Router) on(node string, o object) (target, error) {
	conn, err := r.fleet.Conn(node)
	if err != nil {
		return target{}, status.Errorf(codes.Unavailable, "%s: node %s cannot be reached: %v", o, node, err)
	}
	return target{r, o, node, conn}, nil
}

// findToChange is where an object lies, for calls that change something.
func (r *Router) findToChange(o object) (target, error) {
	t, err := r.find(o)
	if err == nil {
		vg, _, _ := splitID(o.id)
		err = r.refuseDouble(o, vg)
	}
	return t, err
}

// refuseDouble refuses a change in a volume group that two nodes show: which of
// them has what the caller means, only a person knows.
func (r *Router) refuseDouble(o object, vg string) error {
	nodes := r.fleet.ShownBy(vg)
	if len(nodes) < 2 {
		return nil
	}
	return status.Errorf(codes.FailedPrecondition, "%s: nodes %s show volume group %s at the same time (a shared disk, or a copy of one): nothing is changed in it until only one does",
		o, strings.Join(nodes, " and "), vg)
}

// findToDelete is findToChange for calls that succeed when there is nothing: gone
// says so.
func (r *Router) findToDelete(o object) (t target, gone bool, err error) {
	t, err = r.findToChange(o)
	switch status.Code(err) {
	case codes.NotFound:
		return target{}, true, nil
	case codes.Unavailable:
		if r.config.Forgotten(o.id) {
			r.log.Warn("given up together with its node: reported as deleted, nothing was touched", "kind", o.kind, "id", o.id)
			return target{}, true, nil
		}
	}
	return t, false, err
}

// controller is the node's CSI controller service.
func (t target) controller() csi.ControllerClient { return csi.NewControllerClient(t.conn) }

// groups is the node's CSI group controller service.
func (t target) groups() csi.GroupControllerClient { return csi.NewGroupControllerClient(t.conn) }

// send makes a call to the node.
func send[Q, A any](ctx context.Context, t target, call func(context.Context, Q, ...grpc.CallOption) (A, error), req Q) (A, error) {
	start := time.Now()
	resp, err := call(ctx, req)
	err = t.explain(ctx, err)
	method, _ := grpc.Method(ctx)
	t.router.metrics.nodes.WithLabelValues(path.Base(method), status.Code(err).String()).Observe(time.Since(start).Seconds())
	return resp, err
}

// explain adds the node's name to an error, and what the call was about where the
// error does not say.
func (t target) explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	p := status.Convert(err).Proto()
	if codes.Code(p.Code) == codes.Canceled && ctx.Err() == nil {
		// Not the caller's doing. What became of the call is not known.
		p.Code, p.Message = int32(codes.Unavailable), "the link ended during the call: "+p.Message
	}
	if !strings.Contains(p.Message, t.about.id) {
		p.Message = t.about.String() + ": " + p.Message
	}
	p.Message = "node " + t.node + ": " + p.Message
	return status.ErrorProto(p)
}
