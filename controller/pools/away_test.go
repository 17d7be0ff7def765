package pools

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lamina-csi/lamina/driver/link"
)

const (
	facts5 = "1.0 TiB on 1 disk (/dev/nvme0n1), under 10 % used, volume group lamina-fast"
	fast   = "pool.lamina.dev/fast"
)

func refusing(s *link.PoolStatus) {
	s.Refused = []*link.Refused{{Disk: "/dev/nvme1n1", Reason: "it is mounted"}}
}

func TestLostLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a", "fast=nvme"), configMap(nil))
		defer func() { r.stop() }()
		r.say("a", pool("fast", 5, refusing))
		ok := r.conditions("a")[fast]
		r.writes()
		r.events.take()

		r.agents.unlink("a")
		r.pass(50 * time.Second)
		r.say("a", pool("fast", 5, refusing))
		wantDiff(t, "writes after a short loss", r.writes(), []string(nil))

		r.agents.unlink("a")
		r.pass(50 * time.Second)
		wantDiff(t, "writes within a minute", r.writes(), []string(nil))
		r.pass(20 * time.Second)
		wantDiff(t, "condition", r.conditions("a")[fast],
			"Unknown Unlinked: the node's agent has no link to the controller; when it was last seen: "+facts5+"; /dev/nvme1n1 is refused: it is mounted")
		wantDiff(t, "writes", r.writes(), []string{"patch nodes/status"})
		wantDiff(t, "events", r.events.take(), []string{"a Warning PoolUnlinked: pool fast: the node's agent has no link to the controller; when it was last seen: " + facts5 + "; /dev/nvme1n1 is refused: it is mounted"})
		r.pass(24 * time.Hour)
		wantDiff(t, "writes in a day", r.writes(), []string(nil))

		r.say("a", pool("fast", 5, refusing))
		wantDiff(t, "condition", r.conditions("a")[fast], ok)
		// The refused disk is no news.
		wantDiff(t, "events", r.events.take(), []string{"a Normal PoolOk: pool fast: " + facts5})
	})
}

func TestNewLeaderGivesAgentsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a", "fast=nvme"), node("b", "fast=nvme"), configMap(nil))
		defer func() { r.stop() }()
		r.say("a", pool("fast", 5))
		r.say("b", pool("fast", 5))
		r.stop()
		r.writes()
		r.agents.say("a", false)
		r.agents.say("b", false)
		r.start()
		r.pass(90 * time.Second)
		r.agents.say("a", true)
		r.pass(20 * time.Second)
		r.say("a", pool("fast", 5))
		wantDiff(t, "writes", r.writes(), []string(nil))
		r.pass(30 * time.Second)
		wantDiff(t, "writes", r.writes(), []string{"patch nodes/status"})
		wantDiff(t, "node b", r.conditions("b")[fast], "Unknown Unlinked: the node's agent has no link to the controller; when it was last seen: "+facts5)
		wantDiff(t, "node a", r.conditions("a")[fast], "True Ok: "+facts5)
	})
}

func TestPoolThatTheAgentDoesNotShow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a", "fast=nvme"), configMap(nil))
		defer func() { r.stop() }()
		r.say("a")
		r.pass(30 * time.Second)
		wantDiff(t, "condition at first", r.conditions("a")[fast], "")
		r.pass(time.Minute)
		wantDiff(t, "condition", r.conditions("a")[fast], "Unknown Pending: the node's agent does not show the pool yet")
		wantDiff(t, "events", r.events.take(), []string(nil))
	})
}

func TestConditionGoesWithLabelAndVolumeGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a", "fast=nvme"), configMap(nil))
		defer func() { r.stop() }()
		r.say("a", pool("fast", 5))
		r.update("a", func(n *corev1.Node) { delete(n.Labels, fast) })
		r.say("a", pool("fast", 5, func(s *link.PoolStatus) { s.Wanted = false }))
		r.pass(time.Hour)
		wantDiff(t, "condition without label", r.conditions("a")[fast],
			"True Ok: "+facts5+", it takes no new volumes: no label pool.lamina.dev/fast asks for it")

		// An agent that is away says nothing of the volume group.
		r.agents.say("a", false)
		r.pass(time.Hour)
		if got := r.conditions("a")[fast]; got == "" {
			t.Error("the condition is gone although the agent is away")
		}
		// An agent that starts shows a pool only once it has found it.
		r.writes()
		r.agents.say("a", true)
		r.pass(50 * time.Second)
		wantDiff(t, "writes while the agent starts", r.writes(), []string(nil))
		r.pass(20 * time.Second)
		wantDiff(t, "conditions", keys(r.conditions("a")), []string{"Ready"})
		wantDiff(t, "writes", r.writes(), []string{"patch nodes/status"})
	})
}

func TestRemovedConditionComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a", "fast=nvme"), configMap(nil))
		defer func() { r.stop() }()
		r.say("a", pool("fast", 5))
		r.update("a", func(n *corev1.Node) { n.Status.Conditions = n.Status.Conditions[:1] })
		wantDiff(t, "condition", r.conditions("a")[fast], "True Ok: "+facts5)
	})
}

func TestDeletedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a", "fast=nvme"), configMap(nil))
		defer func() { r.stop() }()
		r.say("a", pool("fast", 5))
		if err := r.client.CoreV1().Nodes().Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		r.settle()
		r.writes()
		r.say("a", pool("fast", 95))
		r.pass(time.Hour)
		wantDiff(t, "writes", r.writes(), []string(nil))
		wantDiff(t, "forgotten", r.agents.forgotten, []string{"a"})
		// The agent keeps what it has: only labels change what is wanted.
		wantDiff(t, "desired", r.agents.desired["a"], `fast=nvme ""`)
		if _, err := r.client.CoreV1().Nodes().Create(t.Context(), node("a"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		r.settle()
		wantDiff(t, "desired of the new node", r.agents.desired["a"], "")
	})
}

// A patch is answered before the informer sees it: what was written counts.
func TestOwnWriteCountsBeforeTheInformerSeesIt(t *testing.T) {
	old, wrote := node("a"), node("a")
	old.ResourceVersion, wrote.ResourceVersion = "9", "10"
	s := &state{wrote: wrote}
	if got := s.newest(old); got != wrote {
		t.Error("the older node of the informer won")
	}
	newer := node("a")
	newer.ResourceVersion = "11"
	if got := s.newest(newer); got != newer || s.wrote != nil {
		t.Error("the newer node of the informer lost")
	}
	again := node("a")
	again.UID, again.ResourceVersion = "uid-2", "8"
	s.wrote = wrote
	if got := s.newest(again); got != again {
		t.Error("another node of the same name lost")
	}
}
