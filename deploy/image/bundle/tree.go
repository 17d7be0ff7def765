package bundle

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Epoch is the modification time of everything in a tree.
var Epoch = time.Unix(0, 0).UTC()

// Entry is a directory, a regular file or a symbolic link.
type Entry struct {
	Path string      // relative, slash-separated, clean
	Mode fs.FileMode // type and permission bits, never setuid
	Link string      // target of a symbolic link
	Data []byte      // content of a regular file
}

// Tree is a file system tree in memory, owned by uid 0.
type Tree struct {
	entries map[string]Entry
}

// NewTree returns an empty tree.
func NewTree() *Tree { return &Tree{entries: make(map[string]Entry)} }

func (t *Tree) put(e Entry) {
	t.AddDir(path.Dir(e.Path))
	t.entries[e.Path] = e
}

// AddDir adds a directory (0755) and its parents. What is there stays.
func (t *Tree) AddDir(p string) {
	for p = path.Clean(p); p != "." && p != "/"; p = path.Dir(p) {
		if _, ok := t.entries[p]; ok {
			return
		}
		t.entries[p] = Entry{Path: p, Mode: fs.ModeDir | 0o755}
	}
}

// AddFile adds or replaces a regular file.
func (t *Tree) AddFile(p string, mode fs.FileMode, data []byte) {
	t.put(Entry{Path: path.Clean(p), Mode: mode.Perm(), Data: data})
}

// AddHostFile adds the content of a host file.
func (t *Tree) AddHostFile(p, host string, mode fs.FileMode) error {
	data, err := os.ReadFile(host)
	if err != nil {
		return fmt.Errorf("add /%s: %w", p, err)
	}
	t.AddFile(p, mode, data)
	return nil
}

// AddLink adds or replaces a symbolic link.
func (t *Tree) AddLink(p, target string) {
	t.put(Entry{Path: path.Clean(p), Mode: fs.ModeSymlink | 0o777, Link: target})
}

// Add adds or replaces an entry.
func (t *Tree) Add(e Entry) {
	if e.Mode.IsDir() {
		t.AddDir(e.Path)
		return
	}
	t.put(e)
}

// AddTree adds all of another tree below a directory.
func (t *Tree) AddTree(dir string, other *Tree) {
	t.AddDir(dir)
	for _, e := range other.Entries() {
		e.Path = path.Join(dir, e.Path)
		t.Add(e)
	}
}

// Lookup returns the entry at a path.
func (t *Tree) Lookup(p string) (Entry, bool) {
	e, ok := t.entries[path.Clean(p)]
	return e, ok
}

// Entries returns everything sorted by path, so that parents come first.
func (t *Tree) Entries() []Entry {
	out := make([]Entry, 0, len(t.entries))
	for _, e := range t.entries {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// Size is the sum of the regular files in bytes.
func (t *Tree) Size() int64 {
	var n int64
	for _, e := range t.entries {
		n += int64(len(e.Data))
	}
	return n
}

// WriteTar writes the tree as a tar stream with fixed owner and time.
func (t *Tree) WriteTar(w io.Writer) error {
	tw := tar.NewWriter(w)
	for _, e := range t.Entries() {
		h := &tar.Header{
			Name: e.Path, Mode: int64(e.Mode.Perm()), ModTime: Epoch,
			Size: int64(len(e.Data)), Linkname: e.Link,
			Typeflag: tar.TypeReg, Format: tar.FormatUSTAR,
		}
		switch {
		case e.Mode.IsDir():
			h.Typeflag, h.Name = tar.TypeDir, e.Path+"/"
		case e.Mode&fs.ModeSymlink != 0:
			h.Typeflag = tar.TypeSymlink
		}
		if err := tw.WriteHeader(h); err != nil {
			return fmt.Errorf("write /%s: %w", e.Path, err)
		}
		if _, err := io.Copy(tw, bytes.NewReader(e.Data)); err != nil {
			return fmt.Errorf("write /%s: %w", e.Path, err)
		}
	}
	return tw.Close()
}

// WriteDir writes the tree below dir, replacing what is there. The directory
// appears in one step, complete.
func (t *Tree) WriteDir(dir string) error {
	tmp := dir + ".new"
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return err
	}
	for _, e := range t.Entries() {
		if err := e.write(filepath.Join(tmp, filepath.FromSlash(e.Path))); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

func (e Entry) write(host string) error {
	switch {
	case e.Mode.IsDir():
		return os.Mkdir(host, 0o755)
	case e.Mode&fs.ModeSymlink != 0:
		return os.Symlink(e.Link, host)
	}
	if err := os.WriteFile(host, e.Data, e.Mode.Perm()); err != nil {
		return err
	}
	if err := os.Chmod(host, e.Mode.Perm()); err != nil { // past the umask
		return err
	}
	return os.Chtimes(host, Epoch, Epoch)
}
