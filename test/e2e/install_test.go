//go:build cluster

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// install follows docs/install.md: the two overlays, a label on each node.
func (s *space) install() {
	for _, overlay := range []string{"snapshot-controller", "base"} {
		s.cluster("apply", "-k", s.file("deploy", "kustomize", overlay))
	}
	s.example("snapshot-class.yaml")
	s.cluster("label", "node", "--all", "pool.lamina.dev/fast=nvme")
	s.cluster("-n", "lamina-system", "rollout", "status", "deployment/lamina-controller", "daemonset/lamina-node", "--timeout=5m")
	for _, n := range s.c.Nodes() {
		s.cluster("wait", "--for=condition=pool.lamina.dev/fast", "node/"+n.Name(), fmt.Sprintf("--timeout=%v", patience))
	}
	pools := time.Now()
	capacity := s.capacities("lamina")
	s.Logf("capacity objects were there %v after the pools: %v", time.Since(pools).Round(10*time.Millisecond), capacity)
	for _, n := range s.c.Nodes() {
		s.noPoolTrouble(n.Name())
	}
}

// capacities waits for a capacity of a class on every node, and returns the bytes by
// node.
func (s *space) capacities(class string) map[string]int64 {
	s.Helper()
	var out map[string]int64
	s.until("capacity objects of class "+class, func() (bool, string) {
		out = s.capacity(class)
		return len(out) == len(s.c.Nodes()), fmt.Sprint(out)
	})
	return out
}

func (s *space) capacity(class string) map[string]int64 {
	s.Helper()
	list, err := s.c.Client().StorageV1().CSIStorageCapacities("lamina-system").List(s.ctx, metav1.ListOptions{})
	if err != nil {
		s.Fatal(err)
	}
	out := map[string]int64{}
	for _, c := range list.Items {
		if c.StorageClassName == class && c.Capacity != nil && c.NodeTopology != nil {
			out[c.NodeTopology.MatchLabels["topology.lamina.dev/node"]] = c.Capacity.Value()
		}
	}
	return out
}

// noPoolTrouble: a pool that is made without trouble must not be told of as if it
// had some. That its agent has no link yet is the truth where pods start slowly.
func (s *space) noPoolTrouble(node string) {
	s.Helper()
	out := s.cluster("get", "events", "-n", "default", "--field-selector", "involvedObject.kind=Node,involvedObject.name="+node,
		"-o", `jsonpath={range .items[*]}{.type} {.reason}: {.message}{"\n"}{end}`)
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "Warning Pool") && !strings.HasPrefix(line, "Warning PoolUnlinked:") {
			s.Errorf("%s: %s", node, line)
		}
	}
	if !strings.Contains(out, "PoolOk") {
		s.Errorf("%s has no Event of its pool:\n%s", node, out)
	}
}

// claim is the README's: a claim, a pod, a volume.
func (s *space) claim() {
	s.example("claim.yaml")
	s.ready("app")
	if out := s.sh("app", "cat /data/log"); out == "" {
		s.Error("the pod wrote nothing")
	}
	pv := s.field("pvc/data", "{.spec.volumeName}")
	s.equal("the volume's node", s.field("pv/"+pv, "{.spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].values[0]}"), s.nodeOf("app"))
}

// statefulSet: three replicas over two nodes; a pod comes back to its data.
func (s *space) statefulSet() {
	s.example("statefulset.yaml")
	s.kubectl("rollout", "status", "statefulset/web", "--timeout=10m")
	var nodes []string
	for _, pod := range []string{"web-0", "web-1", "web-2"} {
		nodes = append(nodes, s.nodeOf(pod))
	}
	slices.Sort(nodes)
	if len(slices.Compact(nodes)) != 2 {
		s.Errorf("the replicas run on %v, want two nodes", nodes)
	}
	node, uid := s.nodeOf("web-0"), s.field("pod/web-0", "{.metadata.uid}")
	s.kubectl("delete", "pod", "web-0")
	s.until("another web-0", func() (bool, string) {
		now := s.kubectl("get", "pod/web-0", "--ignore-not-found", "-o", "jsonpath={.metadata.uid}")
		return now != "" && now != uid, now
	})
	s.ready("web-0")
	s.equal("the pod's node", s.nodeOf("web-0"), node)
	s.equal("the data", s.sh("web-0", "cat /data/log"), "web-0\nweb-0")
}

// cost prints what both programs use since they started. docs/testing.md has the
// numbers; nothing is asserted here but that they are known.
func (s *space) cost() {
	const show = `for f in VmRSS VmHWM; do grep $f /proc/$0/status; done; set -- $(cat /proc/$0/stat); echo "CPU: $((${14} + ${15})) ticks"`
	for _, n := range s.c.Nodes() {
		for _, program := range []string{"/lamina-node ", "/lamina-controller "} {
			for _, pid := range s.processes(n.Name(), program) {
				out := strings.Fields(s.onNode(n.Name(), "sh", "-c", show, pid))
				if len(out) < 8 {
					s.Errorf("process %s on %s: %q", pid, n.Name(), out)
				}
				s.Logf("%s %s %s", n.Name(), program, strings.Join(out, " "))
			}
		}
	}
}

// nothingLeft: what the steps made is gone, in Kubernetes and in LVM.
func (s *space) nothingLeft() {
	s.until("no volumes", func() (bool, string) {
		out := s.cluster("get", "pv,volumesnapshotcontents,volumegroupsnapshotcontents", "-o", "name")
		return out == "", out
	})
	for _, n := range s.c.Nodes() {
		if have := s.lvs(n.Name()); len(have) > 0 {
			s.Errorf("%s has %+v", n.Name(), have)
		}
	}
}
