// Command render keeps the two ways of installing the same. The Helm chart is the
// source: rendered with its default values, file by file, it is the kustomize base.
//
//	go -C deploy/tools run ./render           write what follows from the chart
//	go -C deploy/tools run ./render -check    fail if anything would change
//
// Both end by building the base and the overlay extension with kustomize and comparing
// them, object by object, with what Helm renders, and by building every other
// kustomization.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// namespace is that of the kustomize base.
const namespace = "lamina-system"

// banner begins each generated file.
const banner = "# Generated from deploy/helm/lamina: make manifests.\n"

func main() {
	deploy := flag.String("deploy", "..", "the directory deploy of the project")
	check := flag.Bool("check", false, "change nothing, fail if a file is stale")
	flag.Parse()
	if err := run(*deploy, *check); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func run(deploy string, check bool) error {
	files, err := generate(deploy)
	if err != nil {
		return err
	}
	put := write
	if check {
		put = compare
	}
	var errs []error
	for _, name := range files.names() {
		errs = append(errs, put(filepath.Join(deploy, name), files[name]))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := buildAll(deploy); err != nil {
		return err
	}
	for overlay, values := range map[string]string{"base": "", "extension": "relay-values.yaml"} {
		n, err := sameObjects(deploy, overlay, values)
		if err != nil {
			return err
		}
		fmt.Printf("helm and kustomize/%s render the same %d objects\n", overlay, n)
	}
	return nil
}

// output is generated files by their path below deploy.
type output map[string][]byte

func (o output) names() []string {
	var names []string
	for name := range o {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// generate renders the chart with its defaults and with every value changed.
func generate(deploy string) (output, error) {
	chartDir := filepath.Join(deploy, "helm", "lamina")
	files, err := renderChart(chartDir, "", namespace)
	if err != nil {
		return nil, err
	}
	out := output{}
	for name, text := range files {
		out["kustomize/base/"+name] = []byte(banner + text)
	}
	files, err = renderChart(chartDir, filepath.Join(chartDir, "ci", "relay-values.yaml"), namespace)
	if err != nil {
		return nil, err
	}
	out["kustomize/extension/relay.yaml"] = []byte(banner + files["relay.yaml"])
	files, err = renderChart(chartDir, filepath.Join(chartDir, "ci", "all-values.yaml"), "storage")
	if err != nil {
		return nil, err
	}
	out["rendered/helm-all-values.yaml"] = []byte(banner + joined(files))
	return out, nil
}

// joined puts files into one stream, in the order of their names.
func joined(files map[string]string) string {
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		b.WriteString("---\n" + files[name])
	}
	return b.String()
}

func write(path string, want []byte) error {
	return os.WriteFile(path, want, 0o644)
}

func compare(path string, want []byte) error {
	got, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if bytes.Equal(got, want) {
		return nil
	}
	g, w := strings.Split(string(got), "\n"), strings.Split(string(want), "\n")
	for i, line := range w {
		if i >= len(g) || g[i] != line {
			return fmt.Errorf("%s:%d is stale, it should be %q: make manifests", path, i+1, line)
		}
	}
	return fmt.Errorf("%s is stale, it should end after line %d: make manifests", path, len(w))
}
