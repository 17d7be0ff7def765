// Package arch holds the rules on who may import whom (docs/decisions/layout.md)
// as tests.
package arch

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/lamina-csi/lamina/"

// pkg is what go list says of a package.
type pkg struct {
	ImportPath                         string
	Imports, TestImports, XTestImports []string
	Deps                               []string
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,TestImports,XTestImports,Deps"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v: %s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	if len(pkgs) == 0 {
		t.Fatal("go list found no package")
	}
	return pkgs
}

// A package of ours may import, of ours, only what stands here. Subpackages for
// tests are free: they reach no program.
var mayImport = map[string][]string{
	"lvm":             {},
	"node/disk":       {},
	"node/cgroup":     {},
	"node/mount":      {},
	"node/pool":       {"lvm"},
	"node":            {"lvm", "node/disk", "node/mount", "node/pool"},
	"driver/link":     {},
	"driver":          {"lvm", "node/cgroup", "node/mount", "node/pool", "driver/link"},
	"cmd/lamina-node": {"lvm", "node", "node/disk", "node/mount", "node/pool", "driver", "driver/link"},
}

// The controller never touches a disk: its packages know the link and each other.
var (
	isController        = regexp.MustCompile(`^(controller|cmd/lamina-controller)(/|$)`)
	controllerMayImport = regexp.MustCompile(`^(driver/link|controller(/.*)?)$`)
)

func TestImports(t *testing.T) {
	seen := 0
	for _, p := range list(t, "./...") {
		name := strings.TrimPrefix(p.ImportPath, module)
		allowed, ruled := mayImport[name]
		if strings.HasSuffix(name, "test") {
			continue // what tests use may know all
		}
		if isController.MatchString(name) {
			for _, imp := range p.Imports {
				if ours, ok := strings.CutPrefix(imp, module); ok && !controllerMayImport.MatchString(ours) {
					t.Errorf("%s imports %s", name, ours)
				}
			}
			continue
		}
		if !ruled {
			if top, _, _ := strings.Cut(name, "/"); top != "test" && top != "deploy" {
				t.Errorf("%s has no rule: add one", name)
			}
			continue
		}
		seen++
		for _, imp := range p.Imports {
			if ours, ok := strings.CutPrefix(imp, module); ok && !slices.Contains(allowed, ours) {
				t.Errorf("%s imports %s", name, ours)
			}
		}
	}
	if seen != len(mayImport) {
		t.Errorf("%d of %d packages with a rule exist", seen, len(mayImport))
	}
}

// The leaf has the standard library and x/sys only.
func TestLeaf(t *testing.T) {
	for _, imp := range list(t, "./lvm")[0].Imports {
		if strings.Contains(imp, ".") && !strings.HasPrefix(imp, "golang.org/x/sys/") {
			t.Errorf("lvm imports %s", imp)
		}
	}
}

func TestBannedImports(t *testing.T) {
	banned := map[string][]string{
		"os/exec":                       {"lvm", "node/mount"},
		"google.golang.org/grpc/codes":  {"driver", "driver/link"},
		"google.golang.org/grpc/status": {"driver", "driver/link"},
	}
	for _, p := range list(t, "./...") {
		name := strings.TrimPrefix(p.ImportPath, module)
		if top, _, _ := strings.Cut(name, "/"); top == "test" || top == "deploy" {
			continue
		}
		for imp, allowed := range banned {
			if strings.HasPrefix(name, "controller/") && imp != "os/exec" {
				continue
			}
			if slices.Contains(p.Imports, imp) && !slices.Contains(allowed, name) && !strings.HasSuffix(name, "test") {
				t.Errorf("%s imports %s, which belongs in %s", name, imp, strings.Join(allowed, ", "))
			}
		}
	}
}

// The agent never talks to Kubernetes: it does not link a client.
func TestAgentLinksNoClient(t *testing.T) {
	for _, dep := range list(t, "./cmd/lamina-node")[0].Deps {
		if strings.HasPrefix(dep, "k8s.io/client-go") || strings.HasPrefix(dep, "k8s.io/apimachinery") || strings.HasPrefix(dep, "k8s.io/api/") {
			t.Errorf("lamina-node links %s", dep)
		}
	}
}

// What `make build` builds is static and under 16 MiB.
func TestAgentIsStaticAndSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lamina-node")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w", "-o", path, "./cmd/lamina-node")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%.1f MiB", float64(info.Size())/(1<<20))
	if info.Size() >= 16<<20 {
		t.Errorf("%d bytes, 16 MiB are the bound", info.Size())
	}
	program, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("it needs a dynamic loader")
		}
	}
}
