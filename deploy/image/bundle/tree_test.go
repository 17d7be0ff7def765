package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func sampleTree(agent bool) *Tree {
	t := NewTree()
	t.AddLink("bin", "usr/bin")
	t.AddFile("usr/bin/a", 0o755|fs.ModeSetuid, []byte("program"))
	t.AddFile("etc/conf", 0o644, []byte("text"))
	if agent {
		t.AddFile(AgentPath, 0o755, []byte("agent"))
	}
	return t
}

func TestTreeListsParentsFirstWithoutSetuid(t *testing.T) {
	var got []string
	for _, e := range sampleTree(false).Entries() {
		got = append(got, e.Mode.String()+" "+e.Path)
	}
	want := []string{
		"Lrwxrwxrwx bin", "drwxr-xr-x etc", "-rw-r--r-- etc/conf",
		"drwxr-xr-x usr", "drwxr-xr-x usr/bin", "-rwxr-xr-x usr/bin/a",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWriteDirReplacesWhatIsThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root")
	if err := os.MkdirAll(filepath.Join(dir, "stale"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := sampleTree(false).WriteDir(dir); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "bin/a"))
	if string(data) != "program" || err != nil {
		t.Errorf("bin/a is %q, %v", data, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "stale")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the stale directory is still there: %v", err)
	}
}

func writeOCI(t *testing.T, tree *Tree) (digest string, archive []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	d, err := NodeImage(tree, "v1", AMD64).WriteOCI(file)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return d.String(), data
}

func TestEqualTreesGiveEqualImages(t *testing.T) {
	d1, a1 := writeOCI(t, sampleTree(true))
	d2, a2 := writeOCI(t, sampleTree(true))
	if d1 != d2 || sha256.Sum256(a1) != sha256.Sum256(a2) {
		t.Errorf("two builds differ: %s, %s", d1, d2)
	}
	if d3, _ := writeOCI(t, sampleTree(false)); d3 == d1 {
		t.Error("another tree gives the same digest")
	}
}

func TestAgentIsTheEntryPoint(t *testing.T) {
	for _, agent := range []bool{true, false} {
		img, err := NodeImage(sampleTree(agent), "v1", AMD64).Build()
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		if agent {
			want = []string{"/usr/local/bin/lamina-node"}
		}
		if diff := cmp.Diff(want, cfg.Config.Entrypoint); diff != "" {
			t.Error(diff)
		}
	}
}

func TestImageRefusesABadTag(t *testing.T) {
	if _, err := NodeImage(sampleTree(true), "feature/x", AMD64).Build(); err == nil {
		t.Error("a tag with a slash was taken")
	}
}

// What importers read of the layout's index: the names, and where the image is.
func TestArchiveNamesItsImage(t *testing.T) {
	_, archive := writeOCI(t, sampleTree(true))
	var index struct {
		Manifests []struct{ Annotations map[string]string }
	}
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if err != nil {
			t.Fatalf("no index.json in the archive: %v", err)
		}
		if h.Name != "index.json" {
			continue
		}
		if err := json.NewDecoder(tr).Decode(&index); err != nil {
			t.Fatal(err)
		}
		break
	}
	if len(index.Manifests) != 1 {
		t.Fatalf("%d images in the archive", len(index.Manifests))
	}
	want := map[string]string{
		"io.containerd.image.name":          "ghcr.io/lamina-csi/lamina-node:v1",
		"org.opencontainers.image.ref.name": "v1",
	}
	if diff := cmp.Diff(want, index.Manifests[0].Annotations); diff != "" {
		t.Error(diff)
	}
}

func TestControllerImageIsOneStaticProgram(t *testing.T) {
	img, err := ControllerImage(goProgram(t), "v1", AMD64)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(img.Tree.Entries()); n != 1 {
		t.Errorf("%d entries, want the program alone", n)
	}
	built, err := img.Build()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := built.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Config{Entrypoint: []string{"/lamina-controller"}, User: "65532:65532"}
	if diff := cmp.Diff(want, cfg.Config); diff != "" {
		t.Error(diff)
	}
}

func TestControllerImageRefusesWhatCannotStart(t *testing.T) {
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{text, "/bin/sh", filepath.Join(t.TempDir(), "missing")} {
		if _, err := ControllerImage(file, "v1", AMD64); err == nil {
			t.Errorf("%s was taken", file)
		}
	}
}

// goProgram builds a static program.
func goProgram(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	source, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", program, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

func TestFetchRefusesAnotherContent(t *testing.T) {
	store := NewStore(t.TempDir())
	h := sha256.Sum256([]byte("right"))
	p := Package{Name: "lvm2", Version: "1", SHA256: hex.EncodeToString(h[:]), Path: "pool/x.deb"}
	if err := os.MkdirAll(store.dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(store.dir(), p.SHA256+".deb")
	if err := os.WriteFile(file, []byte("wrong"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := store.Fetch(context.Background(), p)
	if err == nil || !strings.Contains(err.Error(), "the lock says "+p.SHA256) {
		t.Errorf("Fetch() = %v, want a refusal", err)
	}
}
