//go:build vm

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/lamina-csi/lamina/test/agent"
	"github.com/lamina-csi/lamina/test/invariant"
	"github.com/lamina-csi/lamina/test/service"
)

// succession passes the node from agent to agent while a volume stays mounted: the
// service is killed and started again, gives way to a pod's agent, and takes the node
// back. Nobody tells the later ones which pools are wanted: what exists is served.
func succession(ctx context.Context, spec service.Spec, svc *process, a *agent.Agent, k *kubelet) error {
	v, err := a.Create(ctx, "fast", "kept", "ext4", 512<<20, nil)
	if err != nil {
		return err
	}
	if err := v.Mount(ctx); err != nil {
		return err
	}
	data := []byte(rand.Text())
	if err := errors.Join(seen(k, v, data), a.Close()); err != nil {
		return err
	}
	step("the service is killed, and the next one serves the volume")
	if _, err := run("runc", "--root", runcState, "kill", spec.Name, "KILL"); err != nil {
		return err
	}
	<-svc.done
	if err := expect(svc.err != nil, "the killed service ended well"); err != nil {
		return err
	}
	if svc, err = startService(spec, "/run/service-2.log"); err != nil {
		return err
	}
	if err := serves(ctx, k, v, data); err != nil {
		return err
	}
	step("from the service to a pod")
	pod, err := startPod("/run/pod.log")
	if err != nil {
		return err
	}
	if err := takeOver(ctx, svc, pod); err != nil {
		return err
	}
	if err := serves(ctx, k, v, data); err != nil {
		return err
	}
	step("from the pod to the service")
	if svc, err = startService(spec, "/run/service-3.log"); err != nil {
		return err
	}
	if err := takeOver(ctx, pod, svc); err != nil {
		return err
	}
	if err := serves(ctx, k, v, data); err != nil {
		return err
	}
	step("the service's stop closes what nobody uses")
	return closes(ctx, svc, v)
}

// takeOver: the next agent waits until the last, asked to, has ended.
func takeOver(ctx context.Context, last, next *process) error {
	if err := next.says(ctx, "another agent owns this node; waiting for its end"); err != nil {
		return err
	}
	if err := stopInTime(last); err != nil {
		return err
	}
	return next.says(ctx, "this node has no other agent any more")
}

// serves: the volume that is mounted has its data, and mounts again through the agent
// that is now there.
func serves(ctx context.Context, k *kubelet, v agent.Volume, data []byte) error {
	a, err := agent.Attach(ctx, kubeletDir)
	if err != nil {
		return err
	}
	defer a.Close()
	v = a.Found(v)
	if err := has(k, v, data); err != nil {
		return err
	}
	if err := unmount(ctx, k, v); err != nil {
		return err
	}
	if err := v.Mount(ctx); err != nil {
		return err
	}
	return has(k, v, data)
}

// closes: with the last volume unmounted, the service's stop leaves no device.
func closes(ctx context.Context, svc *process, v agent.Volume) error {
	a, err := agent.Attach(ctx, kubeletDir)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := a.Found(v).Unmount(ctx); err != nil {
		return err
	}
	devices, err := invariant.Machine(nil).Devices()
	if err != nil {
		return err
	}
	// The volume, the pool and the pool's parts.
	if err := expect(len(devices) > 3, "active before the stop: %v", devices); err != nil {
		return err
	}
	if err := stopInTime(svc); err != nil {
		return err
	}
	if devices, err = invariant.Machine(nil).Devices(); err != nil {
		return err
	}
	if err := expect(len(devices) == 0, "active after the stop: %v", devices); err != nil {
		return err
	}
	return invariant.Check(ctx, invariant.Machine(nil))
}

// stopTime is what Talos gives a service before it kills it
// (internal/app/machined/pkg/system/runner/runner.go, DefaultOptions).
const stopTime = 10 * time.Second

// stopInTime asks an agent to end; it must end well, and soon.
func stopInTime(p *process) error {
	begin := time.Now()
	if err := p.stop(); err != nil {
		return fmt.Errorf("stop %s: %w", p.log, err)
	}
	took := time.Since(begin)
	fmt.Printf("stopped after %.1f s\n", took.Seconds())
	return expect(took < stopTime, "%s took %s to stop", p.log, took)
}
