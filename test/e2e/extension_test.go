//go:build cluster

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
	"github.com/lamina-csi/lamina/deploy/image/extension"
)

// extensionLabel is what Talos puts on a node that carries the extension.
const extensionLabel = "extensions.talos.dev/" + extension.Name

// extensionMode: one node carries the agent as an extension of its system, the other
// in a pod; then the other way round. Volumes and data stay where they are.
func (s *space) extensionMode() {
	s.powered()
	s.cluster("apply", "-k", s.file("deploy", "kustomize", "extension"))
	pvs := map[string]string{}
	for _, n := range s.c.Nodes() {
		app := "app-" + n.Name()
		s.writer(app, n.Name())
		pvs[n.Name()] = s.field("pvc/"+app, "{.spec.volumeName}")
	}
	for _, modes := range []map[string]bool{{"node-1": true}, {"node-0": true}} {
		s.switchModes(modes)
		s.modesWork(modes, pvs)
	}
}

// switchModes boots the nodes whose mode changes with the extension or without it,
// tells Kubernetes as Talos does, and waits until the pods that were there run again.
func (s *space) switchModes(modes map[string]bool) {
	s.Helper()
	restarts := func(node string) string {
		return s.field("pod/app-"+node, "{.status.containerStatuses[0].restartCount}")
	}
	before := map[string]string{}
	rootfs := filepath.Join(bundle.CacheDir(s.root), "bundle", "amd64", "talos", "rootfs")
	for _, n := range s.c.Nodes() {
		has := s.cluster("get", "nodes", "-l", extensionLabel, "-o", "name")
		want := modes[n.Name()]
		if strings.Contains(has, n.Name()) == want {
			continue
		}
		before[n.Name()] = restarts(n.Name())
		root, label := "", extensionLabel+"-"
		if want {
			root, label = rootfs, extensionLabel+"=test"
		}
		for _, do := range []func(context.Context) error{
			n.Shutdown,
			func(ctx context.Context) error { return n.SetExtension(ctx, root) },
			n.Boot,
			n.WaitReady,
		} {
			if err := do(s.ctx); err != nil {
				s.Fatal(err)
			}
		}
		s.cluster("label", "node", n.Name(), label)
	}
	for node, old := range before {
		s.until("the pod on "+node+" is started again", func() (bool, string) {
			now := restarts(node)
			return now != old, now
		})
	}
}

// modesWork: on each node the agent has one home, the pod that wrote before writes on,
// and a claim of the same class is served. Where the agent is an extension no pod is
// privileged.
func (s *space) modesWork(modes map[string]bool, pvs map[string]string) {
	s.Helper()
	for _, n := range s.c.Nodes() {
		node := n.Name()
		here, gone := "lamina-node", "lamina-relay"
		if modes[node] {
			here, gone = gone, here
		}
		pods := func(name string) string {
			return s.cluster("get", "pods", "-n", "lamina-system", "-l", "app.kubernetes.io/name="+name, "--field-selector", "spec.nodeName="+node,
				"-o", `jsonpath={range .items[*]}{.metadata.name} {.status.containerStatuses[*].ready}{end}`)
		}
		s.until(fmt.Sprintf("%s and no %s on %s", here, gone, node), func() (bool, string) {
			is, was := pods(here), pods(gone)
			return strings.HasSuffix(is, " true") && was == "", fmt.Sprintf("%q, %q", is, was)
		})
		privileged := s.cluster("get", "pods", "-A", "--field-selector", "spec.nodeName="+node,
			"-o", `jsonpath={range .items[?(@.spec.containers[*].securityContext.privileged==true)]}{.metadata.name} {end}`)
		if (privileged == "") != modes[node] {
			s.Errorf("extension mode of %s: %v; its privileged pods: %q", node, modes[node], privileged)
		}
		s.cluster("wait", "--for=condition=pool.lamina.dev/fast", "node/"+node, fmt.Sprintf("--timeout=%v", patience))
		s.ready("app-" + node)
		s.goesOn(pvs[node], node)
		after := volume{name: "new-" + node, size: "1Gi", prefer: node}
		s.volumes(after)
		s.ready(after.name)
		s.equal("the node of "+after.name, s.nodeOf(after.name), node)
		s.kubectl("delete", "pod/"+after.name, "pvc/"+after.name)
	}
}
