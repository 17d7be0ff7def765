package pools

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"unicode"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"

	"github.com/lamina-csi/lamina/driver/link"
)

// maxMessage is what one pool can put into a Node object.
const maxMessage = 10_000

// printable fails on what would fool a terminal or fill the API server.
func printable(t *testing.T, what, text string) {
	t.Helper()
	if len(text) > maxMessage || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) || strings.ContainsRune(text, '\u202e') {
		t.Errorf("%s: %d bytes: %.300q", what, len(text), text)
	}
}

// An agent that somebody has taken over fills neither its Node object nor the event
// list of others, and writes nothing onto terminals.
func TestHostileStatus(t *testing.T) {
	long := strings.Repeat("x\x1b[2J\u202e\n", 10_000)
	hostile := func(s *link.PoolStatus) {
		s.Health, s.Text, s.Error, s.Vg = "full", long, "error "+long, long
		s.Disks, s.Refused = nil, nil
		for range 500 {
			s.Disks = append(s.Disks, long)
			s.Refused = append(s.Refused, &link.Refused{Disk: long, Reason: long})
		}
	}
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a", "fast=nvme"), node("b", "fast=nvme"), configMap(nil))
		defer func() { r.stop() }()
		r.say("b", pool("fast", 5))
		before := r.conditions("b")
		r.events.take()
		statuses := []*link.PoolStatus{
			pool("fast", 5, hostile), pool("", 1, hostile), pool("../x", 1, hostile), pool(long, 1, hostile), pool("Ready", 1, hostile),
		}
		for i := range 1000 {
			statuses = append(statuses, pool(fmt.Sprintf("p%d", i), 5, hostile))
		}
		r.say("a", statuses...)
		conditions := r.node("a").Status.Conditions
		if len(conditions) < 2 || len(conditions) > maxPools+1 {
			t.Errorf("%d conditions", len(conditions))
		}
		for _, c := range conditions {
			printable(t, string(c.Type), string(c.Type)+c.Message)
			if _, name, _ := strings.Cut(string(c.Type), "/"); c.Type != corev1.NodeReady && !poolName.MatchString(name) {
				t.Errorf("condition %.80q", c.Type)
			}
		}
		wantDiff(t, "kubelet's condition", r.conditions("a")["Ready"], "True KubeletReady: ")
		for _, e := range r.events.take() {
			printable(t, "event", e)
			if !strings.HasPrefix(e, "a ") {
				t.Errorf("an event about another node: %.200q", e)
			}
		}
		wantDiff(t, "the other node's conditions", r.conditions("b"), before)
	})
}

// What a label asks for with an odd profile is passed on as text that is no
// profile: it makes no pool.
func TestHostileLabels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a", "fast=", "slow=none", "x=nvme\n", "fast.x=nvme"), configMap(map[string]string{"": "disks: {}", "big": strings.Repeat("a", 1<<20)}))
		defer func() { r.stop() }()
		r.pass(0)
		got := r.agents.desired["a"]
		for _, want := range []string{`slow=none "there is no profile \"none\""`, `fast= "disks: {}"`} {
			if !strings.Contains(got, want) {
				t.Errorf("%s is not in %.500s", want, got)
			}
		}
	})
}

// Whatever an agent says of a pool, its condition is bounded and printable, and is
// no news when it is said again. (No fuzz target: instrumenting client-go takes
// minutes.)
func TestDescribeAnything(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pieces := []string{"", "ok", "full", "error", "91%", "data is 9% full", "; ", ", ", "…", "\n", "\x1b[31m", "\u202e", "\u0085", "ü", "🙂", strings.Repeat("long ", 300), "no such profile"}
	text := func() string {
		var b strings.Builder
		for range random.IntN(4) {
			b.WriteString(pieces[random.IntN(len(pieces))])
		}
		return b.String()
	}
	number := func() int64 { return int64(random.Uint64()) >> random.IntN(64) }
	for range 20_000 {
		st := &link.PoolStatus{Health: text(), Text: text(), Error: text(), Vg: text(), Size: number(), Used: number()}
		for range random.IntN(20) {
			st.Disks = append(st.Disks, text())
			st.Refused = append(st.Refused, &link.Refused{Disk: text(), Reason: text()})
		}
		s := subject{pool: "fast", wanted: random.IntN(2) == 0}
		if random.IntN(4) == 0 {
			s.complaint = "no such profile"
		}
		r := describe(s, st)
		c := corev1.NodeCondition{Status: r.status, Reason: r.reason, Message: r.message()}
		printable(t, "message", c.Message)
		if c.Reason == "" || (c.Reason == reasonOk) != (c.Status == corev1.ConditionTrue) {
			t.Errorf("%+v", c)
		}
		s.old = &c
		if again := describe(s, st); !again.same(c) {
			t.Fatalf("said again it is news:\n%s\n%s", c.Message, again.message())
		}
	}
}
