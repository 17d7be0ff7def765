package main

import (
	"errors"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/lamina-csi/lamina/driver"
	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/node"
	"github.com/lamina-csi/lamina/node/pool"
)

// poolAgent puts the messages of package link into the agent's terms.
type poolAgent struct {
	*node.Agent
	pools    *pool.Manager
	fromFile bool // the pools wanted are in a file

	mu      sync.Mutex
	applied []*link.Pool
}

var _ driver.PoolAgent = (*poolAgent)(nil)

// Apply implements driver.PoolAgent. A controller applies the same set whenever
// it starts; there is nothing to do then.
func (a *poolAgent) Apply(pools []*link.Pool) error {
	if a.fromFile {
		return errors.New("the pools of this node are in a file (--pools)")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	same := func(x, y *link.Pool) bool { return proto.Equal(x, y) }
	if a.applied != nil && slices.EqualFunc(a.applied, pools, same) {
		return nil
	}
	a.applied = append([]*link.Pool{}, pools...)
	a.Want(wanted(pools))
	return nil
}

// wanted reads the pools; what is wrong with one is kept with it.
func wanted(pools []*link.Pool) []node.Wanted {
	var out []node.Wanted
	for _, p := range pools {
		w := node.Want(p.GetName(), p.GetProfile(), p.GetText())
		i := slices.IndexFunc(out, func(o node.Wanted) bool { return o.Pool == w.Pool })
		if i >= 0 {
			out[i].Err = errors.New("it is wanted twice")
			continue
		}
		out = append(out, w)
	}
	return out
}

// Told implements driver.PoolAgent.
func (a *poolAgent) Told() error {
	if !a.Agent.Told() {
		return errors.New("the node agent has not been told yet which pools are wanted here")
	}
	return nil
}

// Statuses implements driver.PoolAgent.
func (a *poolAgent) Statuses() ([]*link.PoolStatus, bool) {
	// Asked first: the statuses may be newer than that, never older.
	settled := a.Settled()
	var out []*link.PoolStatus
	for _, s := range a.Agent.Statuses() {
		out = append(out, a.status(s))
	}
	return out, settled
}

// text makes a text fit for the link, which takes no more than UTF-8 and, of a
// status, 256 KiB: what lvm says of a disk may hold what the disk's maker likes.
func text(s string) string {
	const most = 2000
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

func (a *poolAgent) status(s node.Status) *link.PoolStatus {
	out := &link.PoolStatus{
		Name: s.Name, Vg: s.VG, VgUuid: s.VGUUID, Mode: string(s.Mode), Wanted: s.Wanted, Disks: s.Disks,
		Size: s.Size, Used: s.Used, MetadataSize: s.MetadataSize, MetadataUsed: s.MetadataUsed, Virtual: s.Virtual,
		Volumes: int32(s.Volumes), Snapshots: int32(s.Snapshots),
		Health: string(s.Health), Text: text(s.Text), Error: text(s.Err),
	}
	for _, r := range s.Refused {
		out.Refused = append(out.Refused, &link.Refused{Disk: text(r.Disk), Reason: text(r.Reason)})
	}
	// A pool whose capacity cannot be told now promises nothing.
	if c, err := a.pools.Capacity(s.Name); err == nil {
		out.Available, out.MaxVolumeSize = c.Available, c.Largest
	}
	return out
}
