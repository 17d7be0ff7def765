package main

import (
	"fmt"
	"path"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
)

// renderChart returns the chart's YAML files by name, rendered as `helm install`
// does for a file of values (none: the defaults). The chart's schema judges them.
func renderChart(dir, valuesFile, namespace string) (map[string]string, error) {
	chart, err := loader.Load(dir)
	if err != nil {
		return nil, fmt.Errorf("load the chart: %w", err)
	}
	values := chartutil.Values{}
	if valuesFile != "" {
		if values, err = chartutil.ReadValuesFile(valuesFile); err != nil {
			return nil, fmt.Errorf("read %s: %w", valuesFile, err)
		}
	}
	release := chartutil.ReleaseOptions{Name: "lamina", Namespace: namespace, Revision: 1, IsInstall: true}
	input, err := chartutil.ToRenderValues(chart, values, release, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, fmt.Errorf("check the values: %w", err)
	}
	rendered, err := engine.Engine{Strict: true}.Render(chart, input)
	if err != nil {
		return nil, fmt.Errorf("render the chart: %w", err)
	}
	files := map[string]string{}
	for name, text := range rendered {
		if path.Ext(name) == ".yaml" && strings.TrimSpace(text) != "" {
			files[path.Base(name)] = strings.TrimSpace(text) + "\n"
		}
	}
	return files, nil
}
