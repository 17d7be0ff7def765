package extension

import (
	"encoding/json"
	"io/fs"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
)

var packages = bundle.Lock{
	{Set: bundle.SetBundle, Name: "libstdc++6", Version: "14+b1", SHA256: strings.Repeat("0f", 32)},
	{Set: bundle.SetBundle, Name: "lvm2", Version: "2.03.31-2", SHA256: strings.Repeat("f0", 32)},
}

func sample() *bundle.Tree {
	t := bundle.NewTree()
	t.AddFile(bundle.AgentPath, 0o755, []byte("agent"))
	t.AddFile("etc/passwd", 0o644, []byte("root"))
	t.AddFile("etc/mke2fs.conf", 0o644, []byte("[defaults]"))
	t.AddFile("usr/sbin/lvm", 0o755, []byte("lvm"))
	t.AddLink("sbin", "usr/sbin")
	return t
}

func release1(arch bundle.Arch) Release {
	return Release{Version: "v0.1.0", Arch: arch, Packages: packages}
}

func files(t *bundle.Tree) []string {
	var out []string
	for _, e := range t.Entries() {
		if !e.Mode.IsDir() {
			out = append(out, e.Path)
		}
	}
	return out
}

func TestTalosTree(t *testing.T) {
	tree, err := Talos(sample(), release1(bundle.AMD64))
	if err != nil {
		t.Fatal(err)
	}
	const root = "rootfs/usr/local/lib/containers/lamina-node/"
	want := []string{
		"manifest.yaml",
		"rootfs/usr/local/etc/containers/lamina-node.yaml",
		root + "etc/mke2fs.conf", root + "etc/passwd", root + "sbin", root + "usr/local/bin/lamina-node", root + "usr/sbin/lvm",
		"rootfs/usr/local/share/spdx/lamina-node.spdx.json",
	}
	if diff := cmp.Diff(want, files(tree)); diff != "" {
		t.Error(diff)
	}
	if e, ok := tree.Lookup(root + "var/lib/kubelet"); !ok || !e.Mode.IsDir() {
		t.Error("kubelet's directory has no place to be mounted")
	}
}

func TestSysextTree(t *testing.T) {
	for arch, name := range map[bundle.Arch]string{bundle.AMD64: "x86-64", bundle.ARM64: "arm64"} {
		tree, err := Sysext(t.Context(), sample(), release1(arch))
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			"usr/lib/extension-release.d/extension-release.lamina-node",
			"usr/lib/lamina-node/etc/mke2fs.conf", "usr/lib/lamina-node/usr/local/bin/lamina-node", "usr/lib/lamina-node/usr/sbin/lvm",
			"usr/lib/systemd/system/lamina-node.service",
			"usr/lib/systemd/system/multi-user.target.d/10-lamina-node.conf",
			"usr/share/spdx/lamina-node.spdx.json",
		}
		if diff := cmp.Diff(want, files(tree)); diff != "" {
			t.Error(diff)
		}
		// systemd compares the end of this file's name with that of the image.
		text := content(t, tree, "usr/lib/extension-release.d/extension-release."+Name)
		if want := "ID=_any\nARCHITECTURE=" + name + "\nEXTENSION_RELOAD_MANAGER=1\nSYSEXT_VERSION_ID=v0.1.0\n"; text != want {
			t.Errorf("extension-release is %q, want %q", text, want)
		}
	}
}

func content(t *testing.T, tree *bundle.Tree, file string) string {
	t.Helper()
	e, ok := tree.Lookup(file)
	if !ok {
		t.Fatalf("there is no %s", file)
	}
	return string(e.Data)
}

func TestRefusals(t *testing.T) {
	bare := bundle.NewTree()
	bare.AddFile("usr/sbin/lvm", 0o755, nil)
	for name, tc := range map[string]struct {
		tree    *bundle.Tree
		change  func(*Release)
		wantErr string
	}{
		"no agent":     {bare, func(*Release) {}, "no agent"},
		"no packages":  {sample(), func(r *Release) { r.Packages = nil }, "no packages"},
		"plus":         {sample(), func(r *Release) { r.Version = "v1.0.0+git" }, "cannot be the value of a node label"},
		"empty":        {sample(), func(r *Release) { r.Version = "" }, "cannot be the value of a node label"},
		"long version": {sample(), func(r *Release) { r.Version = strings.Repeat("1", 64) }, "cannot be the value of a node label"},
	} {
		r := release1(bundle.AMD64)
		tc.change(&r)
		if _, err := Talos(tc.tree, r); err == nil || !strings.Contains(err.Error(), tc.wantErr) {
			t.Errorf("%s: Talos() = %v, want %q", name, err, tc.wantErr)
		}
		if _, err := Sysext(t.Context(), tc.tree, r); err == nil || !strings.Contains(err.Error(), tc.wantErr) {
			t.Errorf("%s: Sysext() = %v, want %q", name, err, tc.wantErr)
		}
	}
}

func TestSPDXNamesEveryPackage(t *testing.T) {
	var doc struct {
		SPDXVersion string
		Packages    []struct {
			SPDXID, Name, VersionInfo string
			ExternalRefs              []struct{ ReferenceLocator string }
		}
	}
	if err := json.Unmarshal(spdx(release1(bundle.ARM64)), &doc); err != nil {
		t.Fatal(err)
	}
	id := regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`)
	var got []string
	for _, p := range doc.Packages {
		if !id.MatchString(p.SPDXID) {
			t.Errorf("%q is no SPDX id", p.SPDXID)
		}
		got = append(got, p.Name+" "+p.VersionInfo)
	}
	if diff := cmp.Diff([]string{"lamina-node v0.1.0", "libstdc++6 14+b1", "lvm2 2.03.31-2"}, got); diff != "" {
		t.Error(diff)
	}
	if got, want := doc.Packages[1].ExternalRefs[0].ReferenceLocator, "pkg:deb/debian/libstdc%2B%2B6@14%2Bb1?arch=arm64&distro=trixie"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Directives that give a service a mount namespace (systemd.exec(5)): volumes that it
// mounts there reach nobody. And those that take from it what LVM needs of the host.
var forbidden = regexp.MustCompile(`^(Private|Protect|ReadOnly|ReadWrite|Inaccessible|NoExec|Exec(Paths)|Bind|` +
	`Temporary|Root|Mount|Extension|DynamicUser|IPCNamespace|NetworkNamespace|User|Restrict|SystemCall|NoNewPrivileges|` +
	`Capability|Device|LoadCredential|SetCredential|ImportCredential|ProcSubset|StateDirectory|RuntimeDirectory|CacheDirectory)`)

func TestUnit(t *testing.T) {
	var section string
	set := map[string]string{}
	for line := range strings.Lines(string(unit)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = line
			if section == "[Install]" {
				t.Error("[Install] has no effect in a sysext image")
			}
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || forbidden.MatchString(key) {
				t.Errorf("%s %s", section, line)
			}
			set[key] = value
		}
	}
	for key, want := range map[string]string{
		"KillMode": "process", "Restart": "always", "Wants": "modprobe@dm_thin_pool.service", "StartLimitIntervalSec": "0",
	} {
		if set[key] != want {
			t.Errorf("%s=%s, want %s", key, set[key], want)
		}
	}
	if program, _, _ := strings.Cut(set["ExecStart"], " "); program != "/"+SysextRoot+"/"+bundle.AgentPath {
		t.Errorf("it starts %s", program)
	}
	if !strings.Contains(set["ExecStart"], "--userland=/"+SysextRoot+" ") {
		t.Errorf("the agent uses the host's programs: %s", set["ExecStart"])
	}
}

func TestNothingIsWritableOrSetuid(t *testing.T) {
	talos, err := Talos(sample(), release1(bundle.AMD64))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range talos.Entries() {
		if e.Mode&fs.ModeSymlink == 0 && (e.Mode.Perm()&0o022 != 0 || e.Mode&(fs.ModeSetuid|fs.ModeSetgid) != 0) {
			t.Errorf("/%s has the mode %s", e.Path, e.Mode)
		}
		if e.Mode&fs.ModeSymlink != 0 && (path.IsAbs(e.Link) || strings.HasPrefix(path.Join(path.Dir(e.Path), e.Link), "..")) {
			t.Errorf("/%s leads to %s", e.Path, e.Link)
		}
	}
}
