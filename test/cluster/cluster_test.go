//go:build cluster

package cluster

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testTime limits the whole test, a cold build included.
const testTime = 60 * time.Minute

// The steps share one cluster: a start costs a minute.
func TestCluster(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), testTime)
	defer cancel()
	var c *Cluster
	step := func(name string, fn func(t *testing.T)) {
		began := time.Now()
		if !t.Run(name, fn) {
			t.FailNow()
		}
		t.Logf("%s: %v", name, time.Since(began).Round(100*time.Millisecond))
	}
	step("start", func(t *testing.T) {
		var err error
		if c, err = Start(ctx, Config{Nodes: 2, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}); err != nil {
			t.Fatal(err)
		}
	})
	defer func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(c.Dir()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", c.Dir(), err)
		}
	}()
	step("nodes", func(t *testing.T) { testNodes(ctx, t, c) })
	step("pods and services", func(t *testing.T) { testPods(ctx, t, c) })
	step("token names its node", func(t *testing.T) { testToken(ctx, t, c) })
	step("device-mapper", func(t *testing.T) { testDeviceMapper(ctx, t, c) })
	step("API server outage", func(t *testing.T) { testOutage(ctx, t, c) })
	step("power cut", func(t *testing.T) { testPowerCut(ctx, t, c) })
	step("reboot", func(t *testing.T) { testReboot(ctx, t, c) })
}

func testNodes(ctx context.Context, t *testing.T, c *Cluster) {
	list, err := c.Client().CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 2 {
		t.Fatalf("%d nodes", len(list.Items))
	}
	for _, n := range c.Nodes() {
		out, err := n.Exec(ctx, "lsblk", "--nodeps", "--noheadings", "--bytes", "--output", "SERIAL,SIZE")
		if err != nil {
			t.Fatal(err)
		}
		for i := range n.Disks() {
			if want := n.DiskSerial(i) + " 10737418240"; !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
				t.Errorf("%s has no disk %q:\n%s", n.Name(), want, out)
			}
		}
	}
	var exit *ExitError
	if _, err := c.Node(0).Exec(ctx, "sh", "-c", "echo no >&2; exit 3"); !errors.As(err, &exit) || exit.Code != 3 || exit.Stderr != "no\n" {
		t.Errorf("a program that fails: %v", err)
	}
}

const webManifest = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: ` + BusyboxImage + `
        command: [sh, -c, 'mkdir /www; hostname > /www/index.html; exec httpd -f -h /www']
        volumeMounts: [{name: token, mountPath: /token}]
      volumes:
      - name: token
        projected: {sources: [{serviceAccountToken: {path: token, audience: test}}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80}]
`

// webPods returns the names of the pods, by node.
func webPods(ctx context.Context, t *testing.T, c *Cluster) map[string]corev1.Pod {
	t.Helper()
	list, err := c.Client().CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil {
		t.Fatal(err)
	}
	pods := make(map[string]corev1.Pod)
	for _, p := range list.Items {
		pods[p.Spec.NodeName] = p
	}
	return pods
}

// waitPods waits until every node has a pod that runs.
func waitPods(ctx context.Context, t *testing.T, c *Cluster) {
	t.Helper()
	if _, err := c.Kubectl(ctx, "rollout", "status", "daemonset/web", "--timeout=5m"); err != nil {
		t.Fatal(err)
	}
}

func testPods(ctx context.Context, t *testing.T, c *Cluster) {
	if _, err := c.KubectlInput(ctx, strings.NewReader(webManifest), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	waitPods(ctx, t, c)
	checkService(ctx, t, c)
}

// checkService has every pod reach every other through the Service's name.
func checkService(ctx context.Context, t *testing.T, c *Cluster) {
	t.Helper()
	pods := webPods(ctx, t, c)
	for node, p := range pods {
		seen := make(map[string]bool)
		for tries := 0; len(seen) < len(pods) && tries < 40; tries++ {
			out, err := c.Kubectl(ctx, "exec", p.Name, "--", "wget", "-qO-", "-T", "20", "http://web.default.svc.cluster.local")
			if err != nil {
				t.Fatalf("from %s: %v", node, err)
			}
			seen[strings.TrimSpace(out)] = true
		}
		for _, other := range pods {
			if !seen[other.Name] {
				t.Errorf("from %s: %s did not answer, only %v", node, other.Name, seen)
			}
		}
	}
}

// dump says what a node's programs wrote, when a step failed.
func dump(ctx context.Context, t *testing.T, n *Node) {
	t.Helper()
	if !t.Failed() {
		return
	}
	for _, log := range []string{"kubelet", "containerd", "kube-proxy"} {
		out, err := n.Exec(ctx, "tail", "-n", "30", filepath.Join("/var/log", log+".log"))
		t.Logf("%s on %s (%v):\n%s", log, n.Name(), err, out)
	}
	t.Logf("console of %s:\n%s", n.Name(), n.Console())
}
