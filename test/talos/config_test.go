package talos

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/siderolabs/talos/pkg/machinery/config/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/types/v1alpha1"
	"go.yaml.in/yaml/v4"
)

const deploy = "../../deploy/talos/"

// newer are documents that Talos 1.14 brought and the pinned module does not know
// (the schema of its machine configuration).
var newer = map[string]func() document{
	"KernelModuleConfig":   func() document { return new(kernelModule) },
	"LVMVolumeGroupConfig": func() document { return new(volumeGroup) },
}

type document interface{ check() error }

type kernelModule struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Name       string   `yaml:"name"`
	Parameters []string `yaml:"parameters"`
}

func (m *kernelModule) check() error {
	if m.APIVersion != "v1alpha1" || m.Name == "" {
		return errors.New("no apiVersion v1alpha1, or no name")
	}
	return nil
}

type volumeGroup struct {
	APIVersion   string `yaml:"apiVersion"`
	Kind         string `yaml:"kind"`
	Name         string `yaml:"name"`
	Provisioning struct {
		VolumeSelector struct {
			Match string `yaml:"match"`
		} `yaml:"volumeSelector"`
	} `yaml:"provisioning"`
}

var groupName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,63}$`)

func (g *volumeGroup) check() error {
	if g.APIVersion != "v1alpha1" || !groupName.MatchString(g.Name) || g.Provisioning.VolumeSelector.Match == "" {
		return errors.New("no apiVersion v1alpha1, no name of a group, or no selector")
	}
	return nil
}

// judgeConfig parses patches of the machine configuration: with Talos' own loader what
// that knows, strictly what is newer.
func judgeConfig(text []byte) error {
	var known bytes.Buffer
	for dec := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var doc map[string]any
		if err := dec.Decode(&doc); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		one, err := yaml.Marshal(doc)
		if err != nil {
			return err
		}
		kind, _ := doc["kind"].(string)
		parse, isNewer := newer[kind]
		if !isNewer {
			known.WriteString("---\n")
			known.Write(one)
			continue
		}
		parsed := parse()
		strict := yaml.NewDecoder(bytes.NewReader(one))
		strict.KnownFields(true)
		if err := strict.Decode(parsed); err != nil {
			return err
		}
		if err := parsed.check(); err != nil {
			return errors.New(kind + ": " + err.Error())
		}
	}
	if known.Len() == 0 {
		return nil
	}
	// As talosctl reads a patch (configpatcher.LoadPatch).
	cfg, err := configloader.NewFromBytes(known.Bytes(), configloader.WithAllowPatchDelete())
	if err != nil {
		return err
	}
	var errs []error
	for _, doc := range cfg.Documents() {
		if _, isPart := doc.(*v1alpha1.Config); isPart {
			continue // the rest of it is the node's own
		}
		if v, ok := doc.(config.Validator); ok {
			_, err := v.Validate(metal{})
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// metal is how Talos runs on a real machine (validation.RuntimeMode).
type metal struct{}

func (metal) String() string        { return "metal" }
func (metal) RequiresInstall() bool { return true }
func (metal) InContainer() bool     { return false }

// files that are no machine configuration.
var other = map[string]bool{"vg-job.yaml": true, "imager.yaml": true}

func TestExamples(t *testing.T) {
	files, err := filepath.Glob(deploy + "*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, file := range files {
		if other[filepath.Base(file)] {
			continue
		}
		n++
		if err := judgeConfig(read(t, file)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	if n < 6 {
		t.Errorf("only %d examples", n)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestBrokenExamples(t *testing.T) {
	for name, tc := range map[string]struct{ file, from, to, want string }{
		"unknown key":      {"pool.yaml", "nodeLabels", "nodeLabel", "unknown keys found"},
		"unknown kind":     {"raw-volume.yaml", "kind: RawVolumeConfig", "kind: RawVolume", "not registered"},
		"bad selector":     {"raw-volume.yaml", "match: system_disk", "match: 'system_disk &&'", "Syntax error"},
		"module key":       {"modules-1.14.yaml", "name: dm_raid", "module: dm_raid", "field module not found"},
		"no module name":   {"modules-1.14.yaml", "name: dm_thin_pool", "parameters: []", "no name"},
		"group's name":     {"volume-group-1.14.yaml", "name: data", "name: 'da ta'", "no name of a group"},
		"group's selector": {"volume-group-1.14.yaml", "volumeSelector", "diskSelector", "field diskSelector not found"},
	} {
		text := string(read(t, deploy+tc.file))
		if !strings.Contains(text, tc.from) {
			t.Errorf("%s: %s does not hold %q", name, tc.file, tc.from)
			continue
		}
		err := judgeConfig([]byte(strings.Replace(text, tc.from, tc.to, 1)))
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: judgeConfig() = %v, want %q", name, err, tc.want)
		}
	}
}

// The service's configuration is that of the extension, and the profile of the imager
// names what is built.
func TestExamplesAgree(t *testing.T) {
	var service struct{ Name string }
	if err := yaml.Unmarshal(read(t, deploy+"node-name.yaml"), &service); err != nil || service.Name != "lamina-node" {
		t.Errorf("node-name.yaml is for %q, %v", service.Name, err)
	}
	var profile struct {
		Arch, Platform, Version string
		Input                   struct {
			SystemExtensions []struct {
				TarballPath string `yaml:"tarballPath"`
			} `yaml:"systemExtensions"`
		}
		Output struct {
			Kind      string
			OutFormat string `yaml:"outFormat"`
		}
	}
	if err := strictly(deploy+"imager.yaml", &profile); err != nil {
		t.Fatal(err)
	}
	if e := profile.Input.SystemExtensions; len(e) != 1 || e[0].TarballPath != "/ext/lamina-node-talos.tar" {
		t.Errorf("imager.yaml adds %+v", e)
	}
	if err := judge(filepath.Join(bundles, profile.Arch, "talos"), profile.Version); err != nil {
		t.Errorf("the extension is not for imager.yaml's Talos: %v", err)
	}
}
