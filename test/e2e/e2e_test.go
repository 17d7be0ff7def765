//go:build cluster

// Package e2e uses Lamina as its users do: the manifests and examples of deploy,
// kubectl, and a Kubernetes whose nodes are virtual machines with a real kernel and
// real LVM (test/cluster).
//
//	make e2e                                          everything, on a cluster of its own
//	make cluster                                      a cluster to look at, and then
//	go test -tags cluster ./test/e2e -attach -run TestE2E/snapshots
package e2e

import (
	"context"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
	"github.com/lamina-csi/lamina/test/cluster"
	"github.com/lamina-csi/lamina/test/cluster/asset"
)

var attach = flag.Bool("attach", false, "use the cluster of `make cluster`; what needs its power switches fails")

// suiteTime limits all of it, a first build of the cluster's programs included.
const suiteTime = 80 * time.Minute

// suite is one cluster with Lamina on it.
type suite struct {
	ctx  context.Context
	c    *cluster.Cluster
	root string // of the module

	failures []string // what failed, for the end of a long output
}

// The steps share a cluster and leave it as they found it; each has a namespace.
// The first three must have passed for the others to make sense.
func TestE2E(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), suiteTime)
	defer cancel()
	s := &suite{ctx: ctx}
	s.start(t)
	defer s.dump(t)
	s.step(t, "install", (*space).install)
	s.step(t, "claim", (*space).claim)
	s.step(t, "cost at rest", (*space).cost)
	if t.Failed() {
		t.FailNow()
	}
	for _, st := range []struct {
		name string
		run  func(*space)
	}{
		{"statefulset", (*space).statefulSet},
		{"placement", (*space).placement},
		{"snapshots", (*space).snapshots},
		{"expansion", (*space).expansion},
		{"modes", (*space).modes},
		{"attributes", (*space).attributes},
		{"group snapshot", (*space).groupSnapshot},
		{"forged links", (*space).forgedLinks},
		{"controller killed", (*space).controllerKilled},
		{"agent killed", (*space).agentKilled},
		{"API server stopped", (*space).apiServerStopped},
		{"power cut", (*space).powerCut},
		{"drain and reboot", (*space).drained},
		{"node gone", (*space).nodeGone},
	} {
		s.step(t, st.name, st.run)
	}
	s.step(t, "cost after all", (*space).cost)
	s.step(t, "nothing is left", (*space).nothingLeft)
}

// TestExtensionMode has a cluster of its own, whose nodes change how they carry the
// agent.
func TestExtensionMode(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), suiteTime)
	defer cancel()
	s := &suite{ctx: ctx}
	s.start(t)
	defer s.dump(t)
	s.step(t, "install", (*space).install)
	if t.Failed() {
		t.FailNow()
	}
	s.step(t, "extension mode", (*space).extensionMode)
	s.step(t, "nothing is left", (*space).nothingLeft)
}

func (s *suite) start(t *testing.T) {
	t.Helper()
	var err error
	if s.root, err = bundle.ModuleRoot(); err != nil {
		t.Fatal(err)
	}
	if *attach {
		if s.c, err = cluster.Attach(filepath.Join(asset.Dir(s.root), "up")); err != nil {
			t.Fatal(err)
		}
		return
	}
	began := time.Now()
	images := filepath.Join(bundle.CacheDir(s.root), "bundle")
	s.c, err = cluster.Start(s.ctx, cluster.Config{
		Images: []string{filepath.Join(images, "lamina-node.tar"), filepath.Join(images, "lamina-controller.tar")},
		Log:    slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.c.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Logf("the cluster started in %v", time.Since(began).Round(time.Second))
}

// step runs a part of the suite in a namespace that goes away afterwards.
func (s *suite) step(t *testing.T, name string, run func(*space)) {
	t.Run(name, func(t *testing.T) {
		ns := namespace(name)
		sp := &space{T: t, suite: s, ns: ns}
		sp.cluster("create", "namespace", ns)
		t.Cleanup(func() {
			if t.Failed() {
				sp.describe()
			}
			// The context of a test has ended when its cleanup runs.
			if _, err := s.c.Kubectl(s.ctx, "delete", "namespace", ns, "--wait=false"); err != nil {
				t.Error(err)
			}
		})
		began := time.Now()
		run(sp)
		t.Logf("%s: %v", name, time.Since(began).Round(time.Second))
	})
}

// dump says at the end of a failed suite what Lamina wrote.
func (s *suite) dump(t *testing.T) {
	if !t.Failed() {
		return
	}
	for _, args := range [][]string{
		{"get", "pods,pv,csistoragecapacities", "-A", "-o", "wide"},
		{"-n", "lamina-system", "logs", "deploy/lamina-controller", "--tail=200"},
		{"-n", "lamina-system", "logs", "-l", "app.kubernetes.io/name=lamina-node", "--tail=150", "--prefix"},
	} {
		out, err := s.c.Kubectl(s.ctx, args...)
		t.Logf("kubectl %v (%v):\n%s", args, err, out)
	}
	for _, n := range s.c.Nodes() {
		if !n.Running() {
			t.Logf("%s is off; its console ended with:\n%s", n.Name(), n.Console())
		}
	}
	t.Logf("what failed:\n%s", strings.Join(s.failures, "\n"))
}
