package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// targets is how many nodes the timed calls go to.
const targets = 50

// latency makes the same call through the controller and to the agent itself, one
// after the other, and compares.
func (b *bench) latency(ctx context.Context, c *controller) error {
	if b.Calls == 0 {
		return nil
	}
	b.result.section(fmt.Sprintf("CreateVolume, %d calls each way, one at a time", b.Calls))
	router, err := grpc.NewClient("unix://"+c.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer router.Close()
	n := min(targets, b.Nodes)
	direct := make([]csi.ControllerClient, n)
	for i := range n {
		conn, err := b.fleet.all[i].serveAt(b.dir)
		if err != nil {
			return err
		}
		defer conn.Close()
		direct[i] = csi.NewControllerClient(conn)
	}
	var through, past, own []time.Duration
	for i := range b.Calls + n { // the first to each node opens connections
		a := b.fleet.all[i%n]
		name, t, err := create(ctx, csi.NewControllerClient(router), a)
		if err != nil {
			return fmt.Errorf("through the controller: %w", err)
		}
		_, p, err := create(ctx, direct[i%n], a)
		if err != nil {
			return fmt.Errorf("directly: %w", err)
		}
		if i < n {
			continue
		}
		took, _ := a.took.Load(name)
		through, past, own = append(through, t), append(past, p), append(own, t-took.(time.Duration))
	}
	for _, list := range [][]time.Duration{through, past, own} {
		slices.Sort(list)
	}
	for _, p := range []int{50, 99} {
		aim := ""
		if p == 50 {
			aim = "under 5 ms"
		}
		r, d := percentile(through, p), percentile(past, p)
		b.result.milliseconds(fmt.Sprintf("p%d through the controller", p), r, "")
		b.result.milliseconds(fmt.Sprintf("p%d directly", p), d, "")
		b.result.milliseconds(fmt.Sprintf("p%d added", p), r-d, aim)
		b.result.milliseconds(fmt.Sprintf("p%d of what is not the agent's, per call", p), percentile(own, p), "")
	}
	return nil
}

// create makes a new volume on a node.
func create(ctx context.Context, client csi.ControllerClient, a *agent) (name string, took time.Duration, err error) {
	name = "pvc-" + uuid()
	req := request(name, measured, "claim", a.name)
	start := time.Now()
	_, err = client.CreateVolume(ctx, req)
	return name, time.Since(start), err
}

func uuid() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// percentile is the p-th of sorted values, the nearest that occurs.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}
