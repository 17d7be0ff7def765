package deploy

import (
	"os"
	"path"
	"regexp"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/lamina-csi/lamina/deploy/image/extension"
)

// butane is what we use of Butane's configuration (its specification flatcar 1.0.0).
type butane struct {
	Variant, Version string
	Storage          struct {
		Files []struct {
			Path     string
			Contents struct {
				Source, Inline string
				Verification   struct{ Hash string }
			}
		}
	}
	Systemd struct {
		Units []struct {
			Name    string
			Enabled bool
		}
	}
}

// systemd takes the image only under the name that the release file in it has.
func TestButane(t *testing.T) {
	text, err := os.ReadFile("sysext/lamina.bu")
	if err != nil {
		t.Fatal(err)
	}
	var b butane
	if err := yaml.UnmarshalStrict(text, &b); err != nil {
		t.Fatal(err)
	}
	file := b.Storage.Files[0]
	if path.Dir(file.Path) != "/etc/extensions" || path.Base(file.Path) != extension.Name+".raw" || path.Base(file.Contents.Source) != extension.Name+".raw" {
		t.Errorf("%s comes to %s", file.Contents.Source, file.Path)
	}
	if !regexp.MustCompile(`^sha256-[0-9a-f]{64}$`).MatchString(file.Contents.Verification.Hash) {
		t.Errorf("the hash is %q", file.Contents.Verification.Hash)
	}
	if u := b.Systemd.Units; len(u) != 1 || u[0].Name != "systemd-sysext.service" || !u[0].Enabled {
		t.Errorf("the units are %+v", u)
	}
}
