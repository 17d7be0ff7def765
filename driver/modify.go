package driver

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lamina-csi/lamina/node/cgroup"
	"github.com/lamina-csi/lamina/node/pool"
)

// limitParameters are the mutable parameters, those of a VolumeAttributesClass.
var limitParameters = []struct {
	key   string
	parse func(string) (int64, error)
	limit func(*pool.Limits) *int64
}{
	{"readIOPS", parseIOPS, func(l *pool.Limits) *int64 { return &l.ReadIOPS }},
	{"writeIOPS", parseIOPS, func(l *pool.Limits) *int64 { return &l.WriteIOPS }},
	{"readBandwidth", parseQuantity, func(l *pool.Limits) *int64 { return &l.ReadBandwidth }},
	{"writeBandwidth", parseQuantity, func(l *pool.Limits) *int64 { return &l.WriteBandwidth }},
}

// mutableParameters are those that may be given. external-resizer adds the last
// three with --extra-modify-metadata.
var mutableParameters = func() []string {
	var keys []string
	for _, p := range limitParameters {
		keys = append(keys, p.key)
	}
	return append(keys, paramClaim, paramNamespace, paramPV)
}()

// limitChange is what a request says of each limit that it names, by parameter.
// 0 takes the limit away. One that is not named stays: "SPs MUST NOT modify volumes
// based on the absence of keys" (ControllerModifyVolumeRequest.mutable_parameters).
type limitChange map[string]int64

// parseLimits checks mutable parameters.
func parseLimits(given map[string]string) (limitChange, error) {
	if err := checkKeys("mutable parameter", given, mutableParameters); err != nil {
		return nil, err
	}
	change := limitChange{}
	for _, p := range limitParameters {
		text, named := given[p.key]
		if !named {
			continue
		}
		change[p.key] = 0
		if text == "" {
			continue
		}
		n, err := p.parse(text)
		if err != nil {
			return nil, invalid("mutable parameter %s: value %.80q: %v", p.key, text, err)
		}
		change[p.key] = n
	}
	return change, nil
}

// parseIOPS reads a limit on operations a second, digits only.
func parseIOPS(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && n > pool.MaxIOPS:
		return 0, fmt.Errorf("it is too large; at most %d are possible", int64(pool.MaxIOPS))
	case err != nil:
		return 0, errors.New("it is no whole number")
	case n == 0:
		return 0, errors.New("0 is no limit; leave the value empty for none")
	}
	return int64(n), nil
}

// apply returns the limits with the change made.
func (c limitChange) apply(l pool.Limits) pool.Limits {
	for _, p := range limitParameters {
		if n, named := c[p.key]; named {
			*p.limit(&l) = n
		}
	}
	return l
}

// ControllerModifyVolume implements csi.ControllerServer.
func (d *Driver) ControllerModifyVolume(ctx context.Context, req *csi.ControllerModifyVolumeRequest) (*csi.ControllerModifyVolumeResponse, error) {
	id, err := parseID("volume_id", req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if len(req.GetMutableParameters()) == 0 {
		return nil, invalid("mutable_parameters are missing; known are %s", strings.Join(mutableParameters, ", "))
	}
	change, err := parseLimits(req.GetMutableParameters())
	if err != nil {
		return nil, err
	}
	if err := d.modify(ctx, id, change); err != nil {
		return nil, err
	}
	return &csi.ControllerModifyVolumeResponse{}, nil
}

// modify changes a volume's limits: first the record, which later publishes read,
// then the cgroups of the pods that have the volume now. A call that is cut between
// the two is repeated by its caller and does the second again, though the record
// does not change any more. The volume's lock keeps publishes away meanwhile.
//
// Nothing has to be done when the agent starts: limits in cgroups outlive it. They
// do not outlive a reboot, nor does a pod's mount: kubelet publishes again.
func (d *Driver) modify(ctx context.Context, id pool.ID, change limitChange) error {
	unlock, err := d.volumes.lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	v, err := d.pools.GetVolume(id)
	if err != nil {
		return err
	}
	old, err := pool.ParseLimits(v.Limits)
	if err != nil {
		return fmt.Errorf("modify %s: %w", id, err)
	}
	limits := change.apply(old)
	if err := d.pools.SetLimits(ctx, id, limits); err != nil {
		return err
	}
	mounted, err := d.mountedAt(id)
	if err != nil {
		return err
	}
	// A pod that has no cgroup is an error: it may just be starting, without limits.
	var errs []error
	done := map[string]bool{}
	for _, target := range slices.Sorted(maps.Keys(mounted)) {
		// A pod may have the volume in several places, such as a subPath.
		pod := d.mounter.PodOf(target)
		if pod == "" || done[pod] {
			continue
		}
		done[pod] = true
		errs = append(errs, d.limitPod(pod, target, limits))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("modify %s: its limits are recorded, and not all pods that use it have them: %w", id, err)
	}
	return nil
}

// limitPod sets a pod's limits on the device that its I/O at a path goes to.
func (d *Driver) limitPod(pod, path string, l pool.Limits) error {
	major, minor, err := d.mounter.DeviceNumber(path)
	if err != nil {
		return err
	}
	return d.cgroups.Limit(pod, cgroup.Device{Major: major, Minor: minor}, cgroup.Limits(l))
}

// limitTarget gives the pod of a target the volume's limits before it gets the
// volume. source is the device, or where its filesystem is staged. A volume without
// limits costs nothing.
//
// A pod that cannot be limited does not get the volume: whoever set the limits
// protects other pods by them, and nobody would notice their loss. Kubelet repeats
// the call and shows the error in an event of the pod. It makes a pod's cgroup and
// mounts its volumes side by side (SyncPod in pkg/kubelet/kubelet.go), so that a call
// may come a moment too early.
func (d *Driver) limitTarget(v pool.Volume, target, source string) error {
	if v.Limits == "" {
		return nil
	}
	l, err := pool.ParseLimits(v.Limits)
	if err != nil {
		return fmt.Errorf("publish %s: %w", v.ID, err)
	}
	pod := d.mounter.PodOf(target)
	if pod == "" {
		return fmt.Errorf("publish %s, which has limits (%s): %w: target %.200q is not where kubelet publishes a volume for a pod", v.ID, v.Limits, cgroup.ErrNoLimit, target)
	}
	if err := d.limitPod(pod, source, l); err != nil {
		return fmt.Errorf("publish %s: %w", v.ID, err)
	}
	return nil
}
