package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
)

// testDir is the working directory of a test binary in the guest; the package's
// testdata directory lies in it.
const testDir = "/vm/src"

// RunGoTest compiles a package's tests, without cgo, and runs them in a machine.
// pkg is an import path or ./path from the module's root; args are the test
// binary's, such as -test.run=X. cfg.Program, Args and Dir are set here. Tags
// are build tags, separated by commas, or empty.
func RunGoTest(ctx context.Context, pkg, tags string, cfg Config, args ...string) (exit int, err error) {
	root, err := bundle.ModuleRoot()
	if err != nil {
		return -1, err
	}
	dir, err := os.MkdirTemp("", "vm-test-")
	if err != nil {
		return -1, err
	}
	defer os.RemoveAll(dir)
	src, err := goCommand(ctx, root, "list", "-tags="+tags, "-f", "{{.Dir}}", "--", pkg)
	if err != nil {
		return -1, fmt.Errorf("find package %s: %w", pkg, err)
	}
	src = strings.TrimSpace(src)
	binary := filepath.Join(dir, filepath.Base(src)+".test")
	if _, err := goCommand(ctx, root, "test", "-c", "-tags="+tags, "-o", binary, pkg); err != nil {
		return -1, fmt.Errorf("compile the tests of %s: %w", pkg, err)
	}
	if _, err := os.Stat(binary); errors.Is(err, fs.ErrNotExist) {
		return -1, fmt.Errorf("%s has no tests", pkg)
	}
	cfg.Program, cfg.Args, cfg.Dir = binary, args, testDir
	cfg.Files = maps.Clone(cfg.Files)
	if cfg.Files == nil {
		cfg.Files = make(map[string]string)
	}
	cfg.Files[testDir+"/go.mod"] = filepath.Join(root, "go.mod") // makes the directory
	testdata := filepath.Join(src, "testdata")
	if _, err := os.Stat(testdata); err == nil {
		cfg.Files[testDir+"/testdata"] = testdata
	}
	return Run(ctx, cfg)
}

func goCommand(ctx context.Context, root string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s: %w: %s", args[0], err, stderr.String())
	}
	return string(out), nil
}
