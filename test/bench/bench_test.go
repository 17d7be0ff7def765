package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Two lines of an API server's log (shortened), and one that is still being written.
const auditLog = `{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","stage":"ResponseComplete","requestURI":"/api/v1/nodes/node-00000/status","verb":"patch","user":{"username":"system:serviceaccount:lamina-system:lamina-controller"},"objectRef":{"resource":"nodes","name":"node-00000","apiVersion":"v1","subresource":"status"},"requestReceivedTimestamp":"2026-11-25T10:00:00.5Z"}
{"kind":"Event","verb":"update","user":{"username":"system:serviceaccount:kube-system:persistent-volume-binder"},"objectRef":{"resource":"persistentvolumes","name":"pvc-1"},"requestReceivedTimestamp":"2026-11-25T10:00:01Z"}
{"kind":"Event","verb":"upd`

func TestAudit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte(auditLog), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &audit{path: path}
	for range 2 { // what was read is not read again
		if err := a.read(); err != nil {
			t.Fatal(err)
		}
	}
	own, others := a.since(time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC))
	if len(own) != 1 || own[0].kind() != "patch nodes/status" || own[0].Object.Name != "node-00000" || !own[0].write() || own[0].steady() {
		t.Errorf("of the controller: %+v", own)
	}
	if len(others) != 1 || others[0].kind() != "update persistentvolumes" {
		t.Errorf("of others: %+v", others)
	}
	if own, others = a.since(time.Date(2026, 11, 25, 10, 0, 1, 0, time.UTC)); len(own) != 0 || len(others) != 1 {
		t.Errorf("later: %+v, %+v", own, others)
	}
}

func TestSamples(t *testing.T) {
	got := samples("# HELP x y\ngo_goroutines 12\nlamina_controller_nodes{state=\"linked\"} 5e+03\n\n")
	want := map[string]float64{"go_goroutines": 12, `lamina_controller_nodes{state="linked"}`: 5000}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, c := range []struct {
		sorted  []time.Duration
		p, want int
	}{{hundred, 50, 50}, {hundred, 99, 99}, {hundred[:1], 99, 1}, {hundred[:3], 50, 2}, {hundred[:1], 0, 1}} {
		if got := percentile(c.sorted, c.p); got != time.Duration(c.want) {
			t.Errorf("p%d of %d values is %d, want %d", c.p, len(c.sorted), got, c.want)
		}
	}
}

// The bars hold for the figures that have one, and each that is broken is told.
func TestVerdict(t *testing.T) {
	var fine, bad table
	fine.memory("peak", maxMemory-1, true)
	fine.memory("heap", 2*maxMemory, false)
	fine.writes(maxWrites)
	if err := fine.verdict(); err != nil {
		t.Error(err)
	}
	bad.memory("peak", maxMemory, true)
	bad.writes(maxWrites + 0.01)
	if len(bad.broken) != 2 || bad.verdict() == nil {
		t.Errorf("broken: %v", bad.broken)
	}
}

func TestStatus(t *testing.T) {
	rss, err := status(os.Getpid(), "VmRSS")
	if err != nil || rss < 1<<20 {
		t.Errorf("VmRSS is %v, %v", rss, err)
	}
	if _, err := status(os.Getpid(), "VmNothing"); err == nil {
		t.Error("a field that is not there has a value")
	}
}
