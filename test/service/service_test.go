package service

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func ours(t *testing.T) Spec {
	t.Helper()
	text, err := os.ReadFile("../../deploy/image/extension/lamina-node.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What the agent relies on is in the configuration that runs, and what Talos keeps is
// not.
func TestConfig(t *testing.T) {
	c, err := ours(t).Config("/root", "node-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, kept := range []string{"CAP_SYS_BOOT", "CAP_SYS_MODULE"} {
		if slices.Contains(c.Process.Capabilities.Bounding, kept) {
			t.Errorf("it has %s", kept)
		}
	}
	var own []specs.LinuxNamespaceType
	for _, n := range c.Linux.Namespaces {
		own = append(own, n.Type)
	}
	if diff := cmp.Diff([]specs.LinuxNamespaceType{"pid", "mount", "uts", "cgroup"}, own); diff != "" {
		t.Error(diff)
	}
	if c.Linux.RootfsPropagation != "shared" || !c.Root.Readonly || !c.Process.NoNewPrivileges {
		t.Errorf("propagation %q, read-only %t, no new privileges %t", c.Linux.RootfsPropagation, c.Root.Readonly, c.Process.NoNewPrivileges)
	}
	allowed := map[string]bool{}
	for _, rule := range c.Linux.Seccomp.Syscalls {
		for _, name := range rule.Names {
			allowed[name] = allowed[name] || rule.Action == specs.ActAllow && len(rule.Args) == 0
		}
	}
	for name, want := range map[string]bool{"mount": true, "umount2": true, "semtimedop": true, "add_key": false, "request_key": false, "init_module": false} {
		if allowed[name] != want {
			t.Errorf("%s is allowed: %t", name, allowed[name])
		}
	}
}

func TestWaits(t *testing.T) {
	root := t.TempDir()
	s := ours(t)
	for _, made := range []string{"/dev/mapper/control", "/var/lib/kubelet/plugins_registry"} {
		if err := os.MkdirAll(filepath.Join(root, made), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Waits(root)
	if diff := cmp.Diff([]string{"/sys/module/dm_thin_pool"}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestParseIsStrict(t *testing.T) {
	for _, text := range []string{
		"name: x\ncontainer: {entrypoint: ./x}\nrestart: always\nbogus: 1",
		"name: x\ncontainer: {entrypoint: ./x, bogus: 1}\nrestart: always",
		"name: x\ncontainer: {entrypoint: ./x}",
	} {
		if _, err := Parse([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
