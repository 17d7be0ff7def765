package orphan

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"

	"github.com/lamina-csi/lamina/controller/fleettest"
)

// endless is an agent that lists volumes without end.
type endless struct {
	csi.UnimplementedControllerServer
	calls int
	page  int // volumes on a page
}

func (e *endless) ListVolumes(context.Context, *csi.ListVolumesRequest) (*csi.ListVolumesResponse, error) {
	e.calls++
	resp := &csi.ListVolumesResponse{NextToken: "more"}
	for i := range e.page {
		resp.Entries = append(resp.Entries, &csi.ListVolumesResponse_Entry{Volume: &csi.Volume{VolumeId: fmt.Sprint(e.calls, "/", i)}})
	}
	return resp, nil
}

// A node that never comes to an end is given up before it fills the memory.
func TestEndlessList(t *testing.T) {
	for _, page := range []int{0, 1, 1000, 20_000} {
		e := &endless{page: page}
		s := grpc.NewServer()
		csi.RegisterControllerServer(s, e)
		links := fleettest.NewLinks(t)
		links.Up(t, "b", s)
		conn, err := links.Conn("b")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := list(t.Context(), conn); err == nil || !strings.Contains(err.Error(), "more than") {
			t.Errorf("pages of %d: %v", page, err)
		}
		if e.calls > 51 || e.calls*page > 100_000 {
			t.Errorf("pages of %d: %d calls", page, e.calls)
		}
	}
}
