//go:build cluster

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

func snapshotOf(name, claim string) string {
	return fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: %s}
spec:
  volumeSnapshotClassName: lamina
  source: {persistentVolumeClaimName: %s}
`, name, claim)
}

func fromSnapshot(name string) string {
	return fmt.Sprintf("{apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: %s}", name)
}

func fromClaim(name string) string {
	return fmt.Sprintf("{kind: PersistentVolumeClaim, name: %s}", name)
}

// snapshots: what is made from a volume lies on its node, whatever the scheduler
// would like, and lives on without it.
func (s *space) snapshots() {
	s.volumes(volume{name: "origin", size: "1Gi"})
	s.ready("origin")
	node := s.nodeOf("origin")
	elsewhere := s.other(node)
	s.sh("origin", "echo one > /data/file; sync")
	s.apply(snapshotOf("snap", "origin"))
	s.wait("jsonpath={.status.readyToUse}=true", "volumesnapshot/snap")
	s.sh("origin", "echo two > /data/file; sync")

	s.volumes(
		volume{name: "restored", size: "2Gi", from: fromSnapshot("snap"), prefer: elsewhere},
		volume{name: "cloned", size: "1Gi", from: fromClaim("origin"), prefer: elsewhere})
	s.ready("restored", "cloned")
	for pod, want := range map[string]string{"restored": "one", "cloned": "two"} {
		s.equal("the content of "+pod, s.sh(pod, "cat /data/file"), want)
		s.equal("the node of "+pod, s.nodeOf(pod), node)
	}
	s.equal("the restored volume is larger", s.sh("restored", "df -Pm /data | awk 'END {print ($2 > 1900)}'"), "1")

	pv := s.field("pvc/origin", "{.spec.volumeName}")
	s.kubectl("delete", "pod,pvc", "origin")
	s.cluster("wait", "--for=delete", "pv/"+pv, fmt.Sprintf("--timeout=%v", patience))
	s.volumes(volume{name: "late", size: "1Gi", from: fromSnapshot("snap"), prefer: elsewhere})
	s.ready("late")
	s.equal("the snapshot without its source", s.sh("late", "cat /data/file"), "one")
	s.equal("the node of late", s.nodeOf("late"), node)
}

// attributes: a VolumeAttributesClass holds on the pod's cgroup, and can be changed
// while the volume is used.
func (s *space) attributes() {
	s.example("volumeattributesclass.yaml")
	s.Cleanup(func() {
		if _, err := s.c.Kubectl(s.ctx, "delete", "volumeattributesclass", "--ignore-not-found", "--wait=false", "lamina-slow", "lamina-slower"); err != nil {
			s.Error(err)
		}
	})
	s.ready("limited")
	s.limits("limited", "rbps=104857600 wbps=52428800 riops=1000 wiops=500")
	s.apply(`
apiVersion: storage.k8s.io/v1
kind: VolumeAttributesClass
metadata: {name: lamina-slower}
driverName: lamina.dev
parameters: {writeIOPS: "100"}
`)
	s.kubectl("patch", "pvc", "limited", "-p", `{"spec": {"volumeAttributesClassName": "lamina-slower"}}`)
	s.wait("jsonpath={.status.currentVolumeAttributesClassName}=lamina-slower", "pvc/limited")
	// What the new class does not name stays (CSI spec, ControllerModifyVolume).
	s.limits("limited", "rbps=104857600 wbps=52428800 riops=1000 wiops=100")
}

// limits checks what the kernel holds a pod to.
func (s *space) limits(pod, want string) {
	s.Helper()
	uid := s.field("pod/"+pod, "{.metadata.uid}")
	out := s.onNode(s.nodeOf(pod), "sh", "-c", fmt.Sprintf("cat $(find /sys/fs/cgroup -type d -name '*%s*')/io.max", uid))
	if _, got, _ := strings.Cut(out, " "); got != want {
		s.Fatalf("io.max of pod %s is %q, want %q", pod, out, want)
	}
}

// line is a program in a pod that answers each line with one.
type line struct {
	in  io.WriteCloser
	out *bufio.Reader
	cmd *exec.Cmd
}

// open runs a script in a pod that reads lines and answers them.
func (s *space) open(pod, script string) *line {
	s.Helper()
	cmd := exec.CommandContext(s.ctx, s.c.KubectlPath(), "--namespace", s.ns, "exec", "-i", pod, "--", "sh", "-ec", script)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.c.Kubeconfig())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		s.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	return &line{in, bufio.NewReader(out), cmd}
}

func (l *line) ask(text string) error {
	if _, err := fmt.Fprintln(l.in, text); err != nil {
		return err
	}
	got, err := l.out.ReadString('\n')
	if err != nil {
		return err
	}
	if strings.TrimSpace(got) != text {
		return fmt.Errorf("answer %q to %q", got, text)
	}
	return nil
}

// groupSnapshot: three volumes on two nodes, a writer that stamps a counter into one
// after the other, and waits for each to be on disk. At any instant the counters
// agree, or fall by one along the way: so must those of the snapshots.
func (s *space) groupSnapshot() {
	volumes := []volume{{name: "a", size: "1Gi", prefer: "node-0"}, {name: "b", size: "1Gi", prefer: "node-1"}, {name: "c", size: "1Gi", prefer: "node-0"}}
	s.volumes(volumes...)
	var lines []*line
	for _, v := range volumes {
		s.ready(v.name)
		s.equal("the node of "+v.name, s.nodeOf(v.name), v.prefer)
		s.kubectl("label", "pvc", v.name, "group=g")
		lines = append(lines, s.open(v.name, `while read n; do echo $n > /data/new; sync /data/new; mv /data/new /data/n; sync; echo $n; done`))
	}
	stop, begun, stamped := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		for n := 1; ; n++ {
			for _, l := range lines {
				if err := l.ask(strconv.Itoa(n)); err != nil {
					stamped <- fmt.Errorf("stamp %d: %w", n, err)
					return
				}
			}
			if n == 2 {
				close(begun)
			}
			select {
			case <-stop:
				stamped <- nil
				return
			default:
			}
		}
	}()
	select {
	case <-begun:
	case err := <-stamped:
		s.Fatal(err)
	}
	s.apply(`
apiVersion: groupsnapshot.storage.k8s.io/v1
kind: VolumeGroupSnapshot
metadata: {name: together}
spec:
  volumeGroupSnapshotClassName: lamina
  source: {selector: {matchLabels: {group: g}}}
`)
	s.wait("jsonpath={.status.readyToUse}=true", "volumegroupsnapshot/together")
	close(stop)
	if err := <-stamped; err != nil {
		s.Fatal(err)
	}
	for _, l := range lines {
		l.in.Close()
		if err := l.cmd.Wait(); err != nil {
			s.Error(err)
		}
	}
	s.groupAgrees(volumes)
}

// groupAgrees restores the members of the group and compares the counters.
func (s *space) groupAgrees(volumes []volume) {
	// A member says which claim it was made from.
	members := s.kubectl("get", "volumesnapshots", "-o", `jsonpath={range .items[*]}{.metadata.name} {.spec.source.persistentVolumeClaimName}{.status.volumeGroupSnapshotName}{"\n"}{end}`)
	s.Logf("members:\n%s", members)
	var got []int
	for _, v := range volumes {
		content := ""
		for m := range strings.Lines(members) {
			name := strings.Fields(m)[0]
			if s.sourceClaim(name) == v.name {
				content = name
			}
		}
		if content == "" {
			s.Fatalf("no member of the group is of %s:\n%s", v.name, members)
		}
		restored := volume{name: v.name + "-then", size: "1Gi", from: fromSnapshot(content)}
		s.volumes(restored)
		s.ready(restored.name)
		s.equal("the node of "+restored.name, s.nodeOf(restored.name), v.prefer)
		n, err := strconv.Atoi(s.sh(restored.name, "cat /data/n 2>/dev/null || echo 0"))
		if err != nil {
			s.Fatal(err)
		}
		got = append(got, n)
	}
	s.Logf("the counters in the snapshots: %v", got)
	if !slices.IsSortedFunc(got, func(a, b int) int { return b - a }) || got[0]-got[len(got)-1] > 1 || got[0] == 0 {
		s.Errorf("the counters %v are not of one instant", got)
	}
}

// sourceClaim finds the claim of a member through its content's volume.
func (s *space) sourceClaim(snapshot string) string {
	content := s.field("volumesnapshot/"+snapshot, "{.status.boundVolumeSnapshotContentName}")
	if claim := s.field("volumesnapshot/"+snapshot, "{.spec.source.persistentVolumeClaimName}"); claim != "" {
		return claim
	}
	handle := s.field("volumesnapshotcontent/"+content, "{.spec.source.volumeHandle}")
	pvs := s.cluster("get", "pv", "-o", `jsonpath={range .items[*]}{.spec.csi.volumeHandle} {.spec.claimRef.name}{"\n"}{end}`)
	for pv := range strings.Lines(pvs) {
		f := strings.Fields(pv)
		if len(f) == 2 && f[0] == handle {
			return f[1]
		}
	}
	return ""
}
