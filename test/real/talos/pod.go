//go:build vm

package main

import (
	"fmt"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/lamina-csi/lamina/test/service"
)

// manifest is deploy/kustomize/base/node.yaml.
const manifest = "/etc/lamina-node.yaml"

// startPod starts the agent as the DaemonSet's pod does, but without the link to a
// controller, in the service's root file system: the image holds the same.
func startPod(log string) (*process, error) {
	text, err := os.ReadFile(manifest)
	if err != nil {
		return nil, err
	}
	var set appsv1.DaemonSet
	if err := yaml.UnmarshalStrict(text, &set); err != nil {
		return nil, fmt.Errorf("read %s: %w", manifest, err)
	}
	pod := set.Spec.Template.Spec
	s := podSpec(pod)
	if err := s.MakeSources(); err != nil {
		return nil, err
	}
	config, err := s.Config(container, "lamina-node-x7k2p")
	if err != nil {
		return nil, err
	}
	privilege(config, pod.HostIPC)
	return startContainer(s.Name, config, log)
}

// podSpec is the pod's container in a service's terms.
func podSpec(pod corev1.PodSpec) service.Spec {
	c := pod.Containers[0]
	s := service.Spec{Name: "lamina-node-pod", Container: service.Container{
		Entrypoint:  "/usr/local/bin/lamina-node",
		Environment: []string{"NODE_NAME=" + nodeName},
		Security:    service.Security{WriteableSysfs: true, RootfsPropagation: "rshared"},
	}}
	for _, arg := range c.Args {
		if !strings.HasPrefix(arg, "--controller") {
			s.Container.Args = append(s.Container.Args, arg)
		}
	}
	sources := map[string]string{}
	for _, v := range pod.Volumes {
		if v.HostPath != nil {
			sources[v.Name] = v.HostPath.Path
		}
	}
	for _, m := range c.VolumeMounts {
		if sources[m.Name] == "" {
			continue // the controller's certificate, the token
		}
		options := []string{"rbind", "rw", "rprivate"}
		if m.ReadOnly {
			options[1] = "ro"
		}
		if m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationBidirectional {
			options[2] = "rshared"
		}
		s.Container.Mounts = append(s.Container.Mounts, specs.Mount{Type: "bind", Source: sources[m.Name], Destination: m.MountPath, Options: options})
	}
	return s
}

// privilege makes of a service's container a privileged pod's, as containerd does: all
// capabilities, no seccomp, the host's cgroup namespace, but an own network and, if the
// pod does not ask for the host's, IPC.
func privilege(config *specs.Spec, hostIPC bool) {
	all := append(config.Process.Capabilities.Bounding, "CAP_SYS_BOOT", "CAP_SYS_MODULE")
	config.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
	config.Process.NoNewPrivileges = false
	config.Linux.Seccomp, config.Linux.MaskedPaths, config.Linux.ReadonlyPaths = nil, nil, nil
	config.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
	}
	if !hostIPC {
		config.Linux.Namespaces = append(config.Linux.Namespaces, specs.LinuxNamespace{Type: specs.IPCNamespace})
	}
	config.Linux.CgroupsPath = "/kubepods/lamina-node"
}
