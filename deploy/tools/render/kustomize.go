package main

import (
	"fmt"
	"path/filepath"
	"reflect"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/kio"
)

// objects is manifests by kind, namespace and name.
type objects map[string]map[string]any

// buildAll builds every kustomization.
func buildAll(deploy string) error {
	dirs, err := filepath.Glob(filepath.Join(deploy, "kustomize", "*", "kustomization.yaml"))
	if err != nil {
		return err
	}
	for _, file := range dirs {
		if _, err := build(filepath.Dir(file)); err != nil {
			return err
		}
	}
	return nil
}

// sameObjects compares what kustomize makes of an overlay with what Helm makes of the
// chart and a file of values (none: the defaults). Only the order and the namespace
// itself, which Helm does not make, may differ. It returns the number of objects.
func sameObjects(deploy, overlay, values string) (int, error) {
	kustomized, err := build(filepath.Join(deploy, "kustomize", overlay))
	if err != nil {
		return 0, err
	}
	chartDir := filepath.Join(deploy, "helm", "lamina")
	if values != "" {
		values = filepath.Join(chartDir, "ci", values)
	}
	files, err := renderChart(chartDir, values, namespace)
	if err != nil {
		return 0, err
	}
	helmed, err := parse(joined(files))
	if err != nil {
		return 0, err
	}
	delete(kustomized, "Namespace /"+namespace)
	for id, o := range kustomized {
		if !reflect.DeepEqual(o, helmed[id]) {
			return 0, fmt.Errorf("%s differs: kustomize has\n%v\nhelm has\n%v", id, o, helmed[id])
		}
	}
	if len(helmed) != len(kustomized) || len(helmed) == 0 {
		return 0, fmt.Errorf("helm renders %d objects, kustomize %d", len(helmed), len(kustomized))
	}
	return len(helmed), nil
}

// build runs `kustomize build`.
func build(dir string) (objects, error) {
	res, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		return nil, fmt.Errorf("kustomize build %s: %w", dir, err)
	}
	text, err := res.AsYaml()
	if err != nil {
		return nil, err
	}
	return parse(string(text))
}

func parse(stream string) (objects, error) {
	nodes, err := kio.FromBytes([]byte(stream))
	if err != nil {
		return nil, err
	}
	out := objects{}
	for _, n := range nodes {
		id := fmt.Sprintf("%s %s/%s", n.GetKind(), n.GetNamespace(), n.GetName())
		if _, twice := out[id]; twice {
			return nil, fmt.Errorf("%s is there twice", id)
		}
		if out[id], err = n.Map(); err != nil {
			return nil, fmt.Errorf("read %s: %w", id, err)
		}
	}
	return out, nil
}
