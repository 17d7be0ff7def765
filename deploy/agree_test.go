package deploy

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	groupv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"github.com/lamina-csi/lamina/controller/auth"
	"github.com/lamina-csi/lamina/controller/cert"
	"github.com/lamina-csi/lamina/driver/link"
)

// workloads returns the pods of Deployments, DaemonSets and StatefulSets by name.
func workloads(t *testing.T, patterns ...string) map[string]corev1.PodSpec {
	t.Helper()
	out := map[string]corev1.PodSpec{}
	for _, m := range decode(t, patterns...) {
		switch w := m.obj.(type) {
		case *appsv1.Deployment:
			out[w.Name] = w.Spec.Template.Spec
		case *appsv1.DaemonSet:
			out[w.Name] = w.Spec.Template.Spec
		case *appsv1.StatefulSet:
			out[w.Name] = w.Spec.Template.Spec
		}
	}
	return out
}

// program is what the pod of a workload runs.
func program(workload string) string {
	if workload == "lamina-relay" {
		return "lamina-node"
	}
	return workload
}

// Every flag that a pod's program is given, it has.
func TestFlagsExist(t *testing.T) {
	for name, pod := range workloads(t, base, relay) {
		var source strings.Builder
		for _, file := range files(t, "../cmd/"+program(name)+"/*.go") {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			source.Write(data)
		}
		for _, arg := range pod.Containers[0].Args {
			if name == "lamina-relay" && arg == "relay" {
				continue
			}
			flag, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
			if !strings.Contains(source.String(), `"`+flag+`", `) {
				t.Errorf("%s has no flag --%s", name, flag)
			}
		}
		for _, env := range pod.Containers[0].Env {
			if !strings.Contains(source.String(), `"`+env.Name+`"`) {
				t.Errorf("%s does not read $%s", name, env.Name)
			}
		}
	}
}

// Names that stand in manifests and in code are the same.
func TestNamesAgree(t *testing.T) {
	for name, pod := range workloads(t, base, relay) {
		if name != "lamina-controller" {
			agentNames(t, name, pod)
		}
	}
	for _, m := range decode(t, base, relay, rendered, examples) {
		checkDriver(t, m)
	}
}

// agentNames checks the pod that holds a link.
func agentNames(t *testing.T, name string, agent corev1.PodSpec) {
	t.Helper()
	if agent.ServiceAccountName != auth.ServiceAccount {
		t.Errorf("the ServiceAccount of %s is %q", name, agent.ServiceAccountName)
	}
	var audience, bundle string
	for _, v := range agent.Volumes {
		if v.ConfigMap != nil {
			bundle = v.ConfigMap.Name
		}
		if v.Projected != nil {
			audience = v.Projected.Sources[0].ServiceAccountToken.Audience
		}
	}
	if audience != link.Audience || bundle != cert.BundleName {
		t.Errorf("%s mounts a token for %q and ConfigMap %q", name, audience, bundle)
	}
	if !slices.Contains(agent.Containers[0].Args, "--controller-ca=/etc/lamina/ca/"+cert.BundleKey) {
		t.Errorf("%s looks for its CA elsewhere: %q", name, agent.Containers[0].Args)
	}
}

func checkDriver(t *testing.T, m manifest) {
	t.Helper()
	var driver string
	switch o := m.obj.(type) {
	case *storagev1.CSIDriver:
		driver = o.Name
	case *storagev1.StorageClass:
		driver = o.Provisioner
	case *storagev1.VolumeAttributesClass:
		driver = o.DriverName
	case *snapshotv1.VolumeSnapshotClass:
		driver = o.Driver
	case *groupv1.VolumeGroupSnapshotClass:
		driver = o.Driver
	default:
		return
	}
	if driver != link.DriverName {
		t.Errorf("%s: %s %s is of driver %q", m.file, m.kind, m.meta.GetName(), driver)
	}
}

// Selectors find their pods, ports their names, mounts their volumes.
func TestPodsHangTogether(t *testing.T) {
	for name, pod := range workloads(t, base, relay, rendered, snapctrl, examples) {
		for _, c := range pod.Containers {
			for _, m := range c.VolumeMounts {
				if !slices.ContainsFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) &&
					!claimTemplate(t, name, m.Name) {
					t.Errorf("%s mounts %s, which is no volume", name, m.Name)
				}
			}
			for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe} {
				if p != nil && !slices.ContainsFunc(c.Ports, func(q corev1.ContainerPort) bool { return q.Name == p.HTTPGet.Port.StrVal }) {
					t.Errorf("%s probes port %s, which it does not have", name, p.HTTPGet.Port.StrVal)
				}
			}
		}
		for _, v := range pod.Volumes {
			if !slices.ContainsFunc(pod.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool { return v.Name == m.Name }) {
				t.Errorf("%s does not mount %s", name, v.Name)
			}
		}
	}
}

func claimTemplate(t *testing.T, workload, volume string) bool {
	t.Helper()
	for _, m := range decode(t, examples) {
		if s, ok := m.obj.(*appsv1.StatefulSet); ok && s.Name == workload {
			return slices.ContainsFunc(s.Spec.VolumeClaimTemplates, func(c corev1.PersistentVolumeClaim) bool { return c.Name == volume })
		}
	}
	return false
}

// The chart's version is the tag of the images.
func TestVersionsAgree(t *testing.T) {
	data, err := os.ReadFile("helm/lamina/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	app := regexp.MustCompile(`(?m)^appVersion: v(\S+)`).FindSubmatch(data)
	chart := regexp.MustCompile(`(?m)^version: (\S+)`).FindSubmatch(data)
	if app == nil || chart == nil || string(app[1]) != string(chart[1]) {
		t.Fatalf("appVersion %q, version %q", app, chart)
	}
	for name, pod := range workloads(t, base, relay) {
		want := "ghcr.io/lamina-csi/" + program(name) + ":v" + string(app[1])
		if got := pod.Containers[0].Image; got != want {
			t.Errorf("%s runs %s, want %s", name, got, want)
		}
	}
}
