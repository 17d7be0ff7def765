package disk

import (
	"context"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"
)

// fake is a tree of sysfs, proc and dev files in which regular files play the devices.
type fake struct {
	t    *testing.T
	root string
	sys  *System
}

func newFake(t *testing.T) *fake {
	t.Helper()
	root := t.TempDir()
	f := &fake{t: t, root: root}
	f.sys = &System{
		Sys: filepath.Join(root, "sys"), Proc: filepath.Join(root, "proc"), Dev: filepath.Join(root, "dev"),
		Prober: probe(Signature{}, nil),
		open:   func(d Disk) (*os.File, error) { return os.Open(d.Path) },
	}
	f.mkdir("sys/block", "sys/class/block", "proc/self", "dev/mapper")
	f.write("proc/self/mountinfo", "22 1 0:21 / /proc rw,nosuid - proc proc rw\n")
	f.write("proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n")
	return f
}

type proberFunc func(ctx context.Context, device string) (Signature, error)

func (p proberFunc) Probe(ctx context.Context, device string) (Signature, error) {
	return p(ctx, device)
}

func probe(sig Signature, err error) Prober {
	return proberFunc(func(context.Context, string) (Signature, error) { return sig, err })
}

func (f *fake) mkdir(paths ...string) {
	f.t.Helper()
	for _, p := range paths {
		if err := os.MkdirAll(filepath.Join(f.root, p), 0o755); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fake) write(path, text string) {
	f.t.Helper()
	f.mkdir(filepath.Dir(path))
	if err := os.WriteFile(filepath.Join(f.root, path), []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) attrs(dir string, attrs map[string]string) {
	f.t.Helper()
	for name, value := range attrs {
		f.write(filepath.Join("sys/block", dir, name), value+"\n")
	}
}

func (f *fake) symlink(target, path string) {
	f.t.Helper()
	f.mkdir(filepath.Dir(path))
	if err := os.Symlink(target, filepath.Join(f.root, path)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) remove(path string) {
	f.t.Helper()
	if err := os.RemoveAll(filepath.Join(f.root, path)); err != nil {
		f.t.Fatal(err)
	}
}

const fakeSize = 8 * mib

// disk adds a blank NVMe disk of 8 MiB.
func (f *fake) disk(name, dev, serial string) {
	f.t.Helper()
	f.attrs(name, map[string]string{
		"dev": dev, "size": "16384", "ro": "0", "removable": "0", "queue/rotational": "0", "diskseq": "7",
		"wwid": "eui.00" + serial, "nsid": "1",
		"device/model": "QEMU NVMe Ctrl           ", "device/serial": serial + "        ", "device/transport": "pcie",
	})
	f.mkdir("sys/block/"+name+"/holders", "sys/block/"+name+"/slaves")
	f.write("dev/"+name, "")
	if err := os.Truncate(filepath.Join(f.root, "dev", name), fakeSize); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) partition(disk, name, dev string) {
	f.t.Helper()
	f.attrs(filepath.Join(disk, name), map[string]string{"dev": dev, "partition": "1"})
	f.mkdir(filepath.Join("sys/block", disk, name, "holders"))
	f.write("dev/"+name, "")
}

// dm adds a device-mapper device on top of below, a path under sys/block.
func (f *fake) dm(name, dev, dmName, below string) {
	f.t.Helper()
	f.attrs(name, map[string]string{"dev": dev, "size": "16", "ro": "0", "removable": "0", "dm/name": dmName})
	f.mkdir("sys/block/"+name+"/holders", "sys/block/"+name+"/slaves/"+filepath.Base(below),
		"sys/block/"+below+"/holders/"+name)
	f.write("dev/"+name, "")
	f.symlink("../"+name, "dev/mapper/"+dmName)
}

func (f *fake) put(name string, off int64, data string) {
	f.t.Helper()
	file, err := os.OpenFile(filepath.Join(f.root, "dev", name), os.O_WRONLY, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte(data), off); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) sum(name string) [sha256.Size]byte {
	f.t.Helper()
	b, err := os.ReadFile(filepath.Join(f.root, "dev", name))
	if err != nil {
		f.t.Fatal(err)
	}
	return sha256.Sum256(b)
}

func (f *fake) list() []Disk {
	f.t.Helper()
	disks, err := f.sys.List(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return disks
}
