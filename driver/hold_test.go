package driver_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/pool"
)

// held is a node with two volumes that are mounted and open.
type held struct {
	node
	ids, paths []string
	part       *link.GroupPart
}

func newHeld(t *testing.T) *held {
	t.Helper()
	h := &held{node: thin(t)}
	for _, name := range []string{"a", "b"} {
		id := h.create(t, request(name)).GetVolumeId()
		path, err := h.stage(t, id, mounted(writer, ""), nil)
		if err != nil {
			t.Fatal(err)
		}
		volume, err := pool.ParseID(id)
		if err != nil {
			t.Fatal(err)
		}
		device, err := h.Pools.ActiveDevice(volume)
		if err == nil {
			err = h.Host.Open(device) // as a mount does
		}
		if err != nil {
			t.Fatal(err)
		}
		h.ids, h.paths = append(h.ids, id), append(h.paths, path)
	}
	slices.Sort(h.ids)
	slices.Sort(h.paths)
	h.part = &link.GroupPart{Name: "g", SourceVolumeIds: h.ids, FirstSourceVolumeId: h.ids[0], Total: 3, Instant: "x"}
	return h
}

// serve serves the node's driver on a link too, until stop.
func (h *held) serve(t *testing.T) (conn *grpc.ClientConn, stop func() error) {
	t.Helper()
	pipe := bufconn.Listen(1 << 16)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Driver.Serve(ctx, pipe) }()
	conn, err := grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, func() error {
		cancel()
		return <-ended
	}
}

// hold begins a hold, and returns when the writers are held.
func (h *held) hold(t *testing.T, conn *grpc.ClientConn) (grpc.ServerStreamingClient[link.HoldGroupResponse], context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := link.NewPoolsClient(conn).HoldGroup(ctx, &link.HoldGroupRequest{Part: h.part})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(h.paths, h.System.Frozen()); diff != "" {
		t.Fatalf("frozen (-want +got):\n%s", diff)
	}
	return stream, cancel
}

func (h *held) step(t *testing.T, conn *grpc.ClientConn, key, instant string) (*csi.VolumeGroupSnapshot, error) {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(t.Context(), key, instant)
	resp, err := csi.NewGroupControllerClient(conn).CreateVolumeGroupSnapshot(ctx, &csi.CreateVolumeGroupSnapshotRequest{Name: "g", SourceVolumeIds: h.ids})
	return resp.GetGroupSnapshot(), err
}

func TestHoldGroup(t *testing.T) {
	h := newHeld(t)
	conn, stop := h.serve(t)
	prepare := func() string {
		resp, err := link.NewPoolsClient(conn).PrepareGroup(t.Context(), &link.PrepareGroupRequest{Part: h.part})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetReadyInstant()
	}
	if instant := prepare(); instant != "" {
		t.Errorf("ready: %q", instant)
	}
	_, err := h.step(t, conn, link.SnapshotKey, "x")
	wantError(t, err, codes.Aborted, "held")
	_, release := h.hold(t, conn)
	_, err = h.step(t, conn, link.SnapshotKey, "y")
	wantError(t, err, codes.Aborted, "held")

	// What would unmount a frozen file system waits.
	h.System.Commands()
	unstaged := make(chan error, 1)
	go func() {
		_, err := h.NodeUnstageVolume(t.Context(), &csi.NodeUnstageVolumeRequest{VolumeId: h.ids[0], StagingTargetPath: h.paths[0]})
		unstaged <- err
	}()
	if g, err := h.step(t, conn, link.SnapshotKey, "x"); err != nil || g.GetReadyToUse() {
		t.Fatalf("%v, %v", g, err)
	}
	list, err := h.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{})
	if err != nil || len(list.GetEntries()) > 0 {
		t.Errorf("listed: %v, %v", list, err)
	}
	release()
	if err := <-unstaged; err != nil {
		t.Error(err)
	}
	var order []string
	for _, c := range h.System.Commands() {
		if c.Name == "thaw" || c.Name == "umount" {
			order = append(order, c.Name)
		}
	}
	if diff := cmp.Diff([]string{"thaw", "thaw", "umount"}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}

	g, err := h.step(t, conn, link.CommitKey, "x")
	if err != nil || !g.GetReadyToUse() || len(g.GetSnapshots()) != 2 {
		t.Fatalf("%v, %v", g, err)
	}
	if instant := prepare(); instant != "x" {
		t.Errorf("ready: %q", instant)
	}
	_, err = h.step(t, conn, link.CommitKey, "y")
	wantError(t, err, codes.NotFound, `"y"`)
	for total, code := range map[string]codes.Code{"3": codes.OK, "2": codes.InvalidArgument, "x": codes.InvalidArgument, "1": codes.InvalidArgument} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), link.TotalKey, total)
		_, err := csi.NewGroupControllerClient(conn).GetVolumeGroupSnapshot(ctx, &csi.GetVolumeGroupSnapshotRequest{
			GroupSnapshotId: g.GetGroupSnapshotId(), SnapshotIds: []string{g.GetSnapshots()[0].GetSnapshotId(), g.GetSnapshots()[1].GetSnapshotId()}})
		wantError(t, err, code)
	}
	if err := errors.Join(conn.Close(), stop()); err != nil {
		t.Error(err)
	}
}

// An agent that stops lets the writers go first, and does not wait for the
// controller.
func TestStopWhileHeld(t *testing.T) {
	h := newHeld(t)
	conn, stop := h.serve(t)
	stream, release := h.hold(t, conn)
	defer release()
	if err := stop(); err != nil {
		t.Error(err)
	}
	_, err := stream.Recv()
	wantError(t, err, codes.Unavailable, "stops")
	if frozen := h.System.Frozen(); len(frozen) > 0 {
		t.Errorf("frozen: %v", frozen)
	}
}

// A link that is lost lets the writers go.
func TestLinkLostWhileHeld(t *testing.T) {
	h := newHeld(t)
	thawed := make(chan struct{}, 2)
	h.System.After = func(c mount.Command) error {
		if c.Name == "thaw" {
			thawed <- struct{}{}
		}
		return nil
	}
	conn, stop := h.serve(t)
	_, release := h.hold(t, conn)
	defer release()
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	<-thawed
	<-thawed
	if err := stop(); err != nil { // after the handler
		t.Error(err)
	}
	if frozen := h.System.Frozen(); len(frozen) > 0 {
		t.Errorf("frozen: %v", frozen)
	}
	if strings.Contains(h.Log.String(), "at most") {
		t.Error("they were held to the limit")
	}
}
