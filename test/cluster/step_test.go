//go:build cluster

package cluster

import (
	"context"
	"errors"
	"strings"
	"testing"

	authentication "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A pod's token must say on which node the pod is: agents are known by it.
func testToken(ctx context.Context, t *testing.T, c *Cluster) {
	for node, p := range webPods(ctx, t, c) {
		token, err := c.Kubectl(ctx, "exec", p.Name, "--", "cat", "/token/token")
		if err != nil {
			t.Fatal(err)
		}
		review, err := c.Client().AuthenticationV1().TokenReviews().Create(ctx, &authentication.TokenReview{
			Spec: authentication.TokenReviewSpec{Token: token, Audiences: []string{"test"}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := review.Status.User.Extra["authentication.kubernetes.io/node-name"]
		if !review.Status.Authenticated || len(got) != 1 || got[0] != node {
			t.Errorf("the token of %s on %s: authenticated %v, node %v", p.Name, node, review.Status.Authenticated, got)
		}
	}
}

// udev must answer LVM, or every command would wait for ever on its cookie.
func testDeviceMapper(ctx context.Context, t *testing.T, c *Cluster) {
	defer dump(ctx, t, c.Node(0))
	for _, command := range []string{
		"pvcreate /dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_n0-disk0", "vgcreate rig /dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_n0-disk0",
		"lvcreate --size 64m --name lv rig", "ls /dev/rig/lv", "vgremove --yes rig",
	} {
		if _, err := c.Node(0).Exec(ctx, strings.Fields(command)...); err != nil {
			t.Fatal(err)
		}
	}
}

func testOutage(ctx context.Context, t *testing.T, c *Cluster) {
	if err := c.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client().CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err == nil {
		t.Error("the API server answers after it was stopped")
	}
	if _, err := c.Node(0).Exec(ctx, "pidof", "kubelet"); err != nil {
		t.Error(err)
	}
	if err := c.StartAPIServer(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Client().CoreV1().Nodes().List(ctx, metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
}

func testPowerCut(ctx context.Context, t *testing.T, c *Cluster) {
	n := c.Node(1)
	defer dump(ctx, t, n)
	if _, err := n.Exec(ctx, "sh", "-c", "echo kept > /var/lib/kubelet/kept; sync"); err != nil {
		t.Fatal(err)
	}
	before, err := n.Exec(ctx, "cat", "/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	n.CutPower()
	if n.Running() {
		t.Error("it runs without power")
	}
	if _, err := c.Node(0).Exec(ctx, "true"); err != nil {
		t.Errorf("the other node: %v", err)
	}
	if err := n.Boot(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	after, err := n.Exec(ctx, "cat", "/proc/sys/kernel/random/boot_id", "/var/lib/kubelet/kept")
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(after, before) || !strings.HasSuffix(after, "kept\n") {
		t.Errorf("boot %q, then %q", before, after)
	}
	waitRestarted(ctx, t, c, n)
	checkService(ctx, t, c)
}

// waitRestarted waits until the node's pod was started again after a boot: its
// status still says Ready when kubelet comes back.
func waitRestarted(ctx context.Context, t *testing.T, c *Cluster, n *Node) {
	t.Helper()
	pod := webPods(ctx, t, c)[n.Name()]
	if _, err := c.Kubectl(ctx, "wait", "pod", pod.Name, "--timeout=5m",
		"--for=jsonpath={.status.containerStatuses[0].lastState.terminated.reason}"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kubectl(ctx, "wait", "pod", pod.Name, "--timeout=5m", "--for=condition=Ready"); err != nil {
		t.Fatal(err)
	}
}

func testReboot(ctx context.Context, t *testing.T, c *Cluster) {
	n := c.Node(0)
	defer dump(ctx, t, n)
	if err := n.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if err := n.Boot(ctx); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("boot a node that is up: %v", err)
	}
	out, err := n.Exec(ctx, "dmesg")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out, "recovery complete") {
		t.Error("a file system was not unmounted before the reboot")
	}
}
