//go:build vm

package real

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lamina-csi/lamina/test/vm"
)

// Each fault of a disk is told of, changes nothing on the disks, leaves the other pool
// alone, and ends with the data where it was: by itself, or by what docs/operations.md
// says, typed from there.
func TestDiskFaults(t *testing.T) {
	t.Parallel()
	t.Run("damaged", func(t *testing.T) { faults(t, "damaged", fastDisks(t, 1)) })
	t.Run("absent", func(t *testing.T) {
		d := fastDisks(t, 2)
		faults(t, "filled", d)
		d[2].Out = true
		faults(t, "absent", d)
	})
	t.Run("copied", func(t *testing.T) {
		d := fastDisks(t, 1)
		faults(t, "filled", d)
		faults(t, "copied", append(d, clone(t, d[1], "COPY1")))
	})
	t.Run("pulled", func(t *testing.T) { faults(t, "pulled", fastDisks(t, 1)) })
	t.Run("leg", func(t *testing.T) {
		d := fastDisks(t, 3)
		d[3].Out = true
		faults(t, "leg", d, "dm_raid")
	})
	t.Run("errors", func(t *testing.T) { faults(t, "errors", fastDisks(t, 1)) })
}

// fastDisks are those of the pool "fast", and one of the pool "other".
func fastDisks(t *testing.T, n int) []vm.Disk {
	dir := t.TempDir()
	d := []vm.Disk{{Serial: "OTHER1", Size: gib, Path: filepath.Join(dir, "other")}}
	for i := range n {
		serial := fmt.Sprint("FAST", i+1)
		d = append(d, vm.Disk{Serial: serial, Size: gib, Path: filepath.Join(dir, serial)})
	}
	return d
}

// clone is a disk with the same bytes.
func clone(t *testing.T, d vm.Disk, serial string) vm.Disk {
	t.Helper()
	path := filepath.Join(filepath.Dir(d.Path), serial)
	if out, err := exec.Command("cp", "--sparse=always", d.Path, path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return vm.Disk{Serial: serial, Size: d.Size, Path: path}
}

// faults runs a scenario that asks the host to pull a disk, and the like.
func faults(t *testing.T, scenario string, disks []vm.Disk, modules ...string) {
	t.Helper()
	said, out := io.Pipe()
	answer, in := io.Pipe()
	m := bootConfig(t, vm.Config{Args: []string{scenario}, Disks: disks, Stdout: out, Stdin: answer, Modules: modules})
	do := map[string]func(serial string) error{
		"pull": m.PullDisk, "insert": m.InsertDisk, "heal": m.HealIO,
		"fail": func(serial string) error { return m.FailIO(serial) },
	}
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		for lines := bufio.NewScanner(said); lines.Scan(); {
			fmt.Println(lines.Text())
			f := strings.Fields(lines.Text())
			if len(f) != 3 || f[0] != "HOST" || do[f[1]] == nil {
				continue
			}
			text := "done"
			if err := do[f[1]](f[2]); err != nil {
				text = strings.ReplaceAll(err.Error(), "\n", "; ")
			}
			fmt.Fprintln(in, text)
		}
	}()
	code, err := m.Wait()
	out.Close()
	in.Close()
	<-heard
	if err != nil || code != 0 {
		t.Fatalf("exit %d, %v", code, err)
	}
}
