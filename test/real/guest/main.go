//go:build vm

// Command guest is what the tests of package real run in the virtual machine:
// one scenario, named by its argument, against lamina-node.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/lamina-csi/lamina/test/agent"
	"github.com/lamina-csi/lamina/test/invariant"
)

const pools = "pools: {fast: all}\nprofiles: {all: {disks: {minSize: 1Gi}}}\n"

func main() {
	scenarios := map[string]func(context.Context, *agent.Agent) error{
		"write":   write,
		"check":   check,
		"group":   group,
		"idle":    idle,
		"limits":  limits,
		"hostile": hostile,
		"die":     die,
		"hang":    hang,
		"admin":   admin,
		"storm":   shortStorm.storm,
		"storms":  longStorm.storm,
		"kill":    kill,
		"killAll": kill,
		"full":    fullRuns,
		"cuts":    cuts,
		"record":  record,
		"look":    look,
		"repair":  look,
	}
	// Those that are not here have start.
	begins := map[string]func(context.Context) (*agent.Agent, error){
		"kill": startKilled, "killAll": startKilled, "full": startBare, "repair": startRepaired,
		"cuts": startLogged, "record": startLogged, "look": startLogged,
	}
	// These start agents themselves, again and again.
	faults := map[string]func(context.Context) error{
		"damaged": damaged, "filled": filled, "absent": absent, "copied": copied, "pulled": pulled, "leg": leg, "errors": ioErrors,
	}
	if isDying() {
		fmt.Fprintln(os.Stderr, "dying program:", runDying())
		os.Exit(1)
	}
	if os.Args[0] == killedLVM {
		fmt.Fprintln(os.Stderr, "killed lvm:", runLVM())
		os.Exit(1)
	}
	if len(os.Args) < 2 || scenarios[os.Args[1]] == nil && faults[os.Args[1]] == nil {
		fmt.Println("usage: guest SCENARIO [flags] [ARGUMENT...]")
		os.Exit(2)
	}
	if err := flag.CommandLine.Parse(os.Args[2:]); err != nil {
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	if fault := faults[os.Args[1]]; fault != nil {
		err := errors.Join(fault(ctx), invariant.Check(ctx, invariant.Machine(nil)))
		end(err, agent.At("/var/lib/kubelet"))
	}
	begin := begins[os.Args[1]]
	if begin == nil {
		begin = start
	}
	a, err := begin(ctx)
	if err == nil {
		err = scenarios[os.Args[1]](ctx, a)
		err = errors.Join(err, invariant.Check(ctx, invariant.Machine(nil)))
	}
	end(err, a)
}

// end says how it went. a may be nil.
func end(err error, a *agent.Agent) {
	if err != nil {
		fmt.Println("FAILED:", err)
		if a != nil {
			fmt.Println(a.LogTail(30))
		}
		os.Exit(1)
	}
	fmt.Println("PASSED")
	os.Exit(0)
}

func start(ctx context.Context) (*agent.Agent, error) {
	return agent.Start(ctx, agent.Options{Program: "/usr/local/bin/lamina-node", Dir: "/var/lib/kubelet", Pools: pools})
}

// startBare starts an agent to which pools are applied.
func startBare(ctx context.Context) (*agent.Agent, error) {
	return agent.Start(ctx, agent.Options{Program: "/usr/local/bin/lamina-node", Dir: "/var/lib/kubelet"})
}

// startLogged starts an agent for the disks whose writes are logged, which are virtio's.
func startLogged(ctx context.Context) (*agent.Agent, error) {
	const pools = "pools: {fast: all}\nprofiles: {all: {disks: {transport: [virtio], minSize: 1Gi}}}\n"
	return agent.Start(ctx, agent.Options{Program: "/usr/local/bin/lamina-node", Dir: "/var/lib/kubelet", Pools: pools})
}

// kinds are the volumes of the write and check scenarios, by name.
var kinds = []struct{ name, fs string }{{"e", "ext4"}, {"x", "xfs"}, {"b", "btrfs"}, {"raw", ""}}

const volumeSize = 512 << 20

// content is the same in every boot.
func content(name string) []byte {
	sum := sha256.Sum256([]byte(name))
	return bytes.Repeat(sum[:], 4<<20/len(sum))
}

// file is where the scenario writes: a file of the volume, or the raw device.
func file(v agent.Volume) string {
	if v.FS == "" {
		return v.Target()
	}
	return filepath.Join(v.Target(), "data")
}

func put(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// same compares what a volume holds with what was written to it.
func same(v agent.Volume, name string) error {
	want := content(name)
	f, err := os.Open(file(v))
	if err != nil {
		return err
	}
	defer f.Close()
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s does not hold what was written to it", name)
	}
	return nil
}

// write fills volumes and snapshots them.
func write(ctx context.Context, a *agent.Agent) error {
	for _, k := range kinds {
		v, err := a.Create(ctx, "fast", k.name, k.fs, volumeSize, nil)
		if err != nil {
			return err
		}
		if err := v.Mount(ctx); err != nil {
			return err
		}
		if err := put(file(v), content(k.name)); err != nil {
			return err
		}
		if _, err := v.Snapshot(ctx, "snap-"+k.name); err != nil {
			return err
		}
	}
	return nil
}

// check finds after a boot what write left behind.
func check(ctx context.Context, a *agent.Agent) error {
	for _, k := range kinds {
		// The same request finds the same volume: nothing but LVM remembers it.
		before, err := a.Commands()
		if err != nil {
			return err
		}
		v, err := a.Create(ctx, "fast", k.name, k.fs, volumeSize, nil)
		if err != nil {
			return err
		}
		if err := v.Mount(ctx); err != nil {
			return err
		}
		after, err := a.Commands()
		if err != nil {
			return err
		}
		if ran := after[len(before):]; len(ran) != 1 || ran[0].Name != "lvchange" {
			return fmt.Errorf("the first stage after a boot ran %v, not one lvchange", ran)
		}
		if err := same(v, k.name); err != nil {
			return err
		}
		snap, err := v.Snapshot(ctx, "snap-"+k.name)
		if err != nil {
			return err
		}
		restored, err := a.Create(ctx, "fast", "restored-"+k.name, k.fs, volumeSize, snap)
		if err != nil {
			return err
		}
		if err := restored.Mount(ctx); err != nil {
			return err
		}
		if err := same(restored, k.name); err != nil {
			return err
		}
		for _, v := range []agent.Volume{v, restored} {
			if err := v.Unmount(ctx); err != nil {
				return err
			}
		}
	}
	list, err := a.ListVolumes(ctx, nil)
	if err != nil || len(list.Entries) != 2*len(kinds) {
		return fmt.Errorf("%d volumes, want %d (%w)", len(list.GetEntries()), 2*len(kinds), err)
	}
	return a.Stop()
}
