//go:build vm

// Command sysext is what TestSysext of package real runs as a service of a host with
// systemd, a read-only root and a /var that stays: an administrator with the sysext
// images, and a kubelet.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/test/agent"
	"github.com/lamina-csi/lamina/test/invariant"
)

const (
	kubeletDir = "/var/lib/kubelet"
	image      = "/var/lib/extensions/lamina-node.raw"
	unit       = "lamina-node.service"
	remembered = "/var/volume.json" // what Kubernetes knows of the volume
	profile    = "{disks: {minSize: 2Gi}}"
)

func main() {
	scenarios := map[string]func(context.Context) error{"arrive": arrive, "reboot": reboot}
	if len(os.Args) != 2 || scenarios[os.Args[1]] == nil {
		fmt.Println("usage: sysext SCENARIO")
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	if err := scenarios[os.Args[1]](ctx); err != nil {
		fmt.Println("FAILED:", err)
		for _, args := range [][]string{{"systemctl", "--no-pager", "status", unit, "systemd-sysext.service"}, {"journalctl", "--no-pager", "-b", "-n", "60"}} {
			out, _ := exec.Command(args[0], args[1:]...).CombinedOutput() // what there is of it
			fmt.Printf("--- %s\n%s\n", strings.Join(args, " "), out)
		}
		os.Exit(1)
	}
	fmt.Println("PASSED")
}

// arrive: the image is dropped in, serves, and is replaced under a mounted volume.
func arrive(ctx context.Context) error {
	if err := os.WriteFile("/usr/x", nil, 0o600); !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("the host's root is not read-only: %v", err)
	}
	step("the image comes, with it the unit, and a pool")
	a, err := install(ctx, "v1")
	if err != nil {
		return err
	}
	defer func() { a.Close() }()
	step("a volume, staged, published and written to")
	v, err := a.Create(ctx, "fast", "data", "ext4", 512<<20, nil)
	if err != nil {
		return err
	}
	if err := v.Mount(ctx); err != nil {
		return err
	}
	if err := write(v, "one"); err != nil {
		return err
	}
	open, err := os.Open(filepath.Join(v.Target(), "one"))
	if err != nil {
		return err
	}
	defer open.Close()

	step("a newer image, refreshed under the mounted volume")
	a.Close()
	if a, err = install(ctx, "v2"); err != nil {
		return err
	}
	if text, err := io.ReadAll(open); err != nil || string(text) != "one" {
		return fmt.Errorf("the open file reads %q (%w)", text, err)
	}
	if err := errors.Join(write(v, "two"), read(v, "one"), read(v, "two")); err != nil {
		return err
	}
	step("the newer agent serves the volume that the older one made")
	if err := a.Found(v).Expand(ctx, 1<<30); err != nil {
		return err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(remembered, text, 0o600); err != nil {
		return err
	}
	return check(ctx)
}

// reboot: after a reboot the unit comes by itself and the volume with it; then all goes
// but the data.
func reboot(ctx context.Context) error {
	step("the unit comes by itself after a reboot")
	a, err := attach(ctx)
	if err != nil {
		return err
	}
	defer a.Close()
	if err := is("active", unit); err != nil {
		return err
	}
	text, err := os.ReadFile(remembered)
	if err != nil {
		return err
	}
	var v agent.Volume
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	step("so does the volume's data")
	v = a.Found(v)
	if err := v.Mount(ctx); err != nil {
		return err
	}
	if err := errors.Join(read(v, "one"), read(v, "two")); err != nil {
		return err
	}
	if err := v.Unmount(ctx); err != nil {
		return err
	}
	step("removal")
	if err := remove(); err != nil {
		return err
	}
	_, lv, _ := strings.Cut(v.VolumeId, "/")
	// The host's own lvm lists it.
	if err := run("lvs", "lamina-fast/"+lv); err != nil {
		return err
	}
	return check(ctx)
}

// attach waits for the agent and asks for the pool, as the relay does with each agent.
func attach(ctx context.Context) (*agent.Agent, error) {
	a, err := agent.Attach(ctx, kubeletDir)
	if err != nil {
		return nil, err
	}
	return a, a.MakePool(ctx, "fast", profile)
}

// install puts a release of the image in place as docs/immutable-hosts.md says, and
// waits for its agent.
func install(ctx context.Context, version string) (*agent.Agent, error) {
	_, err := os.Stat(image)
	replaced := err == nil
	if err := os.MkdirAll(filepath.Dir(image), 0o755); err != nil {
		return nil, err
	}
	if err := run("install", "-D", "-m", "644", "/var/images/"+version+".raw", image); err != nil {
		return nil, err
	}
	if err := run("systemd-sysext", "refresh"); err != nil {
		return nil, err
	}
	if replaced {
		if err := run("systemctl", "restart", unit); err != nil {
			return nil, err
		}
	}
	a, err := attach(ctx)
	if err != nil {
		return nil, err
	}
	info, err := a.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	if err != nil {
		return nil, err
	}
	if info.VendorVersion != version {
		return nil, fmt.Errorf("release %s answers, not %s", info.VendorVersion, version)
	}
	return a, is("active", unit)
}

// remove is what docs/immutable-hosts.md says where /etc is read-only.
func remove() error {
	if err := run("systemctl", "mask", "--runtime", "--now", unit); err != nil {
		return err
	}
	if err := os.Remove(image); err != nil {
		return err
	}
	if err := run("systemd-sysext", "refresh"); err != nil {
		return err
	}
	if err := run("systemctl", "unmask", "--runtime", unit); err != nil {
		return err
	}
	for _, path := range []string{"/usr/lib/lamina-node", "/usr/lib/systemd/system/" + unit, "/dev/lamina-fast"} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is left after the removal (%v)", path, err)
		}
	}
	return nil
}

// check holds the rules of package invariant against the host's own lvm.
func check(ctx context.Context) error { return invariant.Check(ctx, invariant.Machine(nil)) }

// write writes a file that holds its name and syncs it.
func write(v agent.Volume, name string) error {
	f, err := os.Create(filepath.Join(v.Target(), name))
	if err != nil {
		return err
	}
	_, err = f.WriteString(name)
	return errors.Join(err, f.Sync(), f.Close())
}

func read(v agent.Volume, name string) error {
	text, err := os.ReadFile(filepath.Join(v.Target(), name))
	if err != nil || string(text) != name {
		return fmt.Errorf("file %s holds %q (%w)", name, text, err)
	}
	return nil
}

func is(state, unit string) error {
	out, err := exec.Command("systemctl", "is-"+state, unit).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s is not %s: %s (%w)", unit, state, bytes.TrimSpace(out), err)
	}
	return nil
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// step says what comes next and when, for people.
func step(what string) { fmt.Printf("%7.1fs %s\n", time.Since(begin).Seconds(), what) }

var begin = time.Now()
