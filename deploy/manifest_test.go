// Package deploy holds what is applied to a cluster: these tests judge it.
package deploy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	groupv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumegroupsnapshot/v1"
	snapshotv1 "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
)

// maxLines bounds the kustomize base: what a person reads before applying it.
const maxLines = 350

// manifest is one object of a file.
type manifest struct {
	file string
	kind string
	meta metav1.Object
	obj  runtime.Object
}

// decode reads files strictly: an unknown kind or field, or a field that is there
// twice, fails. A kind that is not built in, such as any CRD, is unknown.
func decode(t *testing.T, patterns ...string) []manifest {
	t.Helper()
	scheme := runtime.NewScheme()
	utilruntime.Must(clientscheme.AddToScheme(scheme))
	utilruntime.Must(snapshotv1.AddToScheme(scheme))
	utilruntime.Must(groupv1.AddToScheme(scheme))
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var out []manifest
	for _, file := range files(t, patterns...) {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		for docs := yaml.NewYAMLReader(bufio.NewReader(f)); ; {
			doc, err := docs.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if onlyComments(doc) {
				continue
			}
			obj, gvk, err := decoder.Decode(doc, nil, nil)
			if err != nil {
				t.Errorf("%s: %v", file, err)
				continue
			}
			m, err := meta.Accessor(obj)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			out = append(out, manifest{file: file, kind: gvk.Kind, meta: m, obj: obj})
		}
		f.Close()
	}
	return out
}

// files lists what patterns match, without kustomization.yaml.
func files(t *testing.T, patterns ...string) []string {
	t.Helper()
	var out []string
	for _, p := range patterns {
		found, err := filepath.Glob(p)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s matches %d files, %v", p, len(found), err)
		}
		for _, f := range found {
			if filepath.Base(f) != "kustomization.yaml" {
				out = append(out, f)
			}
		}
	}
	return out
}

func onlyComments(doc []byte) bool {
	for line := range bytes.Lines(doc) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' && !bytes.Equal(line, []byte("---")) {
			return false
		}
	}
	return true
}

const (
	base     = "kustomize/base/*.yaml"
	relay    = "kustomize/extension/*.yaml"
	rendered = "rendered/*.yaml"
	snapctrl = "kustomize/snapshot-controller/*.yaml"
	examples = "examples/*.yaml"
	vgJob    = "talos/vg-job.yaml"
)

func TestEveryManifestDecodes(t *testing.T) {
	if n := len(decode(t, base, relay, rendered, snapctrl, examples, vgJob)); n < 50 {
		t.Errorf("only %d objects", n)
	}
}

// No YAML below deploy escapes these tests: CRDs are upstream's, the chart is judged
// by what it renders, and what Talos reads is judged in test/talos.
func TestEveryManifestIsKnown(t *testing.T) {
	known := map[string]bool{}
	for _, f := range files(t, base, relay, rendered, snapctrl, examples, vgJob) {
		known[f] = true
	}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		exempt := d.Name() == "kustomization.yaml" || strings.HasPrefix(path, "helm/") ||
			strings.HasPrefix(path, "kustomize/snapshot-controller/crd/") ||
			strings.HasPrefix(path, "talos/") || strings.HasPrefix(path, "image/extension/")
		if strings.HasSuffix(path, ".yaml") && !known[path] && !exempt {
			t.Errorf("%s is decoded by no test", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestBaseIsShort(t *testing.T) {
	lines := 0
	for _, f := range append(files(t, base), "kustomize/base/kustomization.yaml") {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		lines += bytes.Count(data, []byte("\n"))
	}
	t.Logf("%d lines", lines)
	if lines >= maxLines {
		t.Errorf("the base has %d lines, %d are the bound", lines, maxLines)
	}
}

// Two workloads with one container each, and none of what makes an installation
// heavy: CRDs, webhooks, aggregated APIs.
func TestBaseIsLight(t *testing.T) {
	count := map[string]int{}
	for _, m := range decode(t, base) {
		count[m.kind]++
		for _, heavy := range []string{"Webhook", "CustomResource", "APIService", "AdmissionPolicy", "CronJob", "StatefulSet"} {
			if strings.Contains(m.kind, heavy) {
				t.Errorf("%s has a %s", m.file, m.kind)
			}
		}
	}
	if count["Deployment"] != 1 || count["DaemonSet"] != 1 {
		t.Errorf("%d Deployments and %d DaemonSets", count["Deployment"], count["DaemonSet"])
	}
	for name, pod := range workloads(t, base) {
		if n := len(pod.Containers) + len(pod.InitContainers); n != 1 {
			t.Errorf("%s has %d containers", name, n)
		}
	}
}

// The snapshot CRDs are those of the module that the programs are built with.
func TestSnapshotCRDsAreUpstreams(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/kubernetes-csi/external-snapshotter/client/v8").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := strings.TrimSpace(string(out))
	same := func(upstream, ours string) {
		want, err := os.ReadFile(upstream)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(ours)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs from %s", ours, upstream)
		}
	}
	const crds = "kustomize/snapshot-controller/crd/"
	same(filepath.Join(dir, "LICENSE"), crds+"LICENSE")
	all := files(t, filepath.Join(dir, "config/crd/*.yaml"))
	for _, upstream := range all {
		same(upstream, crds+filepath.Base(upstream))
	}
	if n := len(files(t, crds+"*.yaml")); n != len(all) {
		t.Errorf("%d CRDs, upstream has %d", n, len(all))
	}
}
