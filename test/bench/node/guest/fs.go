package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/lamina-csi/lamina/lvm"
)

// The bars of the first stage of an empty ext4 of 100 GiB.
const (
	chunkBar    = 150  // of the pool, a minute after the mount
	mkfsTimeBar = 0.15 // of mke2fs's with its defaults
)

// firstStage formats empty volumes, against mkfs with its defaults on the same.
func (b *bench) firstStage(ctx context.Context) error {
	b.table.section("First stage of an empty volume, against mkfs with its defaults on a plain thin LV")
	for _, c := range []struct {
		fs   string
		size int64
	}{
		{"ext4", gib}, {"ext4", 100 * gib}, {"ext4", 1024 * gib},
		{"xfs", gib}, {"xfs", 100 * gib}, {"xfs", 1024 * gib},
	} {
		if err := b.formatted(ctx, c.fs, c.size); err != nil {
			return fmt.Errorf("%s of %d GiB: %w", c.fs, c.size/gib, err)
		}
	}
	return nil
}

func (b *bench) formatted(ctx context.Context, fs string, size int64) error {
	name := b.name()
	v, err := b.agent.Create(ctx, "fast", name, fs, size, nil)
	if err != nil {
		return err
	}
	var ours, mkfs, first sample
	quiet()
	if err := first.timed(func() error { return v.Stage(ctx) }); err != nil {
		return err
	}
	time.Sleep(time.Minute) // of the guest's clock, which jumps over it: ext4 writes inode tables in the background
	chunks, err := b.chunksOf(name)
	if err != nil {
		return err
	}
	if err := v.Unmount(ctx); err != nil {
		return err
	}
	if err := v.Delete(ctx); err != nil {
		return err
	}
	plain := b.name()
	if err := runLVM(tunedLVM, "lvcreate", "-V", fmt.Sprint(size, "b"), "--thinpool", thinPool, "-n", plain, vg); err != nil {
		return err
	}
	quiet()
	dev := b.device(plain)
	if err := ours.timed(func() error { return run(mkfsArgs[fs][0], append(mkfsArgs[fs][1:], dev)...) }); err != nil {
		return err
	}
	if err := run("blkdiscard", "-f", dev); err != nil {
		return err
	}
	quiet()
	if err := mkfs.timed(func() error { return run("mkfs."+fs, "-q", dev) }); err != nil {
		return err
	}
	plainChunks, err := b.chunksOf(plain)
	if err != nil {
		return err
	}
	if err := run("blkdiscard", "-f", dev); err != nil {
		return err
	}
	what := fmt.Sprintf("%s, %d GiB: ", fs, size/gib)
	judged := fs == "ext4" && size == 100*gib
	text := fmt.Sprintf("%d (defaults, right after mkfs: %d)", chunks, plainChunks)
	if judged {
		b.table.judge(what+"chunks of the pool, 60 s after mount", fmt.Sprint("≤ ", chunkBar), text, chunks <= chunkBar)
		b.table.ratio(what+"mkfs as the agent runs it ÷ defaults", ours, mkfs, mkfsTimeBar)
	} else {
		b.table.tell(what+"chunks of the pool, 60 s after mount", text)
		b.table.ratio(what+"mkfs as the agent runs it ÷ defaults", ours, mkfs, 0)
	}
	b.table.ratio(what+"NodeStageVolume (probe, mkfs, record, mount) ÷ mkfs with defaults", first, mkfs, 0)
	return b.removeAll([]string{plain})
}

// mkfsArgs is how the agent formats a new thin volume (node/mount/mkfs.go).
var mkfsArgs = map[string][]string{
	"ext4": {"mke2fs", "-q", "-t", "ext4", "-E", "assume_storage_prezeroed=1,nodiscard", "-O", "metadata_csum,metadata_csum_seed", "-m", "0"},
	"xfs":  {"mkfs.xfs", "-q", "-K", "-i", "nrext64=0", "-l", "size=64m"},
}

// chunksOf is how many chunks of the pool a volume has.
func (b *bench) chunksOf(name string) (int64, error) {
	t, err := b.kernel.Status(lvm.DMName(b.group.Name, mustLV(name), ""))
	if err != nil {
		return 0, err
	}
	pool, err := b.kernel.Table(vg + "-" + thinPool + "-tpool")
	if err != nil {
		return 0, err
	}
	var sectors, chunk int64
	if _, err := fmt.Sscan(t[0].Params, &sectors); err != nil {
		return 0, err
	}
	var meta, data string
	if _, err := fmt.Sscan(pool[0].Params, &meta, &data, &chunk); err != nil {
		return 0, err
	}
	return sectors / chunk, nil
}

// mount stages and publishes a volume that was formatted before, against two mounts
// typed by hand.
func (b *bench) mount(ctx context.Context) error {
	name := b.name()
	v, err := b.agent.Create(ctx, "fast", name, "ext4", gib, nil)
	if err != nil {
		return err
	}
	if err := v.Mount(ctx); err != nil {
		return err
	}
	if err := v.Unmount(ctx); err != nil {
		return err
	}
	dev := b.device(name)
	for _, d := range []string{"/tmp/staging", "/tmp/target"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	var ours, bare, one sample
	commands := 0
	for range b.rounds {
		before, err := b.agent.Commands()
		if err != nil {
			return err
		}
		quiet()
		if err := ours.timed(func() error { return v.Mount(ctx) }); err != nil {
			return err
		}
		if err := v.Unmount(ctx); err != nil {
			return err
		}
		after, err := b.agent.Commands()
		if err != nil {
			return err
		}
		commands += len(after) - len(before)
		quiet()
		start := time.Now()
		if err := run("mount", "-t", "ext4", dev, "/tmp/staging"); err != nil {
			return err
		}
		one = append(one, time.Since(start))
		if err := run("mount", "--bind", "/tmp/staging", "/tmp/target"); err != nil {
			return err
		}
		bare = append(bare, time.Since(start))
		if err := run("umount", "/tmp/target", "/tmp/staging"); err != nil {
			return err
		}
	}
	b.table.section("Stage and publish of a volume that was formatted before")
	b.table.judge("lvm processes", "0", fmt.Sprint(commands), commands == 0)
	b.table.ratio("÷ mount and mount --bind", ours, bare, 1.2)
	b.table.ratio("÷ one mount", ours, one, 0)
	return v.Delete(ctx)
}
