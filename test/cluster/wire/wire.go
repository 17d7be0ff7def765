// Package wire is what the host and a node's init say to each other: a
// configuration on a small disk, and requests to run programs over TCP in the
// frames of test/vm/wire.
package wire

import vmwire "github.com/lamina-csi/lamina/test/vm/wire"

// ConfigPath is where the node finds its configuration, once the archive on
// [ConfigDisk] is unpacked over its root.
const ConfigPath = "etc/cluster/node.json"

// The node's disks beside its NVMe disks: the root, containerd's image store, a
// tar archive of files that differ between nodes, and, on some, a system extension.
const (
	ImageDisk     = "/dev/vdb"
	ConfigDisk    = "/dev/vdc"
	ExtensionDisk = "/dev/vdd"
)

// ExecPort is where init listens for requests to run a program as root. The
// port is reachable in the cluster's network namespace only.
const ExecPort = 9099

// Node is a node's configuration.
type Node struct {
	Name    string
	Address string // with the prefix length
	Gateway string
	Routes  []Route
}

// Route says which node holds a range of pod addresses.
type Route struct{ CIDR, Via string }

// Request is the kind of the first frame of a connection; it holds a [Run].
const Request vmwire.Kind = 'q'

// Run is a program to run. Its output comes as frames of the kinds Stdout and
// Stderr, its exit code as Exit, and Fail says why it could not run.
type Run struct {
	Args  []string
	Stdin []byte
}
