package asset

import (
	"maps"
	"slices"
)

// PauseImage is the image that holds a pod's namespaces; BusyboxImage has
// Debian's busybox; SnapshotControllerImage has the snapshot controller that
// belongs to the sidecar libraries used here. All are on every node.
const (
	PauseImage              = "registry.k8s.io/pause:3.10.1"
	BusyboxImage            = "docker.io/library/busybox:1.37"
	SnapshotControllerImage = "registry.k8s.io/sig-storage/snapshot-controller:v8.7.0"
)

func rootFileNames() []string { return sorted(rootFiles) }

func sorted(files map[string]string) []string { return slices.Sorted(maps.Keys(files)) }

// rootFiles are the same on every node.
var rootFiles = map[string]string{
	"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
	"etc/group": "root:x:0:\ntty:x:5:\ndisk:x:6:\nlp:x:7:\nkmem:x:15:\ndialout:x:20:\ncdrom:x:24:\ntape:x:26:\naudio:x:29:\n" +
		"video:x:44:\nutmp:x:43:\ninput:x:101:\nsgx:x:102:\nkvm:x:103:\nrender:x:104:\nclock:x:105:\nnogroup:x:65534:\n",
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
	"etc/hosts":         "127.0.0.1 localhost\n",
	"etc/machine-id":    "",
	"etc/os-release": `PRETTY_NAME="Lamina test node (Debian 13)"
NAME="Debian GNU/Linux"
ID=debian
VERSION_ID="13"
VERSION_CODENAME=trixie
`,
	"etc/containerd/config.toml": `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = -999
disabled_plugins = ["io.containerd.internal.v1.tracing", "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.native", "io.containerd.snapshotter.v1.erofs", "io.containerd.nri.v1.nri"]

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "` + PauseImage + `"

[plugins."io.containerd.cri.v1.runtime"]
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/usr/lib/cni"]
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`,
}
