package service

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// seccomp is containerd's default profile under the capabilities below, without those
// of other machines: go run ./seccomp/main.go CAPABILITY... in test/cluster/tools.
//
//go:embed seccomp.json
var seccomp []byte

// capabilities are all that Talos lets go of: CAP_SYS_BOOT and CAP_SYS_MODULE it keeps
// (pkg/machinery/…/capability, AllGrantableCapabilities).
var capabilities = []string{
	"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_IPC_LOCK", "CAP_IPC_OWNER",
	"CAP_KILL", "CAP_LEASE", "CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN",
	"CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_RAW", "CAP_PERFMON", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP",
	"CAP_SETUID", "CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO",
	"CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_SYSLOG", "CAP_WAKE_ALARM",
}

// defaultMounts are those of every container of containerd (pkg/oci/mounts.go), but
// /dev/mqueue, which not every kernel has.
func defaultMounts(writeableSysfs bool) []specs.Mount {
	sys := []string{"nosuid", "noexec", "nodev", "ro"}
	if writeableSysfs {
		sys[3] = "rw"
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: sys},
		{Destination: "/run", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
	}
}

// Defaults of containerd (pkg/oci/spec.go, populateDefaultUnixSpec).
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// Config is the OCI configuration of the service with that root file system and host
// name: own PID, mount, UTS and cgroup namespaces, the host's network and, from Talos
// v1.13.9, its IPC.
func (s Spec) Config(rootfs, hostname string) (*specs.Spec, error) {
	profile := &specs.LinuxSeccomp{}
	if err := json.Unmarshal(seccomp, profile); err != nil {
		return nil, fmt.Errorf("read the seccomp profile: %w", err)
	}
	c := s.Container
	oom := -600
	config := &specs.Spec{
		Version:  specs.Version,
		Hostname: hostname,
		Root:     &specs.Root{Path: rootfs, Readonly: !c.Security.WriteableRootfs},
		Process: &specs.Process{
			Cwd:             "/",
			Args:            append([]string{c.Entrypoint}, c.Args...),
			Env:             append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, c.Environment...),
			NoNewPrivileges: true,
			OOMScoreAdj:     &oom,
			Capabilities:    &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
		},
		Mounts: append(defaultMounts(c.Security.WriteableSysfs), c.Mounts...),
		Linux: &specs.Linux{
			Namespaces:        []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.UTSNamespace}, {Type: specs.CgroupNamespace}},
			Resources:         &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}},
			CgroupsPath:       "/system/extensions/" + s.Name,
			Seccomp:           profile,
			RootfsPropagation: c.Security.RootfsPropagation,
			MaskedPaths:       maskedPaths,
			ReadonlyPaths:     readonlyPaths,
		},
	}
	if c.Security.MaskedPaths != nil {
		config.Linux.MaskedPaths = c.Security.MaskedPaths
	}
	if c.Security.ReadonlyPaths != nil {
		config.Linux.ReadonlyPaths = c.Security.ReadonlyPaths
	}
	return config, nil
}

// MountRoot mounts a service's root file system over itself, writable in scratch, as
// Talos does. It must be a mount: runc makes the mount that holds it private, and what
// the service then mounts below another directory of that mount would not be seen
// outside. For the same reason kubelet's directory must lie on another mount.
func MountRoot(rootfs, scratch string) error {
	upper, work := filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	options := "lowerdir=" + rootfs + ",upperdir=" + upper + ",workdir=" + work
	if err := unix.Mount("overlay", rootfs, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount %s: %w", rootfs, err)
	}
	return nil
}

// WriteBundle makes the directory that runc takes with --bundle.
func WriteBundle(dir string, config *specs.Spec) error {
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600)
}
