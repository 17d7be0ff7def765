package link

import (
	"context"
	"net"
)

// What the tests of package link_test need to know.
const (
	MaxHeader     = maxHeader
	MaxToken      = maxToken
	MaxDelay      = maxDelay
	DeadAfter     = pingEvery + pingTimeout
	PatienceAfter = requestTimeout + readyTimeout
)

// WithDial has an agent dial through a network of the test.
func WithDial(c DialConfig, dial func(ctx context.Context, network, address string) (net.Conn, error)) DialConfig {
	c.dial = dial
	return c
}
