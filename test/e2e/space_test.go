//go:build cluster

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/lamina-csi/lamina/test/cluster"
)

const (
	busybox = cluster.BusyboxImage
	// patience is how long one thing may take that usually takes seconds: the nodes
	// are emulated, and the host may be busy.
	patience = 5 * time.Minute
)

// space is the namespace of a step, and the means to work in it. What fails ends
// the step.
type space struct {
	*testing.T
	*suite
	ns string
}

// Fatal ends the step; [suite.dump] says it again.
func (s *space) Fatal(args ...any) {
	s.Helper()
	s.Fatalf("%s", fmt.Sprint(args...))
}

// Fatalf ends the step; [suite.dump] says it again.
func (s *space) Fatalf(format string, args ...any) {
	s.Helper()
	text := fmt.Sprintf(format, args...)
	s.failures = append(s.failures, s.Name()+": "+text)
	s.T.Fatal(text)
}

// namespace is a step's name as Kubernetes takes it.
func namespace(step string) string {
	return "e2e-" + strings.ToLower(strings.ReplaceAll(step, " ", "-"))
}

// cluster runs kubectl without a namespace.
func (s *space) cluster(args ...string) string {
	s.Helper()
	out, err := s.c.Kubectl(s.ctx, args...)
	if err != nil {
		s.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// kubectl runs kubectl in the space's namespace.
func (s *space) kubectl(args ...string) string {
	s.Helper()
	return s.cluster(append([]string{"--namespace", s.ns}, args...)...)
}

// apply applies manifests.
func (s *space) apply(manifests ...string) {
	s.Helper()
	in := strings.NewReader(strings.Join(manifests, "\n---\n"))
	if _, err := s.c.KubectlInput(s.ctx, in, "--namespace", s.ns, "apply", "-f", "-"); err != nil {
		s.Fatal(err)
	}
}

// example applies files of deploy/examples as they are.
func (s *space) example(names ...string) {
	s.Helper()
	args := []string{"apply"}
	for _, name := range names {
		args = append(args, "-f", s.file("deploy", "examples", name))
	}
	s.kubectl(args...)
}

func (s *suite) file(path ...string) string {
	return filepath.Join(append([]string{s.root}, path...)...)
}

// wait waits for a condition as kubectl knows it, such as condition=Ready or
// jsonpath={.status.phase}=Bound, of objects such as pod/app.
func (s *space) wait(forWhat string, objects ...string) {
	s.Helper()
	s.kubectl(append([]string{"wait", "--for=" + forWhat, fmt.Sprintf("--timeout=%v", patience)}, objects...)...)
}

// ready waits until pods are.
func (s *space) ready(pods ...string) {
	s.Helper()
	for _, p := range pods {
		s.wait("create", "pod/"+p)
		s.wait("condition=Ready", "pod/"+p)
	}
}

// bound waits until claims are.
func (s *space) bound(claims ...string) {
	s.Helper()
	for _, c := range claims {
		s.wait("jsonpath={.status.phase}=Bound", "pvc/"+c)
	}
}

// sh runs a script in a pod and returns what it printed.
func (s *space) sh(pod, script string) string {
	s.Helper()
	return s.kubectl("exec", pod, "--", "sh", "-ec", script)
}

// field returns a field of an object, as a JSONPath in braces tells it.
func (s *space) field(object, path string) string {
	s.Helper()
	return s.kubectl("get", object, "-o", "jsonpath="+path)
}

// nodeOf returns the name of a pod's node.
func (s *space) nodeOf(pod string) string {
	s.Helper()
	return s.field("pod/"+pod, "{.spec.nodeName}")
}

// other returns the name of the node that is not this one.
func (s *space) other(node string) string {
	s.Helper()
	for _, n := range s.c.Nodes() {
		if n.Name() != node {
			return n.Name()
		}
	}
	s.Fatalf("there is no node but %s", node)
	return ""
}

// node returns a node by its name.
func (s *space) node(name string) *cluster.Node {
	s.Helper()
	for _, n := range s.c.Nodes() {
		if n.Name() == name {
			return n
		}
	}
	s.Fatalf("there is no node %q", name)
	return nil
}

// onNode runs a program on a node as root.
func (s *space) onNode(name string, args ...string) string {
	s.Helper()
	out, err := s.node(name).Exec(s.ctx, args...)
	if err != nil {
		s.Fatalf("%s: %v", name, err)
	}
	return strings.TrimSpace(out)
}

// until asks again until a condition holds; why tells what is missing.
func (s *space) until(what string, holds func() (ok bool, why string)) {
	s.Helper()
	var why string
	err := wait.PollUntilContextTimeout(s.ctx, 250*time.Millisecond, patience, true, func(context.Context) (ok bool, err error) {
		ok, why = holds()
		return ok, nil
	})
	if err != nil {
		s.Fatalf("%s: %v: %s", what, err, why)
	}
}

// event waits for an Event about an object, such as pod/app, whose text has some
// words.
func (s *space) event(object string, words ...string) {
	s.Helper()
	kind, name, _ := strings.Cut(object, "/")
	selector := fmt.Sprintf("involvedObject.kind=%s,involvedObject.name=%s", kind, name)
	s.until(fmt.Sprintf("an Event of %s with %q", object, words), func() (bool, string) {
		out := s.kubectl("get", "events", "--field-selector", selector, "-o", "jsonpath={range .items[*]}{.reason}: {.message}{\"\\n\"}{end}")
		for line := range strings.Lines(out) {
			has := true
			for _, w := range words {
				has = has && strings.Contains(line, w)
			}
			if has {
				return true, ""
			}
		}
		return false, out
	})
}

// equal ends the step if two texts differ.
func (s *space) equal(what, got, want string) {
	s.Helper()
	if got != want {
		s.Fatalf("%s: %q, want %q", what, got, want)
	}
}

// describe tells of a failed step's objects.
func (s *space) describe() {
	for _, args := range [][]string{
		{"get", "pods,pvc,events", "-o", "wide"},
		{"describe", "pods,pvc"},
	} {
		out, err := s.c.Kubectl(s.ctx, append([]string{"--namespace", s.ns}, args...)...)
		s.Logf("kubectl %v (%v):\n%s", args, err, out)
	}
}

// lv is a logical volume, as lvs tells it.
type lv struct {
	Name   string `json:"lv_name"`
	VG     string `json:"vg_name"`
	Tags   string `json:"lv_tags"`
	Active string `json:"lv_active"`
	Attr   string `json:"lv_attr"`
}

// lvs lists the volumes and snapshots on a node; thin pools and what LVM keeps for
// itself are not among them.
func (s *space) lvs(node string) []lv {
	s.Helper()
	var out struct {
		Report []struct {
			LV []lv `json:"lv"`
		} `json:"report"`
	}
	text := s.onNode(node, "lvs", "--reportformat", "json", "--options", "lv_name,vg_name,lv_tags,lv_active,lv_attr")
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		s.Fatalf("lvs on %s: %v: %s", node, err, text)
	}
	var all []lv
	for _, r := range out.Report {
		for _, l := range r.LV {
			if l.Attr[0] != 't' {
				all = append(all, l)
			}
		}
	}
	return all
}
