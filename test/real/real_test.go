//go:build vm

// Package real runs the project's tests on a real kernel: device-mapper, lvm and
// file systems in a virtual machine with emulated NVMe disks.
package real

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/lamina-csi/lamina/test/vm"
)

// disks are scratch disks whose serials begin with the prefix.
func disks(prefix string, n int, size int64) []vm.Disk {
	var out []vm.Disk
	for i := range n {
		out = append(out, vm.Disk{Serial: fmt.Sprint(prefix, i+1), Size: size, Unsafe: true})
	}
	return out
}

const gib = 1 << 30

// nodeFile is the agent in the guest.
const nodeFile = "/usr/local/bin/lamina-node"

// build compiles a program of ours for the guest.
func build(t *testing.T, pkg string) string {
	t.Helper()
	return buildVersion(t, pkg, "test")
}

func buildVersion(t *testing.T, pkg, version string) string {
	t.Helper()
	return compile(t, pkg, "build", "-ldflags", "-s -w -X main.version="+version)
}

// compile is the output of a go command for a package of ours.
func compile(t *testing.T, pkg string, command ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), filepath.Base(pkg))
	args := append(command, "-trimpath", "-tags", "vm,grpcnotrace", "-o", out, "github.com/lamina-csi/lamina/"+pkg)
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if slices.Contains(command, "-race") {
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1") // the detector is in C
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, text)
	}
	return out
}

// goTest runs a package's real-kernel tests in the guest.
func goTest(t *testing.T, pkg string, cfg vm.Config, args ...string) {
	t.Helper()
	cfg.Stdout, cfg.Stderr = t.Output(), t.Output()
	code, err := vm.RunGoTest(t.Context(), pkg, "vm", cfg, args...)
	if err != nil || code != 0 {
		t.Errorf("%s: exit %d, %v", pkg, code, err)
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	goTest(t, "./lvm", vm.Config{Disks: disks("LVM", 4, 2*gib), Modules: []string{"dm_raid"}, Timeout: 15 * time.Minute},
		"-test.run=TestConformanceOnLVM", "-test.v")
}

func TestVetting(t *testing.T) {
	t.Parallel()
	goTest(t, "./node/disk", vm.Config{Disks: disks("VET", 3, gib), Timeout: 15 * time.Minute}, "-test.run=TestVM", "-test.v")
}

func TestMounts(t *testing.T) {
	t.Parallel()
	goTest(t, "./node/mount", vm.Config{Disks: disks("MNT", 2, 2*gib), Timeout: 15 * time.Minute}, "-test.run=TestVM", "-test.v")
}

// sanity runs csi-sanity in the guest against lamina-node there.
func sanity(t *testing.T, test string) {
	goTest(t, "./test/sanity", vm.Config{
		Disks:   disks("SAN", 1, 8*gib),
		Files:   map[string]string{"/usr/local/bin/lamina-node": build(t, "cmd/lamina-node")},
		Env:     []string{"LAMINA_NODE=/usr/local/bin/lamina-node"},
		Timeout: 25 * time.Minute,
	}, "-test.run=^"+test+"$", "-test.v")
}

func TestSanityThin(t *testing.T) {
	t.Parallel()
	sanity(t, "TestVMSanityThin")
}

func TestSanityThick(t *testing.T) {
	t.Parallel()
	sanity(t, "TestVMSanityThick")
}

// boot starts a scenario of the guest program.
func boot(t *testing.T, scenario string, disks []vm.Disk, stdout io.Writer, args ...string) *vm.Machine {
	t.Helper()
	return bootConfig(t, vm.Config{
		Args:   append([]string{scenario}, args...),
		Disks:  disks,
		Stdout: stdout,
	})
}

// bootConfig adds the guest program and, if there is none, the agent to a machine.
func bootConfig(t *testing.T, cfg vm.Config) *vm.Machine {
	t.Helper()
	cfg.Program, cfg.Timeout, cfg.Stderr = build(t, "test/real/guest"), 20*time.Minute, t.Output()
	files := map[string]string{"/operations.md": "../../docs/operations.md"}
	maps.Copy(files, cfg.Files)
	if files[nodeFile] == "" {
		files[nodeFile] = build(t, "cmd/lamina-node")
	}
	cfg.Files = files
	var console bytes.Buffer
	cfg.Console = &console
	t.Cleanup(func() { // the machine has ended
		if t.Failed() {
			t.Logf("the kernel said:\n%s", console.Bytes()[max(0, console.Len()-8<<10):])
		}
	})
	m, err := vm.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func pass(t *testing.T, m *vm.Machine) {
	t.Helper()
	if code, err := m.Wait(); err != nil || code != 0 {
		t.Fatalf("exit %d, %v", code, err)
	}
}

// kept are disks that outlive a boot.
func kept(t *testing.T) []vm.Disk {
	dir := t.TempDir()
	return []vm.Disk{
		{Serial: "A", Size: 4 * gib, Path: filepath.Join(dir, "a.raw")},
		{Serial: "B", Size: 4 * gib, Path: filepath.Join(dir, "b.raw")},
	}
}

func TestReboot(t *testing.T) {
	t.Parallel()
	d := kept(t)
	pass(t, boot(t, "write", d, t.Output()))
	pass(t, boot(t, "check", d, t.Output()))
}

func TestGroupSnapshot(t *testing.T) {
	t.Parallel()
	pass(t, boot(t, "group", disks("GRP", 1, 4*gib), t.Output()))
}

func TestLimits(t *testing.T) {
	t.Parallel()
	pass(t, boot(t, "limits", disks("LIM", 1, 4*gib), t.Output()))
}

// Hostile content in volumes and a hostile disk; and what deleted volumes leave on
// the disks. A volume that was active when it was deleted leaves nothing there.
func TestHostile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var d []vm.Disk
	for serial, size := range map[string]int64{"FAST1": 4 * gib, "SLOW1": gib / 4 * 3, "EVIL1": gib / 2} {
		d = append(d, vm.Disk{Serial: serial, Size: size, Path: filepath.Join(dir, serial), Unsafe: true})
	}
	pass(t, boot(t, "hostile", d, t.Output()))
	for serial, pool := range map[string]string{"FAST1": "fast", "SLOW1": "slow"} {
		if n := count(t, filepath.Join(dir, serial), "secret of "+pool+" active; "); n > 0 {
			t.Errorf("the secret of a volume in pool %s lies on the disk %d times after it was deleted", pool, n)
		}
		// docs/limits.md says that this one stays.
		t.Logf("pool %s: the secret of a volume that was inactive when it was deleted lies on the disk %d times",
			pool, count(t, filepath.Join(dir, serial), "secret of "+pool+" inactive; "))
	}
}

// count counts a text in a file.
func count(t *testing.T, path, text string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, kept := 0, 0
	buf := make([]byte, 1<<20)
	for {
		got, err := io.ReadFull(f, buf[kept:])
		part := buf[:kept+got]
		n += bytes.Count(part, []byte(text))
		if err != nil {
			if err != io.EOF && err != io.ErrUnexpectedEOF {
				t.Fatal(err)
			}
			return n
		}
		// The end may hold the beginning of one, too little for a whole one.
		kept = copy(buf, part[len(part)-len(text)+1:])
	}
}

var long = flag.Bool("long", false, "the long form of the tests that have one")

func TestKillLVM(t *testing.T) {
	t.Parallel()
	scenario := "kill"
	if *long {
		scenario = "killAll"
	}
	pass(t, boot(t, scenario, disks("KILL", 1, gib), t.Output()))
}

// LVM and a disk that do not answer.
func TestHang(t *testing.T) {
	t.Parallel()
	pass(t, boot(t, "hang", []vm.Disk{
		{Serial: "FAST1", Size: 4 * gib, Unsafe: true}, {Serial: "SLOW1", Size: gib / 2, Unsafe: true}, {Serial: "OWN1", Size: gib / 2, Unsafe: true},
	}, t.Output()))
}

// The agent is killed before and after each program that it runs.
func TestKillAgent(t *testing.T) {
	t.Parallel()
	pass(t, boot(t, "die", disks("DIE", 1, 4*gib), t.Output()))
}

// What a person does to pools and volumes by hand.
func TestAdmin(t *testing.T) {
	t.Parallel()
	pass(t, bootConfig(t, vm.Config{
		Args: []string{"admin"}, Modules: []string{"dm_raid"}, Stdout: t.Output(),
		Disks: append(disks("ADM", 2, 2*gib), vm.Disk{Serial: "SPARE", Size: gib / 8, Unsafe: true}),
	}))
}

// The disk STORM1 is the pool's, and SPARE too small to be taken for it.
func TestStorm(t *testing.T) {
	t.Parallel()
	scenario, node := "storm", build(t, "cmd/lamina-node")
	if *long {
		scenario, node = "storms", compile(t, "cmd/lamina-node", "build", "-race")
	}
	pass(t, bootConfig(t, vm.Config{
		Args: []string{scenario}, Files: map[string]string{nodeFile: node}, Modules: []string{"dm_mirror"}, Stdout: t.Output(),
		Disks: append(disks("STORM", 1, 8*gib), vm.Disk{Serial: "SPARE", Size: gib / 8, Unsafe: true}),
	}))
}

func TestMemory(t *testing.T) {
	t.Parallel()
	pass(t, boot(t, "idle", disks("MEM", 1, 8*gib), t.Output()))
}
