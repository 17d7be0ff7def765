package link

import (
	"net"
	"net/netip"
	"sync"
)

// gate counts the connections that have not become a link: whoever can reach the
// port can make them, and each costs memory and a handshake.
type gate struct {
	max, maxPerSource int

	mu      sync.Mutex
	inside  int
	sources map[netip.Prefix]int
}

// enter counts a connection in. leave may be called more than once.
func (g *gate) enter(from net.Addr) (leave func(), ok bool) {
	s := source(from)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside >= g.max || g.sources[s] >= g.maxPerSource {
		return nil, false
	}
	if g.sources == nil {
		g.sources = map[netip.Prefix]int{}
	}
	g.inside++
	g.sources[s]++
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.inside--
		if g.sources[s]--; g.sources[s] == 0 {
			delete(g.sources, s)
		}
	}), true
}

// source is whom an address counts for: whoever has an IPv6 address has its /64.
// What is no IP address counts as one source.
func source(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
