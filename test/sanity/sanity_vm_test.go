//go:build vm

package sanity

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lamina-csi/lamina/node/pool"
	"github.com/lamina-csi/lamina/test/agent"
	"github.com/lamina-csi/lamina/test/invariant"
)

// These tests run as root on a machine with a blank NVMe disk of 4 GiB or more
// and real LVM, each in a machine of its own: a process can run csi-sanity once,
// and a node's agent serves every pool that it finds.
//
// LAMINA_NODE is the path of the agent to start. Where LAMINA_ENDPOINT, the path
// of a CSI socket, is set instead, the agent behind it is judged; its kubelet
// directory is LAMINA_KUBELET_DIR and its pool is named fast.

func TestVMSanityThin(t *testing.T)  { vmSanity(t, pool.Thin) }
func TestVMSanityThick(t *testing.T) { vmSanity(t, pool.Thick) }

func vmSanity(t *testing.T, mode pool.Mode) {
	endpoint, kubeletDir := os.Getenv("LAMINA_ENDPOINT"), os.Getenv("LAMINA_KUBELET_DIR")
	if endpoint == "" {
		a := startAgent(t, mode)
		endpoint, kubeletDir = a.Socket, a.KubeletDir
	}
	Run(t, target(mode, false, endpoint, kubeletDir), target(mode, true, endpoint, kubeletDir))
}

func startAgent(t *testing.T, mode pool.Mode) *agent.Agent {
	t.Helper()
	program := os.Getenv("LAMINA_NODE")
	if program == "" {
		t.Fatal("neither LAMINA_NODE nor LAMINA_ENDPOINT is set")
	}
	dir, err := os.MkdirTemp("", "csi-")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	a, err := agent.Start(ctx, agent.Options{
		Program: program,
		Dir:     filepath.Join(dir, "kubelet"),
		Pools:   fmt.Sprintf("pools: {fast: sanity}\nprofiles: {sanity: {mode: %s, disks: {minSize: 1Gi}}}\n", mode),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Errorf("lamina-node: %v", err)
		}
		if err := invariant.Check(context.Background(), invariant.Machine(nil)); err != nil {
			t.Errorf("after the test:\n%v", err)
		}
		if log, err := os.ReadFile(a.LogFile); err == nil && t.Failed() {
			t.Logf("the agent's log:\n%s", log)
		}
	})
	return a
}
