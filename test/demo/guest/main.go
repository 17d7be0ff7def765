// Command guest is the demonstration as it runs in the virtual machine: it plays
// kubelet and the provisioner towards lamina-node.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/lamina-csi/lamina/test/agent"
)

const pools = "pools: {fast: demo}\nprofiles: {demo: {disks: {minSize: 1Gi}}}\n"

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	d := demo{}
	if err := d.run(ctx); err != nil {
		fmt.Println("\nFAILED:", err)
		if d.agent != nil {
			fmt.Println("\nthe agent's log:", d.agent.LogTail(30))
		}
		os.Exit(1)
	}
}

type demo struct {
	agent *agent.Agent
	seen  int // lvm commands told so far
	n     int // steps
}

// step runs one call and tells what LVM did in it.
func (d *demo) step(what string, call func() error) error {
	d.n++
	fmt.Printf("\n%2d. %s\n", d.n, what)
	start := time.Now()
	if err := call(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	took := time.Since(start)
	commands, err := d.agent.Commands()
	if err != nil {
		return err
	}
	for _, c := range commands[d.seen:] {
		fmt.Printf("      lvm %s   (%d ms)\n", c, c.Took.Milliseconds())
	}
	fmt.Printf("      %d ms, %d lvm process(es)\n", took.Milliseconds(), len(commands)-d.seen)
	d.seen = len(commands)
	return nil
}

func (d *demo) run(ctx context.Context) (err error) {
	err = d.startAgent(ctx)
	if err != nil {
		return err
	}
	web, err := d.create(ctx, "web", 1<<30, nil)
	if err != nil {
		return err
	}
	if err := d.mount(ctx, web); err != nil {
		return err
	}
	if err := d.write(web, "data", 20<<20); err != nil {
		return err
	}
	original, err := d.sum(web, "data")
	if err != nil {
		return err
	}
	snap, err := d.snapshot(ctx, web)
	if err != nil {
		return err
	}
	if err := d.write(web, "data", 10<<20); err != nil {
		return err
	}
	changed, err := d.sum(web, "data")
	if err != nil {
		return err
	}
	restored, err := d.create(ctx, "web-restored", 2<<30, snap)
	if err != nil {
		return err
	}
	if err := d.mount(ctx, restored); err != nil {
		return err
	}
	back, err := d.sum(restored, "data")
	if err != nil {
		return err
	}
	if err := d.expand(ctx, web, 3<<30); err != nil {
		return err
	}
	after, err := d.sum(web, "data")
	if err != nil {
		return err
	}
	fmt.Printf("\nChecksums of the data:\n  original, at the snapshot  %s\n  original, changed since    %s\n  original, expanded         %s\n  restored from the snapshot %s\n", original, changed, after, back)
	if original != back || original == changed || changed != after {
		return fmt.Errorf("the checksums do not agree")
	}
	fmt.Println("  The restored data is the original's, the change is kept through the expansion.")
	if err := d.lvs("The pool, as lvs shows it:"); err != nil {
		return err
	}
	if err := d.remove(ctx, snap, web, restored); err != nil {
		return err
	}
	if err := d.lvs("And when all is deleted:"); err != nil {
		return err
	}
	return d.agent.Stop()
}

func (d *demo) startAgent(ctx context.Context) error {
	fmt.Printf("\nThe whole configuration:\n  %s\n", strings.ReplaceAll(strings.TrimSpace(pools), "\n", "\n  "))
	d.n++
	fmt.Printf("\n%2d. lamina-node starts, finds two blank NVMe disks and makes the pool\n", d.n)
	start := time.Now()
	a, err := agent.Start(ctx, agent.Options{Program: "/usr/local/bin/lamina-node", Dir: "/var/lib/kubelet", Pools: pools})
	if err != nil {
		return err
	}
	d.agent = a
	commands, err := a.Commands()
	if err != nil {
		return err
	}
	for _, c := range commands {
		if c.Name != "fullreport" {
			fmt.Printf("      lvm %s   (%d ms)\n", c, c.Took.Milliseconds())
		}
	}
	d.seen = len(commands)
	fmt.Printf("      %d ms, %d lvm processes\n", time.Since(start).Milliseconds(), len(commands))
	resp, err := a.GetCapacity(ctx, &csi.GetCapacityRequest{Parameters: map[string]string{"pool": "fast"}})
	if err != nil {
		return err
	}
	fmt.Printf("      GetCapacity: %d MiB may be promised (thin, overprovision 3)\n", resp.AvailableCapacity>>20)
	return nil
}

func (d *demo) create(ctx context.Context, name string, size int64, snap *csi.Snapshot) (agent.Volume, error) {
	what := fmt.Sprintf("CreateVolume %s, %d GiB", name, size>>30)
	if snap != nil {
		what += " from the snapshot"
	}
	var v agent.Volume
	err := d.step(what, func() (err error) {
		v, err = d.agent.Create(ctx, "fast", name, "ext4", size, snap)
		return err
	})
	return v, err
}

// mount stages and publishes as kubelet does.
func (d *demo) mount(ctx context.Context, v agent.Volume) error {
	if err := d.step("NodeStageVolume "+v.Name+" (ext4)", func() error { return v.Stage(ctx) }); err != nil {
		return err
	}
	return d.step("NodePublishVolume "+v.Name, func() error { return v.Publish(ctx) })
}

// write replaces a file with bytes that differ each time.
func (d *demo) write(v agent.Volume, name string, size int) error {
	return d.step(fmt.Sprintf("the pod writes %d MiB to %s and syncs", size>>20, v.Name), func() error {
		f, err := os.Create(filepath.Join(v.Target(), name))
		if err != nil {
			return err
		}
		block := sha256.Sum256([]byte(time.Now().String()))
		if _, err := f.Write(bytes.Repeat(block[:], size/len(block))); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		return f.Close()
	})
}

func (d *demo) sum(v agent.Volume, name string) (string, error) {
	f, err := os.Open(filepath.Join(v.Target(), name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:12]), nil
}

func (d *demo) snapshot(ctx context.Context, v agent.Volume) (*csi.Snapshot, error) {
	var snap *csi.Snapshot
	err := d.step("CreateSnapshot of "+v.Name+", while it is mounted", func() (err error) {
		snap, err = v.Snapshot(ctx, v.Name+"-snap")
		return err
	})
	return snap, err
}

func (d *demo) expand(ctx context.Context, v agent.Volume, size int64) error {
	what := fmt.Sprintf("ControllerExpandVolume and NodeExpandVolume %s to %d GiB, while it is mounted", v.Name, size>>30)
	return d.step(what, func() error { return v.Expand(ctx, size) })
}

func (d *demo) remove(ctx context.Context, snap *csi.Snapshot, volumes ...agent.Volume) error {
	for _, v := range volumes {
		err := d.step("NodeUnpublish, NodeUnstage, DeleteVolume "+v.Name, func() error {
			if err := v.Unmount(ctx); err != nil {
				return err
			}
			return v.Delete(ctx)
		})
		if err != nil {
			return err
		}
	}
	return d.step("DeleteSnapshot", func() error {
		_, err := d.agent.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: snap.SnapshotId})
		return err
	})
}

func (d *demo) lvs(title string) error {
	fmt.Printf("\n%s\n", title)
	cmd := exec.Command("lvm", "lvs", "-o", "lv_name,lv_size,pool_lv,origin,data_percent,lv_attr")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
