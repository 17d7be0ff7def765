package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// MirrorEnv names the environment variable that overrides the Debian mirror
// found in the machine's own apt configuration.
const MirrorEnv = "LAMINA_DEBIAN_MIRROR"

const (
	suite   = "trixie"
	keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
	// aptHelper downloads with apt's own transports, proxies included.
	aptHelper = "/usr/lib/apt/apt-helper"
)

// ErrDropped is wrapped when the mirror no longer holds a pinned version.
var ErrDropped = errors.New("the mirror has dropped this version")

// Store holds downloaded and unpacked packages in the cache.
type Store struct {
	root   string
	mirror string // found at the first download
}

// NewStore returns the store in the module's cache.
func NewStore(root string) *Store { return &Store{root: root} }

func (s *Store) dir() string { return filepath.Join(CacheDir(s.root), "deb") }

// Fetch returns the host path of the .deb, downloading it if the cache lacks it.
func (s *Store) Fetch(ctx context.Context, p Package) (string, error) {
	file := filepath.Join(s.dir(), p.SHA256+".deb")
	if _, err := os.Stat(file); err == nil {
		return file, checkSum(file, p)
	}
	if err := s.findMirror(ctx); err != nil {
		return "", err
	}
	if err := os.MkdirAll(s.dir(), 0o755); err != nil {
		return "", err
	}
	tmp := file + ".part"
	defer os.Remove(tmp)
	// Without the sandbox user apt need not be able to write as _apt here.
	_, err := run(ctx, aptHelper, "-o", "APT::Sandbox::User=root", "download-file",
		strings.TrimSuffix(s.mirror, "/")+"/"+p.Path, tmp, "SHA256:"+p.SHA256)
	if err != nil && strings.Contains(err.Error(), "404") {
		return "", fmt.Errorf("fetch %s %s: %w; `go run ./deploy/image lock` pins what it has now: "+
			"review the change of deploy/image/packages.lock and commit it", p.Name, p.Version, ErrDropped)
	}
	if err != nil {
		return "", fmt.Errorf("fetch %s %s: %w", p.Name, p.Version, err)
	}
	if err := checkSum(tmp, p); err != nil {
		return "", err
	}
	return file, os.Rename(tmp, file)
}

func checkSum(file string, p Package) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != p.SHA256 {
		return fmt.Errorf("%s %s: SHA-256 of %s is %s, the lock says %s: remove the file and build again",
			p.Name, p.Version, file, got, p.SHA256)
	}
	return nil
}

// Unpack returns a directory with the package's files.
func (s *Store) Unpack(ctx context.Context, p Package) (string, error) {
	deb, err := s.Fetch(ctx, p)
	if err != nil {
		return "", err
	}
	dir := strings.TrimSuffix(deb, ".deb")
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	tmp := dir + ".part"
	if err := os.RemoveAll(tmp); err != nil {
		return "", err
	}
	if _, err := run(ctx, "dpkg-deb", "-x", deb, tmp); err != nil {
		return "", fmt.Errorf("unpack %s: %w", p.Name, err)
	}
	return dir, os.Rename(tmp, dir)
}

// findMirror takes the Debian mirror from the machine's apt configuration, so
// that no host is written down here.
func (s *Store) findMirror(ctx context.Context) error {
	if s.mirror != "" {
		return nil
	}
	if s.mirror = os.Getenv(MirrorEnv); s.mirror != "" {
		return nil
	}
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return err
	}
	out, err := run(ctx, "apt-get", "indextargets", "--format",
		"$(CREATED_BY) $(RELEASE) $(COMPONENT) $(REPO_URI)", "Created-By: Packages")
	if err != nil {
		return fmt.Errorf("find the Debian mirror: %w", err)
	}
	s.mirror = mirrorOf(string(release), string(out))
	if s.mirror == "" {
		return fmt.Errorf("find the Debian mirror: apt on this machine has no Debian main archive; "+
			"set %s to the URI of one that holds %s", MirrorEnv, suite)
	}
	return nil
}

// mirrorOf picks the archive of the running Debian release, whose mirror also
// serves the other releases.
func mirrorOf(osRelease, targets string) string {
	vars := make(map[string]string)
	for line := range strings.Lines(osRelease) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		vars[k] = strings.Trim(v, `"`)
	}
	if vars["ID"] != "debian" {
		return ""
	}
	for line := range strings.Lines(targets) {
		f := strings.Fields(line)
		if len(f) == 4 && f[0] == "Packages" && f[1] == vars["VERSION_CODENAME"] && f[2] == "main" {
			return f[3]
		}
	}
	return ""
}

// run returns a command's standard output; the error holds its messages.
func run(ctx context.Context, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(name), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
