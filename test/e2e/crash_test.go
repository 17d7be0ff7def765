//go:build cluster

package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// writer is a pod that appends numbers to a file, each on disk before the next. The
// mark is found in its command line.
func (s *space) writer(name, node string) {
	s.Helper()
	v := volume{name: name, size: "1Gi", prefer: node}
	script := fmt.Sprintf(`: %s; n=$(tail -n 1 /data/log 2>/dev/null || echo 0); while :; do n=$((n+1)); echo $n >> /data/log; sync; sleep 1; done`, s.mark(name))
	s.apply(strings.Replace(v.manifest(), "[sleep, infinity]", fmt.Sprintf("[sh, -ec, '%s']", script), 1))
	s.ready(name)
	s.equal("the node of "+name, s.nodeOf(name), node)
}

func (s *space) mark(pod string) string { return "writer-" + s.ns + "-" + pod }

// written reads a writer's file on its node, without the API server, and checks that
// no number is missing. It returns the last.
func (s *space) written(pv, node string) int {
	s.Helper()
	out := s.onNode(node, "sh", "-c", fmt.Sprintf("cat /var/lib/kubelet/pods/*/volumes/kubernetes.io~csi/%s/mount/log", pv))
	n := 0
	for line := range strings.Lines(out) {
		got, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || got != n+1 {
			s.Fatalf("the file of %s goes on with %q after %d", pv, line, n)
		}
		n = got
	}
	return n
}

// goesOn waits until a writer has written more.
func (s *space) goesOn(pv, node string) {
	s.Helper()
	before := s.written(pv, node)
	s.until("more is written to "+pv, func() (bool, string) {
		now := s.written(pv, node)
		return now > before, fmt.Sprintf("%d, then %d", before, now)
	})
}

// controllerKilled: in the middle of 50 creates. There are 50 volumes, and no more.
func (s *space) controllerKilled() {
	const claims = 50
	s.class("lamina-crash", "", "volumeBindingMode: Immediate")
	var all []string
	for i := range claims {
		all = append(all, volume{name: fmt.Sprintf("claim-%d", i), size: "64Mi", class: "lamina-crash", noPod: true}.manifest())
	}
	s.apply(all...)
	boundClaims := func() int {
		return strings.Count(s.kubectl("get", "pvc", "-o", "jsonpath={.items[*].status.phase}"), "Bound")
	}
	s.until("some claims are bound", func() (bool, string) {
		n := boundClaims()
		return n >= claims/5, fmt.Sprint(n)
	})
	node := s.cluster("-n", "lamina-system", "get", "pods", "-l", "app.kubernetes.io/name=lamina-controller", "-o", "jsonpath={.items[0].spec.nodeName}")
	s.kill(node, "/lamina-controller ")
	s.Logf("the controller died with %d of %d claims bound", boundClaims(), claims)
	s.until("all claims are bound", func() (bool, string) {
		n := boundClaims()
		return n == claims, fmt.Sprint(n)
	})
	s.noLeak()
}

// processes finds those on a node whose command line has these words.
func (s *space) processes(node, words string) []string {
	s.Helper()
	const find = `for p in /proc/[0-9]*; do
	if tr '\0' ' ' 2>/dev/null < $p/cmdline | grep -qF -- "$0" && [ ${p#/proc/} != $$ ]; then echo ${p#/proc/}; fi
done`
	return strings.Fields(s.onNode(node, "sh", "-c", find, words))
}

// kill ends them as the kernel does when memory is short. A child of theirs that has
// not called exec yet has their command line, and may be gone by now: that is no error.
func (s *space) kill(node, words string) {
	s.Helper()
	found := s.processes(node, words)
	if len(found) == 0 {
		s.Fatalf("no process on %s has %q in its command line", node, words)
	}
	s.onNode(node, append([]string{"sh", "-c", `for p; do kill -9 "$p" || [ ! -e "/proc/$p" ] || exit 1; done`, "sh"}, found...)...)
}

// noLeak waits until the logical volumes are those that Kubernetes knows: no less and
// no more.
func (s *space) noLeak() {
	s.Helper()
	s.until("one logical volume for each volume and snapshot", func() (bool, string) {
		var want, have []string
		handles := s.cluster("get", "pv,volumesnapshotcontents", "-o", `jsonpath={range .items[*]}{.spec.csi.volumeHandle}{.status.snapshotHandle}{"\n"}{end}`)
		for h := range strings.Lines(handles) {
			if _, name, ok := strings.Cut(strings.TrimSpace(h), "/"); ok {
				want = append(want, name)
			}
		}
		for _, n := range s.c.Nodes() {
			for _, l := range s.lvs(n.Name()) {
				have = append(have, l.Name)
			}
		}
		slices.Sort(want)
		slices.Sort(have)
		return slices.Equal(want, have), fmt.Sprintf("Kubernetes knows %q, LVM %q", want, have)
	})
}

// agentKilled: under a pod that writes, which does not notice.
func (s *space) agentKilled() {
	const node = "node-0"
	s.writer("app", node)
	pv := s.field("pvc/app", "{.spec.volumeName}")
	restarts := func() string {
		return s.cluster("-n", "lamina-system", "get", "pods", "-l", "app.kubernetes.io/name=lamina-node", "--field-selector", "spec.nodeName="+node,
			"-o", "jsonpath={.items[0].status.containerStatuses[0].restartCount} {.items[0].status.containerStatuses[0].ready}")
	}
	before, _, _ := strings.Cut(restarts(), " ")
	s.kill(node, "/lamina-node ")
	s.goesOn(pv, node)
	s.until("the agent is back", func() (bool, string) {
		now, ready, _ := strings.Cut(restarts(), " ")
		return now != before && ready == "true", now + " " + ready
	})
	s.goesOn(pv, node)
	s.equal("restarts of the pod", s.field("pod/app", "{.status.containerStatuses[0].restartCount}"), "0")
	s.volumes(volume{name: "after", size: "1Gi", prefer: node})
	s.ready("after")
}

// apiServerStopped: pods go on, and one that dies comes back to its volume.
func (s *space) apiServerStopped() {
	s.powered()
	const node = "node-1"
	s.writer("app", node)
	pv := s.field("pvc/app", "{.spec.volumeName}")
	if err := s.c.StopAPIServer(); err != nil {
		s.Fatal(err)
	}
	up := false
	defer func() {
		if !up {
			if err := s.c.StartAPIServer(s.ctx); err != nil {
				s.Error(err)
			}
		}
	}()
	s.goesOn(pv, node)
	before := s.processes(node, s.mark("app"))
	s.kill(node, s.mark("app"))
	s.until("the pod runs again", func() (bool, string) {
		now := s.processes(node, s.mark("app"))
		return len(now) > 0 && !slices.Equal(now, before), fmt.Sprint(now)
	})
	s.goesOn(pv, node)
	if err := s.c.StartAPIServer(s.ctx); err != nil {
		s.Fatal(err)
	}
	up = true
	s.volumes(volume{name: "after", size: "1Gi", prefer: node})
	s.ready("after")
	s.goesOn(pv, node)
}

// powered fails a step that needs the nodes' power switches.
func (s *space) powered() {
	s.Helper()
	if *attach {
		s.Fatal("the power switches belong to the process that runs the cluster: run this step without -attach")
	}
}

// powerCut: a node's pods come back with their data.
func (s *space) powerCut() {
	s.powered()
	const node = "node-1"
	s.writer("app", node)
	pv := s.field("pvc/app", "{.spec.volumeName}")
	before := s.written(pv, node)
	n := s.node(node)
	n.CutPower()
	if err := n.Boot(s.ctx); err != nil {
		s.Fatal(err)
	}
	if err := n.WaitReady(s.ctx); err != nil {
		s.Fatal(err)
	}
	s.wait("jsonpath={.status.containerStatuses[0].lastState.terminated.reason}", "pod/app")
	s.ready("app")
	s.goesOn(pv, node)
	if now := s.written(pv, node); now <= before {
		s.Errorf("%d numbers after the cut, %d before it", now, before)
	}
}

// drained: drain and reboot end, and close the volumes.
func (s *space) drained() {
	s.powered()
	s.example("statefulset.yaml")
	s.kubectl("rollout", "status", "statefulset/web", "--timeout=10m")
	node := s.nodeOf("web-0")
	s.cluster("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", fmt.Sprintf("--timeout=%v", patience))
	s.until("the volumes of "+node+" are closed", func() (bool, string) {
		var open []string
		for _, l := range s.lvs(node) {
			if l.Active != "" {
				open = append(open, l.Name)
			}
		}
		return len(open) == 0, fmt.Sprint(open)
	})
	n := s.node(node)
	if err := n.Reboot(s.ctx); err != nil {
		s.Fatal(err)
	}
	if err := n.WaitReady(s.ctx); err != nil {
		s.Fatal(err)
	}
	s.cluster("uncordon", node)
	s.ready("web-0")
	s.equal("the pod's node", s.nodeOf("web-0"), node)
	s.equal("the data", s.sh("web-0", "cat /data/log"), "web-0\nweb-0")
}

// nodeGone: volumes of a node that is gone wait for a person's word.
func (s *space) nodeGone() {
	s.powered()
	const node = "node-1"
	s.writer("app", node)
	pv := s.field("pvc/app", "{.spec.volumeName}")
	handle := s.field("pv/"+pv, "{.spec.csi.volumeHandle}")
	n := s.node(node)
	n.CutPower()
	s.cluster("delete", "node", node)
	s.kubectl("delete", "pod", "app", "--force", "--grace-period=0")
	s.kubectl("delete", "pvc", "app")
	s.until("the volume waits", func() (bool, string) {
		out := s.cluster("get", "events", "-A", "--field-selector", "involvedObject.kind=PersistentVolume,involvedObject.name="+pv, "-o", "jsonpath={.items[*].message}")
		return strings.Contains(out, "Unavailable"), out
	})
	s.equal("the volume of a node that is gone", s.cluster("get", "pv", pv, "-o", "jsonpath={.status.phase}"), "Released")
	s.cluster("annotate", "pv", pv, "lamina.dev/forget="+node)
	s.cluster("wait", "--for=delete", "pv/"+pv, fmt.Sprintf("--timeout=%v", patience))

	// The node comes back: nothing touched its disks, and what lies there is told of.
	if err := n.Boot(s.ctx); err != nil {
		s.Fatal(err)
	}
	if err := n.WaitReady(s.ctx); err != nil {
		s.Fatal(err)
	}
	s.cluster("label", "node", node, "pool.lamina.dev/fast=nvme")
	s.cluster("wait", "--for=condition=pool.lamina.dev/fast", "node/"+node, fmt.Sprintf("--timeout=%v", patience))
	_, name, _ := strings.Cut(handle, "/")
	s.until("an Event of the orphan "+name, func() (bool, string) {
		out := s.cluster("get", "events", "-A", "--field-selector", "involvedObject.kind=Node,involvedObject.name="+node, "-o", `jsonpath={range .items[*]}{.reason}: {.message}{"\n"}{end}`)
		return strings.Contains(out, name), out
	})
	vg := s.lvs(node)
	i := slices.IndexFunc(vg, func(l lv) bool { return l.Name == name })
	if i < 0 {
		s.Fatalf("%s is not on %s: %+v", name, node, vg)
	}
	// A person removes it, by hand.
	s.onNode(node, "lvremove", "--yes", vg[i].VG+"/"+name)
}
