package deploy

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/lamina-csi/lamina/controller/cert"
	"github.com/lamina-csi/lamina/controller/pools"
)

// rule is a PolicyRule and where it holds.
type rule struct {
	rbacv1.PolicyRule
	role    string
	cluster bool
}

func rules(t *testing.T, patterns ...string) []rule {
	t.Helper()
	var out []rule
	for _, m := range decode(t, patterns...) {
		switch r := m.obj.(type) {
		case *rbacv1.ClusterRole:
			for _, p := range r.Rules {
				out = append(out, rule{p, m.file + ": ClusterRole " + r.Name, true})
			}
			if r.AggregationRule != nil {
				t.Errorf("%s aggregates other roles", r.Name)
			}
		case *rbacv1.Role:
			for _, p := range r.Rules {
				out = append(out, rule{p, m.file + ": Role " + r.Name, false})
			}
		}
	}
	if len(out) == 0 {
		t.Fatal("no rules")
	}
	return out
}

func (r rule) allows(verb, resource string) bool {
	return slices.Contains(r.Verbs, verb) && slices.Contains(r.Resources, resource)
}

func TestNoRightIsAWildcard(t *testing.T) {
	for _, r := range rules(t, base, rendered, snapctrl) {
		for _, s := range slices.Concat(r.APIGroups, r.Resources, r.Verbs, r.ResourceNames, r.NonResourceURLs) {
			if strings.Contains(s, "*") {
				t.Errorf("%s has %q", r.role, s)
			}
		}
	}
}

// Rights by which a controller could become more than it is.
func TestNoRightLeadsFurther(t *testing.T) {
	for _, r := range rules(t, base, rendered, snapctrl) {
		for _, verb := range []string{"escalate", "bind", "impersonate", "deletecollection", "approve", "sign"} {
			if slices.Contains(r.Verbs, verb) {
				t.Errorf("%s may %s %s", r.role, verb, r.Resources)
			}
		}
		for _, resource := range r.Resources {
			switch resource {
			case "serviceaccounts", "serviceaccounts/token", "pods/exec", "pods/attach", "nodes/proxy",
				"roles", "rolebindings", "clusterroles", "clusterrolebindings", "certificatesigningrequests":
				t.Errorf("%s may %s %s", r.role, r.Verbs, resource)
			case "secrets", "configmaps", "leases", "pods", "csistoragecapacities":
				if r.cluster {
					t.Errorf("%s may %s %s in every namespace", r.role, r.Verbs, resource)
				}
			}
		}
		if r.cluster && (r.allows("create", "pods") || r.allows("patch", "nodes") || r.allows("update", "nodes")) {
			t.Errorf("%s may %s %s", r.role, r.Verbs, r.Resources)
		}
	}
}

// Secrets, ConfigMaps and the lease are named; only their creation cannot be.
func TestRightsAreToNamedObjects(t *testing.T) {
	want := map[string][]string{
		"secrets":    {cert.SecretName},
		"configmaps": {cert.BundleName, pools.ProfilesConfigMap},
		"leases":     {"lamina-controller"},
	}
	got := map[string][]string{}
	for _, r := range rules(t, base) {
		for _, resource := range r.Resources {
			if want[resource] == nil || slices.Equal(r.Verbs, []string{"create"}) {
				continue
			}
			if len(r.ResourceNames) == 0 {
				t.Errorf("%s may %s any of %s", r.role, r.Verbs, resource)
			}
			got[resource] = append(got[resource], r.ResourceNames...)
		}
	}
	for resource, names := range want {
		if !slices.Equal(got[resource], names) {
			t.Errorf("rights to the %s %q, want %q", resource, got[resource], names)
		}
	}
}

// The agent's ServiceAccount may do nothing, and its pod has no token for the API.
func TestAgentHasNoRights(t *testing.T) {
	for _, m := range decode(t, base, relay, rendered) {
		var subjects []rbacv1.Subject
		switch b := m.obj.(type) {
		case *rbacv1.ClusterRoleBinding:
			subjects = b.Subjects
		case *rbacv1.RoleBinding:
			subjects = b.Subjects
		}
		for _, s := range subjects {
			if s.Kind != rbacv1.ServiceAccountKind || s.Name != "lamina-controller" {
				t.Errorf("%s: %s binds %s %s", m.file, m.meta.GetName(), s.Kind, s.Name)
			}
		}
	}
	pods := workloads(t, base, relay)
	for _, name := range []string{"lamina-node", "lamina-relay"} {
		if auto := pods[name].AutomountServiceAccountToken; auto == nil || *auto {
			t.Errorf("%s gets a token for the API server", name)
		}
	}
}

func TestPrivileges(t *testing.T) {
	pods := workloads(t, base)
	agent, controller := pods["lamina-node"], pods["lamina-controller"]
	if agent.HostNetwork || agent.HostPID {
		t.Error("the agent is in the host's network or PID namespace")
	}
	for _, c := range agent.Containers {
		if c.LivenessProbe != nil {
			t.Error("the agent has a liveness probe")
		}
		if _, limited := c.Resources.Limits[corev1.ResourceMemory]; limited {
			t.Error("the agent has a memory limit: lvm commands would be killed")
		}
	}
	if controller.HostNetwork || controller.HostPID || controller.HostIPC {
		t.Error("the controller is in a namespace of the host")
	}
	for _, v := range controller.Volumes {
		if v.HostPath != nil {
			t.Errorf("the controller sees the host's %s", v.HostPath.Path)
		}
	}
	s := controller.Containers[0].SecurityContext
	if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation ||
		s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
		s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL") ||
		controller.SecurityContext == nil || controller.SecurityContext.RunAsNonRoot == nil || !*controller.SecurityContext.RunAsNonRoot {
		t.Error("the controller's pod does not meet the restricted standard")
	}
}
