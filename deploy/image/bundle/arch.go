package bundle

// Arch is an architecture; Go, Debian and OCI have the same names for these.
type Arch string

// The architectures that a bundle is built for.
const (
	AMD64 Arch = "amd64"
	ARM64 Arch = "arm64"
)

// LibDir is the directory of all libraries inside the tree.
func (a Arch) LibDir() string {
	if a == ARM64 {
		return "usr/lib/aarch64-linux-gnu"
	}
	return "usr/lib/x86_64-linux-gnu"
}

// Loader is the dynamic loader inside the tree.
func (a Arch) Loader() string {
	if a == ARM64 {
		return a.LibDir() + "/ld-linux-aarch64.so.1"
	}
	return a.LibDir() + "/ld-linux-x86-64.so.2"
}
