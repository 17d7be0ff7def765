//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/test/vm/wire"
)

// openIndex reads the module index.
func openIndex() (wire.Modules, error) {
	var idx wire.Modules
	data, err := os.ReadFile("/" + wire.ModulesPath)
	if err != nil {
		return idx, err
	}
	return idx, json.Unmarshal(data, &idx)
}

// loadModule loads the modules that a name or alias stands for. The index lacks
// a name that is built into the kernel; the kernel ignores that error.
func loadModule(idx wire.Modules, name string) error {
	name = strings.ReplaceAll(name, "-", "_")
	var found []string
	if _, ok := idx.Deps[name]; ok {
		found = append(found, name)
	}
	for _, a := range idx.Aliases {
		if ok, err := path.Match(strings.ReplaceAll(a.Pattern, "-", "_"), name); err == nil && ok {
			found = append(found, a.Module)
		}
	}
	if len(found) == 0 {
		return fmt.Errorf("no kernel module %s", name)
	}
	for _, m := range found {
		for _, dep := range slices.Concat(idx.Deps[m], []string{m}) {
			if err := insert(dep); err != nil {
				return fmt.Errorf("load kernel module %s: %w", dep, err)
			}
		}
	}
	return nil
}

func insert(name string) error {
	f, err := os.Open(filepath.Join("/", wire.ModulesDir, name+".ko"))
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}
