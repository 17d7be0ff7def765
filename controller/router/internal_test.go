package router

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/node/pool"
)

// Every id that an agent gives out is one that the router can route.
func FuzzSplitID(f *testing.F) {
	const vg = "AAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG"
	for _, s := range []string{"", "/", vg, vg + "/", vg + "/pvc-1", vg + "/a/b", "x/y", vg + "\n/x", "/" + vg} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		vg, lv, ok := splitID(id)
		if ok && vg+"/"+lv != id {
			t.Errorf("%q was split into %q and %q", id, vg, lv)
		}
		if ours, err := pool.ParseID(id); err == nil && (!ok || ours.VG != vg || ours.LV.String() != lv) {
			t.Errorf("%q is an id; split into %q and %q, %v", id, vg, lv, ok)
		}
		_, err := volume(id).vgOf()
		if want := map[bool]codes.Code{true: codes.OK, false: codes.NotFound}[ok]; status.Code(err) != want && id != "" {
			t.Errorf("%q: %v", id, err)
		}
	})
}

func FuzzToken(f *testing.F) {
	for _, s := range []string{"", "/", "a", "a/", "b/x", "b/x/y", "z/x", "\x00/", "invalid-token"} {
		f.Add(s)
	}
	nodes := []string{"a", "b", "b.example"}
	f.Fuzz(func(t *testing.T, token string) {
		first, rest, err := pager{nodes: nodes, token: token}.start()
		node, _, cut := strings.Cut(token, "/")
		switch {
		case token == "":
			if first != 0 || rest != "" || err != nil {
				t.Errorf("no token: %d %q %v", first, rest, err)
			}
		case cut && slices.Contains(nodes, node):
			if err != nil || nodes[first]+"/"+rest != token {
				t.Errorf("%q: %d %q %v", token, first, rest, err)
			}
		case status.Code(err) != codes.Aborted:
			t.Errorf("%q: %d %q %v", token, first, rest, err)
		}
	})
}

// What is remembered stays bounded, and the oldest goes first.
func TestAttempts(t *testing.T) {
	var a attempts
	do := func(name, node string) (before string) {
		t.Helper()
		before, ok := a.begin(name)
		if !ok {
			t.Fatalf("%s is busy", name)
		}
		if _, ok := a.begin(name); ok {
			t.Errorf("%s twice at once", name)
		}
		a.end(name, node)
		return before
	}
	do("settled", "a")
	if got := do("settled", ""); got != "a" {
		t.Errorf("got %q", got)
	}
	if got := do("settled", ""); got != "" {
		t.Errorf("got %q after it was settled", got)
	}
	for i := range maxUncertain + 3 {
		do(fmt.Sprint(i), "a")
	}
	if len(a.uncertain) != maxUncertain || len(a.busy) != 0 {
		t.Errorf("%d names remembered, %d busy", len(a.uncertain), len(a.busy))
	}
	for i, want := range []string{"", "", "", "a"} {
		if got := do(fmt.Sprint(i), ""); got != want {
			t.Errorf("name %d: %q, want %q", i, got, want)
		}
	}
}
