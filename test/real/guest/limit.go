//go:build vm

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/test/agent"
)

const (
	cgroups = "/sys/fs/cgroup"
	// The volume of the first pod is a file system, that of the second an encrypted
	// device. Kubelet's two cgroup drivers name a cgroup each.
	plainPod  = "01234567-89ab-cdef-0123-456789abcdef"
	secretPod = "fedcba98-7654-3210-fedc-ba9876543210"
)

var (
	plainCgroup  = filepath.Join(cgroups, "kubepods/burstable/pod"+plainPod)
	secretCgroup = filepath.Join(cgroups, "kubepods.slice/kubepods-pod"+strings.ReplaceAll(secretPod, "-", "_")+".slice")
)

// limits publishes volumes with limits for pods that have cgroups, and holds what the
// kernel has in io.max, and counts in io.stat, against it.
func limits(ctx context.Context, a *agent.Agent) error {
	v, err := limitedVolume(ctx, a)
	if err != nil {
		return err
	}
	target, err := encryptedDevice(ctx, a)
	if err != nil {
		return err
	}
	var st, raw unix.Stat_t
	if err := errors.Join(unix.Stat(v.Target(), &st), unix.Stat(target, &raw)); err != nil {
		return err
	}
	plain, secret := number(st.Dev), number(raw.Rdev)
	if err := errors.Join(
		hasLimits(plainCgroup, plain, "rbps=max wbps=4194304 riops=1000 wiops=max"),
		hasLimits(secretCgroup, secret, "rbps=1048576 wbps=max riops=max wiops=max"),
	); err != nil {
		return err
	}
	if err := errors.Join(
		writeIn(plainCgroup, filepath.Join(v.Target(), "data"), plain, unix.O_DIRECT),
		writeIn(plainCgroup, filepath.Join(v.Target(), "cached"), plain, 0),
		writeIn(secretCgroup, target, secret, unix.O_DIRECT),
	); err != nil {
		return err
	}

	// A later agent changes and removes them.
	if err := a.Stop(); err != nil {
		return err
	}
	if a, err = start(ctx); err != nil {
		return err
	}
	modify := func(kv map[string]string) error {
		_, err := a.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{VolumeId: v.VolumeId, MutableParameters: kv})
		return err
	}
	if err := errors.Join(modify(map[string]string{"writeBandwidth": "", "writeIOPS": "50"}),
		hasLimits(plainCgroup, plain, "rbps=max wbps=max riops=1000 wiops=50"),
		modify(map[string]string{"readIOPS": "", "writeIOPS": ""}),
		hasLimits(plainCgroup, plain, ""),
		hasLimits(secretCgroup, secret, "rbps=1048576 wbps=max riops=max wiops=max"),
	); err != nil {
		return err
	}
	return a.Stop()
}

// limitedVolume publishes a volume for a pod, which has no cgroup at first.
func limitedVolume(ctx context.Context, a *agent.Agent) (v agent.Volume, err error) {
	if _, err := a.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               plainPod,
		CapacityRange:      &csi.CapacityRange{RequiredBytes: volumeSize},
		VolumeCapabilities: []*csi.VolumeCapability{agent.Capability("ext4")},
		MutableParameters:  map[string]string{"readIOPS": "1000", "writeBandwidth": "4Mi"},
	}); err != nil {
		return v, err
	}
	if v, err = a.Create(ctx, "fast", plainPod, "ext4", volumeSize, nil); err != nil {
		return v, err
	}
	if err := v.Stage(ctx); err != nil {
		return v, err
	}
	err = v.Publish(ctx)
	fmt.Println("without a cgroup:", err)
	if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), plainPod) {
		return v, fmt.Errorf("a pod without a cgroup got a volume with limits: %w", err)
	}
	if _, err := os.Lstat(v.Target()); !errors.Is(err, os.ErrNotExist) {
		return v, fmt.Errorf("the target is there: %w", err)
	}
	if err := makeCgroup(plainCgroup); err != nil {
		return v, err
	}
	return v, v.Publish(ctx)
}

// encryptedDevice publishes an encrypted block volume as kubelet does.
func encryptedDevice(ctx context.Context, a *agent.Agent) (target string, err error) {
	if err := makeCgroup(secretCgroup); err != nil {
		return "", err
	}
	resp, err := a.CreateVolume(ctx, &csi.CreateVolumeRequest{
		Name:               "secret",
		CapacityRange:      &csi.CapacityRange{RequiredBytes: volumeSize},
		VolumeCapabilities: []*csi.VolumeCapability{agent.Capability("")},
		Parameters:         map[string]string{"encryption": "luks2"},
		MutableParameters:  map[string]string{"readBandwidth": "1Mi"},
	})
	if err != nil {
		return "", err
	}
	devices := filepath.Join(a.KubeletDir, "plugins/kubernetes.io/csi/volumeDevices")
	staging, target := filepath.Join(devices, "staging/pv"), filepath.Join(devices, "publish/pv", secretPod)
	if err := errors.Join(os.MkdirAll(staging, 0o750), os.MkdirAll(filepath.Dir(target), 0o750)); err != nil {
		return "", err
	}
	if _, err := a.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{
		VolumeId: resp.Volume.VolumeId, StagingTargetPath: staging, VolumeCapability: agent.Capability(""),
		VolumeContext: resp.Volume.VolumeContext, Secrets: map[string]string{"passphrase": "correct horse"},
	}); err != nil {
		return "", err
	}
	_, err = a.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: resp.Volume.VolumeId, StagingTargetPath: staging, TargetPath: target, VolumeCapability: agent.Capability(""),
		VolumeContext: resp.Volume.VolumeContext,
	})
	return target, err
}

// makeCgroup makes a cgroup with an io controller, as kubelet does.
func makeCgroup(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	rel := strings.TrimPrefix(filepath.Dir(dir), cgroups+"/")
	at := cgroups
	for _, name := range strings.Split(rel, "/") {
		at = filepath.Join(at, name)
		if err := os.WriteFile(filepath.Join(at, "cgroup.subtree_control"), []byte("+io +memory"), 0); err != nil {
			return err
		}
	}
	return nil
}

func number(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }

// line is that of a device in a cgroup's file, without the number.
func line(cgroup, file, device string) (string, error) {
	text, err := os.ReadFile(filepath.Join(cgroup, file))
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, device+" "); ok {
			return strings.TrimSpace(rest), nil
		}
	}
	return "", err
}

func hasLimits(cgroup, device, want string) error {
	got, err := line(cgroup, "io.max", device)
	if err != nil || got != want {
		return fmt.Errorf("io.max of %s has %q for %s, want %q (%v)", cgroup, got, device, want, err)
	}
	return nil
}

// writeIn writes 8 MiB as a process of the cgroup, and finds them counted there, for
// the device that the limits are on. Without O_DIRECT it is the kernel that writes
// them, on behalf of the cgroup.
func writeIn(cgroup, path, device string, flag int) error {
	const size, pid = 8 << 20, "0"
	before, err := written(cgroup, device)
	if err != nil {
		return err
	}
	buf, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|flag, 0o600)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(pid), 0); err != nil {
		return err
	}
	start := time.Now()
	_, err = f.WriteAt(buf, 0)
	err = errors.Join(err, f.Sync())
	took := time.Since(start)
	if err := errors.Join(err, f.Close(), unix.Munmap(buf), os.WriteFile(filepath.Join(cgroups, "cgroup.procs"), []byte(pid), 0)); err != nil {
		return err
	}
	after, err := written(cgroup, device)
	if err != nil {
		return err
	}
	fmt.Printf("8 MiB written to %s of %s in %s\n", path, device, took)
	if after-before < size {
		return fmt.Errorf("%s counts %d bytes written to %s, want %d at least", cgroup, after-before, device, size)
	}
	return nil
}

// written is what a cgroup has written to a device, in bytes.
func written(cgroup, device string) (n int64, err error) {
	stat, err := line(cgroup, "io.stat", device)
	if err != nil {
		return 0, err
	}
	for field := range strings.FieldsSeq(stat) {
		if text, ok := strings.CutPrefix(field, "wbytes="); ok {
			return strconv.ParseInt(text, 10, 64)
		}
	}
	return 0, nil // it has no line before the first I/O
}
