package asset

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
)

// buildTags leave out of containerd what needs headers or is not used here.
const buildTags = "no_btrfs,no_zfs,no_devmapper"

// The version stands in the nodes' status and decides what kubectl warns of.
const ldflags = "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2" +
	" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37"

// goEnv makes equal sources give equal programs, whatever the commit.
var goEnv = []string{"CGO_ENABLED=0", "GOFLAGS=-trimpath -buildvcs=false"}

// programs builds the tools module: etcd (named "server" after its package),
// Kubernetes, containerd, CoreDNS and the snapshot controller.
func (b *builder) programs(ctx context.Context) (string, error) {
	tools := filepath.Join(b.root, "test", "cluster", "tools")
	version, err := exec.CommandContext(ctx, "go", "env", "GOVERSION").Output()
	if err != nil {
		return "", err
	}
	d := (&digest{}).text(buildTags, ldflags, strings.TrimSpace(string(version)))
	key, err := d.file(filepath.Join(tools, "go.mod"), filepath.Join(tools, "go.sum"),
		filepath.Join(tools, "coredns", "main.go")).key()
	if err != nil {
		return "", err
	}
	return b.cached("bin", key, func(tmp string) error {
		return run(ctx, tools, goEnv,
			"nice", "-n", "19", "go", "build", "-tags", buildTags, "-ldflags", ldflags, "-o", tmp+"/", "tool", "./coredns")
	})
}

// ours builds a static program of this module and returns its path.
func (b *builder) ours(ctx context.Context, name string) (string, error) {
	out := filepath.Join(Dir(b.root), "own", name)
	return out, run(ctx, b.root, goEnv,
		"go", "build", "-ldflags", "-s -w", "-o", out, "./test/cluster/"+name)
}
