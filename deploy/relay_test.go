package deploy

import (
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/lamina-csi/lamina/deploy/image/extension"
	"github.com/lamina-csi/lamina/driver/link"
)

// fits is the scheduler's rule for the operators that we use: one of the terms, all
// expressions of it.
func fits(t *testing.T, pod corev1.PodSpec, labels map[string]string) bool {
	t.Helper()
	if pod.Affinity == nil {
		return true
	}
	terms := pod.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	return slices.ContainsFunc(terms, func(term corev1.NodeSelectorTerm) bool {
		return !slices.ContainsFunc(term.MatchExpressions, func(e corev1.NodeSelectorRequirement) bool {
			_, there := labels[e.Key]
			switch e.Operator {
			case corev1.NodeSelectorOpExists:
				return !there
			case corev1.NodeSelectorOpDoesNotExist:
				return there
			}
			t.Fatalf("operator %s", e.Operator)
			return false
		})
	})
}

// Every node has either the privileged agent or the relay.
func TestAgentOrRelay(t *testing.T) {
	pods := workloads(t, base, relay)
	const talos, systemd = "extensions.talos.dev/" + extension.Name, "lamina.dev/host-service"
	for _, tc := range []struct {
		labels map[string]string
		host   bool
	}{
		{nil, false},
		{map[string]string{"extensions.talos.dev/iscsi-tools": "v1"}, false},
		{map[string]string{talos: "v0.1.0"}, true},
		{map[string]string{systemd: ""}, true},
		{map[string]string{talos: "v0.1.0", systemd: "true"}, true},
	} {
		if got := fits(t, pods["lamina-node"], tc.labels); got == tc.host {
			t.Errorf("the privileged agent runs on a node with the labels %v: %v", tc.labels, got)
		}
		if got := fits(t, pods["lamina-relay"], tc.labels); got != tc.host {
			t.Errorf("the relay runs on a node with the labels %v: %v", tc.labels, got)
		}
	}
}

// The relay's pod has no privilege, and of the host two directories, read-only.
func TestRelayPrivileges(t *testing.T) {
	pod := workloads(t, relay)["lamina-relay"]
	if len(pod.Containers) != 1 || len(pod.InitContainers) != 0 {
		t.Fatalf("%d containers", len(pod.Containers)+len(pod.InitContainers))
	}
	if pod.HostNetwork || pod.HostPID || pod.HostIPC {
		t.Error("it is in a namespace of the host")
	}
	s := pod.Containers[0].SecurityContext
	if s == nil || s.Privileged != nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
		s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
		s.Capabilities == nil || len(s.Capabilities.Add) != 0 || !slices.Contains(s.Capabilities.Drop, "ALL") {
		t.Errorf("its security context is %+v", s)
	}
	if p := pod.SecurityContext; p == nil || p.SeccompProfile == nil || p.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Error("it has no seccomp profile")
	}
	var host []string
	for _, v := range pod.Volumes {
		if v.HostPath == nil {
			continue
		}
		host = append(host, v.HostPath.Path)
		for _, m := range pod.Containers[0].VolumeMounts {
			if m.Name == v.Name && (!m.ReadOnly || m.MountPropagation != nil) {
				t.Errorf("it mounts %s writable, or with propagation", v.HostPath.Path)
			}
		}
	}
	if want := []string{"/var/lib/kubelet/plugins/" + link.DriverName, "/run/lamina"}; !slices.Equal(host, want) {
		t.Errorf("it sees %q of the host, want %q", host, want)
	}
}

// The relay looks for the sockets where the host's services make them.
func TestSocketsAgree(t *testing.T) {
	const socket = "/run/lamina/http.sock"
	for file, want := range map[string]string{
		"../cmd/lamina-node/relay.go":         `"` + socket + `"`,
		"image/extension/lamina-node.yaml":    "--http=unix://" + socket,
		"image/extension/lamina-node.service": "--http=unix://" + socket,
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), want) {
			t.Errorf("%s does not name %s", file, want)
		}
	}
}
