package cgroup_test

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lamina-csi/lamina/node/cgroup"
)

const (
	pod       = "01234567-89ab-cdef-0123-456789abcdef"
	staticPod = "0123456789abcdef0123456789abcdef"
)

var device = cgroup.Device{Major: 254, Minor: 3}

// tree makes directories with an empty io.max in each.
func tree(t *testing.T, dirs ...string) cgroup.Tree {
	t.Helper()
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		d = filepath.Join(root, d)
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(d, "io.max"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cgroup.Tree{Root: root}
}

// limited lists the directories whose io.max was written.
func limited(t *testing.T, c cgroup.Tree) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(c.Root, func(path string, _ os.DirEntry, err error) error {
		if err != nil || filepath.Base(path) != "io.max" {
			return err
		}
		text, err := os.ReadFile(path)
		if len(text) > 0 {
			out = append(out, strings.TrimPrefix(filepath.Dir(path), c.Root+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The layouts of both cgroup drivers of kubelet, in all QoS classes and below a
// cgroup root.
func TestFind(t *testing.T) {
	systemd := strings.ReplaceAll(pod, "-", "_")
	for _, dir := range []string{
		"kubepods/pod" + pod,
		"kubepods/burstable/pod" + pod,
		"kubepods/besteffort/pod" + pod,
		"kubelet/kubepods/burstable/pod" + pod,
		"a/b/c/kubepods/pod" + pod,
		"kubepods.slice/kubepods-pod" + systemd + ".slice",
		"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + systemd + ".slice",
		"kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + systemd + ".slice",
		"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" + systemd + ".slice",
		"a.slice/a-b.slice/a-b-kubepods.slice/a-b-kubepods-pod" + systemd + ".slice",
	} {
		t.Run(dir, func(t *testing.T) {
			c := tree(t, dir, dir+"/container", "system.slice/x.service", "kubepods/burstable/pod"+staticPod, "kubepods.slice/kubepods-pod"+staticPod+".slice")
			if err := c.Limit(pod, device, cgroup.Limits{ReadIOPS: 1}); err != nil {
				t.Fatal(err)
			}
			if got := limited(t, c); len(got) != 1 || got[0] != dir {
				t.Errorf("limited %q", got)
			}
		})
	}
}

func TestFindStaticPod(t *testing.T) {
	c := tree(t, "kubepods/burstable/pod"+staticPod)
	if err := c.Limit(staticPod, device, cgroup.Limits{}); err != nil {
		t.Error(err)
	}
}

func TestLine(t *testing.T) {
	c := tree(t, "kubepods/pod"+pod)
	for want, l := range map[string]cgroup.Limits{
		"254:3 rbps=max wbps=max riops=max wiops=max\n":                        {},
		"254:3 rbps=3 wbps=4 riops=1 wiops=2\n":                                {ReadIOPS: 1, WriteIOPS: 2, ReadBandwidth: 3, WriteBandwidth: 4},
		"254:3 rbps=9223372036854775807 wbps=max riops=max wiops=4294967294\n": {ReadBandwidth: math.MaxInt64, WriteIOPS: math.MaxUint32 - 1},
	} {
		if err := c.Limit(pod, device, l); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(c.Root, "kubepods/pod"+pod+"/io.max"))
		if err != nil || string(got) != want {
			t.Errorf("io.max holds %q, want %q (%v)", got, want, err)
		}
	}
}

// What cannot be limited is an error that says why, and nothing is made or written.
func TestCannotLimit(t *testing.T) {
	for name, c := range map[string]struct {
		dirs   []string
		change func(root string) error
		words  []string
	}{
		"nothing":            {nil, nil, []string{"no kubepods", "host's cgroups"}},
		"cgroup v1":          {nil, func(root string) error { return os.Remove(filepath.Join(root, "cgroup.controllers")) }, []string{"no cgroup v2"}},
		"another pod":        {[]string{"kubepods/burstable/pod" + staticPod}, nil, []string{"kubepods", "still being made"}},
		"a longer name":      {[]string{"kubepods/pod" + pod + "-2", "kubepods/xpod" + pod}, nil, []string{"still being made"}},
		"other QoS class":    {[]string{"kubepods/guaranteed/pod" + pod}, nil, []string{"still being made"}},
		"drivers mixed up":   {[]string{"kubepods.slice/pod" + pod, "kubepods/kubepods-pod" + strings.ReplaceAll(pod, "-", "_") + ".slice"}, nil, []string{"still being made"}},
		"inside a container": {[]string{"kubepods/pod" + staticPod + "/container/kubepods/pod" + pod}, nil, []string{"still being made"}},
		"made by a user":     {[]string{"user.slice/kubepods/pod" + pod}, nil, []string{"no kubepods"}},
		"too deep":           {[]string{"a/b/c/d/kubepods/pod" + pod}, nil, []string{"no kubepods"}},
		"no io controller":   {[]string{"kubepods/pod" + pod}, func(root string) error { return os.Remove(filepath.Join(root, "kubepods/pod"+pod, "io.max")) }, []string{"io.max", "io controller"}},
	} {
		t.Run(name, func(t *testing.T) {
			tr := tree(t, c.dirs...)
			if c.change != nil {
				if err := c.change(tr.Root); err != nil {
					t.Fatal(err)
				}
			}
			err := tr.Limit(pod, device, cgroup.Limits{ReadIOPS: 1})
			if !errors.Is(err, cgroup.ErrNoLimit) {
				t.Fatalf("error %v", err)
			}
			for _, w := range append(c.words, pod) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
			if got := limited(t, tr); len(got) > 0 {
				t.Errorf("limited %q", got)
			}
		})
	}
}

// Nothing but a UID is ever looked for.
func TestUID(t *testing.T) {
	c := tree(t, "kubepods/pod", "kubepods/pod..", "kubepods/podx/y", "x", "kubepods/pod*", "kubepods/poda_b")
	for _, uid := range []string{"", ".", "..", "../x", "../../x", "x/y", "/", "*", "?", "a_b", "a--b", "-a", "a-", "a\n", "a\x00b", strings.Repeat("a", 65), "ü"} {
		if err := c.Limit(uid, device, cgroup.Limits{ReadIOPS: 1}); !errors.Is(err, cgroup.ErrInvalid) {
			t.Errorf("%q: %v", uid, err)
		}
	}
	if got := limited(t, c); len(got) > 0 {
		t.Errorf("limited %q", got)
	}
}

// The search ends in a tree of any size.
func TestManyDirectories(t *testing.T) {
	var dirs []string
	for a := range 40 {
		for b := range 30 {
			dirs = append(dirs, filepath.Join("d", string(rune('A'+a)), string(rune('A'+b))))
		}
	}
	c := tree(t, append(dirs, "d/h/^/kubepods/pod"+pod)...)
	if err := c.Limit(pod, device, cgroup.Limits{}); !errors.Is(err, cgroup.ErrNoLimit) || !strings.Contains(err.Error(), "first 1000 directories") {
		t.Errorf("error %v", err)
	}
}
