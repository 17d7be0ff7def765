package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	mountutils "k8s.io/mount-utils"
)

// plainPath refuses what the mount table would escape (white space, backslash) and control or
// non-ASCII characters: what we mount must be found again under the same text.
func plainPath(path string) bool {
	for _, c := range []byte(path) {
		if c <= ' ' || c == '\\' || c >= 0x7f {
			return false
		}
	}
	return len(path) < unix.PathMax
}

// resolve checks a path that kubelet gave and returns its real name: it must lie below the kubelet
// directory and have no symlink component, and its parent must exist. The kubelet directory itself
// may be a symlink of the administrator's.
//
// The check guards against symlinks that are already there. Whoever can swap directories of
// kubelet's tree between this check and mount(2) is root on the node.
func (m *Mounter) resolve(path string) (string, error) {
	rel, below := strings.CutPrefix(path, m.kubeletDir+"/")
	if !below || rel == "." || !plainPath(path) || !filepath.IsLocal(rel) || filepath.Clean(rel) != rel {
		return "", invalidf("path %q is not a plain path below %s", path, m.kubeletDir)
	}
	base, err := filepath.EvalSymlinks(m.kubeletDir)
	if err != nil {
		return "", err
	}
	parent, err := openBeneath(base, filepath.Dir(rel))
	if err != nil {
		return "", pathError(path, err)
	}
	defer unix.Close(parent)
	var st unix.Stat_t
	err = unix.Fstatat(parent, filepath.Base(rel), &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return "", invalidf("path %q is a symlink", path)
	}
	real := filepath.Join(base, rel)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !mountutils.IsCorruptedMnt(err) {
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return real, nil
}

// pathError tells a symlink on the way from a parent that is missing.
func pathError(path string, err error) error {
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EXDEV) {
		return invalidf("path %q has a component that is no plain directory: %w", path, err)
	}
	return &os.PathError{Op: "open parent of", Path: path, Err: err}
}

// openBeneath opens the directory rel below base without following a symlink.
func openBeneath(base, rel string) (int, error) {
	baseFD, err := unix.Open(base, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", base, err)
	}
	fd, err := unix.Openat2(baseFD, rel, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	// ENOSYS: before Linux 5.6. EPERM: container runtimes' old seccomp profiles.
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return walkBeneath(baseFD, rel)
	}
	unix.Close(baseFD)
	return fd, err
}

// walkBeneath does openBeneath's work one component at a time. It closes baseFD. rel is local and
// clean, so that it has no ".." component.
func walkBeneath(baseFD int, rel string) (int, error) {
	fd := baseFD
	for name := range strings.SplitSeq(rel, "/") {
		next, err := unix.Openat(fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		if err != nil {
			return -1, err
		}
		fd = next
	}
	return fd, nil
}

// ensureDir makes the last component of a resolved path.
func ensureDir(path string) error {
	if err := os.Mkdir(path, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return invalidf("path %q is no directory", path)
	}
	return nil
}

// ensureFile makes an empty file, the target of a device node's bind mount.
func ensureFile(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.IsDir() || info.Mode()&fs.ModeSymlink != 0 {
		return invalidf("path %q is no file", path)
	}
	return nil
}
