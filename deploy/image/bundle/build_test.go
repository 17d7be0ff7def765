//go:build vm

package bundle

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// These tests need the pinned packages, from the cache or the mirror.

func buildTree(t *testing.T) *Tree {
	t.Helper()
	root, err := ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := Build(t.Context(), Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestTwoBuildsAreIdentical(t *testing.T) {
	d1, a1 := writeOCI(t, buildTree(t))
	d2, a2 := writeOCI(t, buildTree(t))
	if d1 != d2 || sha256.Sum256(a1) != sha256.Sum256(a2) {
		t.Errorf("two builds differ: %s, %s", d1, d2)
	}
}

func TestTooLargeAgentIsRefused(t *testing.T) {
	root, err := ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(agent, make([]byte, MaxSize), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), Options{Root: root, Agent: agent}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Build() = %v, want ErrTooLarge", err)
	}
}

func TestBundleHoldsNoShellAndNoSetuid(t *testing.T) {
	for _, e := range buildTree(t).Entries() {
		if e.Mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			t.Errorf("/%s is setuid or setgid", e.Path)
		}
		if bytes.HasPrefix(e.Data, []byte("#!")) {
			t.Errorf("/%s is a script", e.Path)
		}
		switch path.Base(e.Path) {
		case "sh", "bash", "dash", "busybox", "perl", "python3":
			t.Errorf("/%s is an interpreter", e.Path)
		}
		for _, dir := range []string{"usr/share/doc", "usr/share/man", "usr/share/locale"} {
			if strings.HasPrefix(e.Path, dir) {
				t.Errorf("/%s is documentation", e.Path)
			}
		}
	}
}

func TestDroppedVersionIsNamed(t *testing.T) {
	mirror := httptest.NewServer(http.NotFoundHandler())
	defer mirror.Close()
	t.Setenv(MirrorEnv, mirror.URL)
	p := Package{Name: "lvm2", Version: "1-1", SHA256: sum, Size: 1, Path: "pool/main/l/lvm2_1-1_amd64.deb"}
	_, err := NewStore(t.TempDir()).Fetch(t.Context(), p)
	if !errors.Is(err, ErrDropped) {
		t.Fatalf("Fetch() = %v, want ErrDropped", err)
	}
	for _, want := range []string{"lvm2 1-1", "deploy/image lock"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error %q does not say %q", err, want)
		}
	}
}
