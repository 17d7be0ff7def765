package router_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lamina-csi/lamina/driver/drivertest"
	"github.com/lamina-csi/lamina/node/pool"
)

// pages reads a list to its end, and checks that no page is too long.
func pages(t *testing.T, size int32, get func(size int32, token string) (ids []string, next string, err error)) (all []string) {
	t.Helper()
	for token := ""; ; {
		ids, next, err := get(size, token)
		if err != nil {
			t.Fatal(err)
		}
		if size > 0 && len(ids) > int(size) {
			t.Errorf("%d entries on a page of %d", len(ids), size)
		}
		all = append(all, ids...)
		if next == "" {
			slices.Sort(all)
			return all
		}
		token = next
	}
}

func (k *controller) volumePage(t *testing.T) func(int32, string) ([]string, string, error) {
	return func(size int32, token string) (ids []string, next string, err error) {
		resp, err := k.ListVolumes(t.Context(), &csi.ListVolumesRequest{MaxEntries: size, StartingToken: token})
		for _, e := range resp.GetEntries() {
			ids = append(ids, e.GetVolume().GetVolumeId())
		}
		return ids, resp.GetNextToken(), err
	}
}

func (k *controller) snapshotPage(t *testing.T, source string) func(int32, string) ([]string, string, error) {
	return func(size int32, token string) (ids []string, next string, err error) {
		resp, err := k.ListSnapshots(t.Context(), &csi.ListSnapshotsRequest{MaxEntries: size, StartingToken: token, SourceVolumeId: source})
		for _, e := range resp.GetEntries() {
			ids = append(ids, e.GetSnapshot().GetSnapshotId())
		}
		return ids, resp.GetNextToken(), err
	}
}

func TestLists(t *testing.T) {
	c := newCluster(t, "a", "b", "c", "d")
	k := c.start(t)
	var snapshots, ofFirst []string
	first := ""
	for node, n := range map[string]int{"a": 3, "b": 0, "c": 1, "d": 2} {
		for i := range n {
			name := fmt.Sprintf("%s-%d", node, i)
			id := k.create(t, node, request(name, node))
			if first == "" {
				first = id
			}
			for j := range 2 {
				s := k.snapshot(t, fmt.Sprintf("%s-%d", name, j), id)
				snapshots = append(snapshots, s)
				if first == id {
					ofFirst = append(ofFirst, s)
				}
			}
		}
	}
	volumes := c.volumes(t)
	slices.Sort(snapshots)
	slices.Sort(ofFirst)
	for size := range int32(15) {
		equal(t, fmt.Sprintf("volumes by %d", size), volumes, pages(t, size, k.volumePage(t)))
		equal(t, fmt.Sprintf("snapshots by %d", size), snapshots, pages(t, size, k.snapshotPage(t, "")))
		equal(t, fmt.Sprintf("snapshots of one volume by %d", size), ofFirst, pages(t, size, k.snapshotPage(t, first)))
	}
	health, err := k.ControllerListVolumeHealth(t.Context(), &csi.ControllerListVolumeHealthRequest{})
	equal(t, "health", &csi.ControllerListVolumeHealthResponse{}, health)
	equal(t, "health", nil, err)
}

func TestListsBadInput(t *testing.T) {
	c := newCluster(t, "a", "b")
	k := c.start(t)
	id := k.create(t, "b", request("v", "b"))
	for _, token := range []string{"invalid-token", id, "/", "a", "z/", "a/x", "b/invalid", "a/" + id + "/x\x00"} {
		for _, get := range []func(int32, string) ([]string, string, error){k.volumePage(t), k.snapshotPage(t, ""), k.snapshotPage(t, id)} {
			_, _, err := get(0, token)
			wantError(t, err, codes.Aborted, "starting_token")
			_, _, err = get(-1, "")
			wantError(t, err, codes.InvalidArgument, "max_entries")
		}
	}
}

// A volume that is deleted between two pages hides no other.
func TestListsWhileDeleting(t *testing.T) {
	c := newCluster(t, "a", "b")
	k := c.start(t)
	for i := range 6 {
		k.create(t, []string{"a", "b"}[i%2], request(fmt.Sprint(i), []string{"a", "b"}[i%2]))
	}
	get := k.volumePage(t)
	ids, next, err := get(2, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if _, err := k.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
			t.Fatal(err)
		}
	}
	rest := pages(t, 2, func(size int32, token string) ([]string, string, error) {
		if token == "" {
			token = next
		}
		return get(size, token)
	})
	equal(t, "the rest", c.volumes(t), rest)
}

func TestCapacity(t *testing.T) {
	c := newCluster(t, "a", "b")
	big := c.Add(t, "big", drivertest.Spec("fast", pool.Thin), drivertest.Spec("slow", pool.Thick))
	big.Link(t)
	c.node["big"] = big
	k := c.start(t)
	k.create(t, "b", request("v", "b"))
	ask := func(params map[string]string, node string) *csi.GetCapacityResponse {
		t.Helper()
		req := &csi.GetCapacityRequest{Parameters: params}
		if node != "" {
			req.AccessibleTopology = topology(node)
		}
		resp, err := k.GetCapacity(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	fast, slow := map[string]string{"pool": "fast"}, map[string]string{"pool": "slow"}
	a, b, bg := ask(fast, "a"), ask(fast, "b"), ask(fast, "big")
	equal(t, "a volume takes room", a.GetAvailableCapacity()-64*mib, b.GetAvailableCapacity())
	equal(t, "sum", &csi.GetCapacityResponse{
		AvailableCapacity: a.GetAvailableCapacity() + b.GetAvailableCapacity() + bg.GetAvailableCapacity(),
		MaximumVolumeSize: a.GetMaximumVolumeSize(),
		MinimumVolumeSize: a.GetMinimumVolumeSize(),
	}, ask(fast, ""))
	equal(t, "only one has it", ask(slow, "big"), ask(slow, ""))
	nowhere, err := k.GetCapacity(t.Context(), &csi.GetCapacityRequest{AccessibleTopology: &csi.Topology{Segments: map[string]string{"zone": "z"}}})
	equal(t, "not a node", &csi.GetCapacityResponse{MaximumVolumeSize: wrapperspb.Int64(0)}, nowhere)
	equal(t, "not a node", nil, err)
	_, err = k.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: map[string]string{"Pool": "x"}})
	wantError(t, err, codes.InvalidArgument, `"Pool"`)

	k.unlink(t, c.node["a"])
	equal(t, "sum of those with a link", b.GetAvailableCapacity()+bg.GetAvailableCapacity(), ask(fast, "").GetAvailableCapacity())
}
