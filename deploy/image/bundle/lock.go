package bundle

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// The sets of packages in the lock file.
const (
	SetBundle = "bundle" // the userland
	SetKernel = "kernel" // the kernel of the test virtual machine
	SetNode   = "node"   // the nodes of the test cluster, in a lock of their own
)

// Package is one pinned Debian package.
type Package struct {
	Set     string // SetBundle, SetKernel or SetNode
	Name    string
	Version string
	SHA256  string // of the .deb, 64 hexadecimal digits
	Size    int64  // of the .deb, bytes
	Path    string // below the mirror's root, pool/...
}

// Lock is the content of packages.lock.
type Lock []Package

const lockHeader = `# The Debian 13 packages of the node bundle and of the test kernel.
# Written by: go run ./deploy/image lock
# set name version sha256 size path
`

// ReadLock reads and checks a lock file.
func ReadLock(file string) (Lock, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the package lock: %w", err)
	}
	lock, err := ParseLock(data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return lock, nil
}

// ParseLock parses the text of a lock file. A path that leaves pool/, a bad
// digest or a package named twice is an error.
func ParseLock(data []byte) (Lock, error) {
	var lock Lock
	seen := make(map[string]bool)
	sc := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		p, err := parsePackage(strings.Fields(line))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if seen[p.Name] {
			return nil, fmt.Errorf("line %d: %s is pinned twice", n, p.Name)
		}
		seen[p.Name] = true
		lock = append(lock, p)
	}
	return lock, sc.Err()
}

func parsePackage(f []string) (Package, error) {
	if len(f) != 6 {
		return Package{}, fmt.Errorf("%d fields, want 6", len(f))
	}
	p := Package{Set: f[0], Name: f[1], Version: f[2], SHA256: f[3], Path: f[5]}
	if p.Set != SetBundle && p.Set != SetKernel && p.Set != SetNode {
		return Package{}, fmt.Errorf("unknown set %q", p.Set)
	}
	if sum, err := hex.DecodeString(p.SHA256); err != nil || len(sum) != 32 || p.SHA256 != strings.ToLower(p.SHA256) {
		return Package{}, fmt.Errorf("%s: %q is no SHA-256", p.Name, p.SHA256)
	}
	size, err := strconv.ParseInt(f[4], 10, 64)
	if err != nil || size <= 0 {
		return Package{}, fmt.Errorf("%s: bad size %q", p.Name, f[4])
	}
	p.Size = size
	if path.Clean(p.Path) != p.Path || !strings.HasPrefix(p.Path, "pool/") {
		return Package{}, fmt.Errorf("%s: path %q is not below pool/", p.Name, p.Path)
	}
	return p, nil
}

// Format returns the text of the lock file, sorted by set and name.
func (l Lock) Format() []byte {
	sorted := slices.SortedFunc(slices.Values(l), func(a, b Package) int {
		if c := strings.Compare(a.Set, b.Set); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	var b bytes.Buffer
	b.WriteString(lockHeader)
	for _, p := range sorted {
		fmt.Fprintf(&b, "%s %s %s %s %d %s\n", p.Set, p.Name, p.Version, p.SHA256, p.Size, p.Path)
	}
	return b.Bytes()
}

// Set returns the packages of one set.
func (l Lock) Set(name string) Lock {
	var out Lock
	for _, p := range l {
		if p.Set == name {
			out = append(out, p)
		}
	}
	return out
}
