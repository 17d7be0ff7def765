package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"

	"github.com/lamina-csi/lamina/driver/link"
)

// applyTimeout bounds one Apply. An agent only takes note of what is wanted; it
// does not wait for disks.
const applyTimeout = 30 * time.Second

// Bounds of what one node's status takes of memory, for good or not: an agent that
// somebody has taken over sends what it likes.
const (
	maxStatus = 256 << 10 // bytes of a message; a pool with ten refused disks takes 2 KiB
	maxGroups = 256       // volume groups that a node has shown since the controller started
)

// watch follows the status that the agent sends for as long as the link lives. An
// agent that does not answer, or ends the stream, is asked again, ever more
// rarely.
func (f *Fleet) watch(name string, s *session) {
	b := backoff{}
	for {
		err := f.receive(name, s, &b)
		if s.ctx.Err() != nil {
			return
		}
		f.log.Warn("watch pools", "node", name, "error", err)
		if !b.wait(s.ctx) {
			return
		}
	}
}

// receive reads one stream to its end, which is always an error.
func (f *Fleet) receive(name string, s *session, b *backoff) error {
	conn, err := f.links.Conn(name)
	if err != nil {
		return err
	}
	stream, err := link.NewPoolsClient(conn).Watch(s.ctx, &link.WatchRequest{}, grpc.MaxCallRecvMsgSize(maxStatus))
	if err != nil {
		return err
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("the agent ended the stream: %w", io.ErrUnexpectedEOF)
		}
		if err != nil {
			return err
		}
		b.reset()
		if f.show(name, s, resp.GetPools()) {
			f.notify(name)
		}
	}
}

// show takes over a status. It reports false if the link has been replaced.
func (f *Fleet) show(name string, s *session, pools []*link.PoolStatus) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[name]
	if n == nil || n.session != s {
		return false
	}
	if pools == nil {
		pools = []*link.PoolStatus{} // it has none, and says so
	}
	before, first := n.status, !s.shown
	n.status, n.seen, s.shown = pools, true, true
	f.index(name, before, first)
	return true
}

// startApply has what is wanted brought to the agent, if there is a link and
// something is known to be wanted. The caller holds mu.
func (f *Fleet) startApply(name string, n *node) {
	s := n.session
	if s == nil || !n.known || s.applying || s.ctx.Err() != nil {
		return
	}
	s.applying = true
	f.running.Go(func() { f.apply(name, s) })
}

// apply sends what is wanted until the agent has taken the newest of it, or the
// link ends.
func (f *Fleet) apply(name string, s *session) {
	b := backoff{}
	for {
		pools, version, want := f.desired(name, s)
		if !want {
			return
		}
		err := f.send(s.ctx, name, pools)
		if err == nil {
			if f.applied(name, s, version) {
				return
			}
			continue
		}
		if s.ctx.Err() != nil {
			return
		}
		f.log.Warn("apply pools", "node", name, "error", err)
		if !b.wait(s.ctx) {
			return
		}
	}
}

// desired is what apply has to send. want is false when there is nothing more to
// do in this session.
func (f *Fleet) desired(name string, s *session) (pools []*link.Pool, version int, want bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[name]
	if n == nil || n.session != s || !n.known {
		s.applying = false
		return nil, 0, false
	}
	return n.desired, n.version, true
}

// applied reports whether that version is still the newest, and ends the apply if
// so.
func (f *Fleet) applied(name string, s *session, version int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.nodes[name]; n != nil && n.version != version {
		return false
	}
	s.applying = false
	return true
}

func (f *Fleet) send(ctx context.Context, name string, pools []*link.Pool) error {
	conn, err := f.links.Conn(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	_, err = link.NewPoolsClient(conn).Apply(ctx, &link.ApplyRequest{Pools: pools})
	return err
}

// backoff spaces attempts: 1 s, 2 s … 1 min, each up to a half longer, so that
// thousands of agents that failed together do not come back together.
type backoff struct{ next time.Duration }

const maxBackoff = time.Minute

func (b *backoff) reset() { b.next = 0 }

// wait reports false if ctx ended.
func (b *backoff) wait(ctx context.Context) bool {
	b.next = min(max(2*b.next, time.Second), maxBackoff)
	t := time.NewTimer(b.next + rand.N(b.next/2))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
