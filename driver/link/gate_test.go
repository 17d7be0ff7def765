package link

import (
	"net"
	"testing"
)

// The bounds at the door, and that they are given back.
func TestGate(t *testing.T) {
	g := gate{max: 5, maxPerSource: 2}
	from := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	var leaves []func()
	for _, c := range []struct {
		from net.Addr
		want bool
	}{
		{from("10.0.0.1"), true},
		{from("::ffff:10.0.0.1"), true}, // the same
		{from("10.0.0.1"), false},
		{from("10.0.0.2"), true},
		{from("2001:db8::1"), true},
		{from("2001:db8::2"), true}, // of the same /64
		{from("2001:db8::3"), false},
		{from("10.0.0.2"), false}, // five are in
		{addr("x"), false},
	} {
		leave, ok := g.enter(c.from)
		if ok != c.want {
			t.Errorf("%s: %t", c.from, ok)
		}
		if ok {
			leaves = append(leaves, leave)
		}
	}
	for _, leave := range leaves {
		leave()
		leave()
	}
	if g.inside != 0 || len(g.sources) != 0 {
		t.Errorf("%d are inside, by source %v", g.inside, g.sources)
	}
	for i := range 2 {
		if _, ok := g.enter(addr("x")); !ok {
			t.Errorf("unknown source %d", i)
		}
	}
	if _, ok := g.enter(addr("y")); ok {
		t.Error("what has no address is no source of its own")
	}
}
