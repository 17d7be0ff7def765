package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/lvm"
)

// chunkWrites is how many chunks of each pool are written to, one 4 KiB each.
const chunkWrites = 200

// chunks measures what the size of a thin chunk, and zeroing, cost a volume's
// writer, in pools of their own on the second disk.
func (b *bench) chunks(context.Context) error {
	b.table.section("Chunk sizes: mean µs of a 4 KiB write, O_DIRECT")
	const group = "chunks"
	if err := runLVM(tunedLVM, "vgcreate", group, disk1); err != nil {
		return err
	}
	for _, c := range []struct{ size, zero string }{{"64k", "y"}, {"64k", "n"}, {"256k", "y"}, {"256k", "n"}, {"1m", "y"}, {"1m", "n"}} {
		if err := runLVM(tunedLVM, "lvcreate", "--type", "thin-pool", "-L", "8g", "--poolmetadatasize", "64m", "-c", c.size, "--zero", c.zero, "-n", "pool", group); err != nil {
			return err
		}
		text, err := b.chunk(group)
		if err != nil {
			return fmt.Errorf("chunks of %s: %w", c.size, err)
		}
		b.table.tell(fmt.Sprintf("chunk %s, zeroing %s", c.size, c.zero), text)
		if err := runLVM(tunedLVM, "lvremove", "-y", group+"/pool"); err != nil {
			return err
		}
	}
	return runLVM(tunedLVM, "vgremove", group)
}

func (b *bench) chunk(group string) (string, error) {
	if err := runLVM(tunedLVM, "lvcreate", "-V", "4g", "--thinpool", "pool", "-n", "v", group); err != nil {
		return "", err
	}
	quiet()
	used := func() (n int64, err error) {
		t, err := b.kernel.Status(strings.ReplaceAll(lvm.DMName(b.group.Name, mustLV("pool"), "tpool"), vg, group))
		if err != nil {
			return 0, err
		}
		var transaction int64
		_, err = fmt.Sscanf(t[0].Params, "%d %d/", &transaction, &n)
		return n, err
	}
	before, err := used()
	if err != nil {
		return "", err
	}
	dev := "/dev/" + group + "/v"
	first, err := spread(dev, 4<<10, chunkWrites)
	if err != nil {
		return "", err
	}
	again, err := spread(dev, 4<<10, chunkWrites)
	if err != nil {
		return "", err
	}
	after, err := used()
	if err != nil {
		return "", err
	}
	if err := runLVM(tunedLVM, "lvcreate", "-s", "-n", "s", group+"/v"); err != nil {
		return "", err
	}
	quiet()
	shared, err := spread(dev, 4<<10, chunkWrites)
	if err != nil {
		return "", err
	}
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	return fmt.Sprintf("first %.0f, again %.0f, first after a snapshot %.0f; metadata %d blocks for %d chunks",
		us(first), us(again), us(shared), after-before, chunkWrites), nil
}

// spread writes once to each of n places that lie 2 MiB apart, and returns the mean.
func spread(dev string, size, n int) (time.Duration, error) {
	f, err := os.OpenFile(dev, os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buf, err := aligned(size)
	if err != nil {
		return 0, err
	}
	defer unix.Munmap(buf) //nolint:errcheck // it was mapped above
	start := time.Now()
	for i := range n {
		if _, err := unix.Pwrite(int(f.Fd()), buf, int64(i)<<21); err != nil {
			return 0, err
		}
	}
	return time.Since(start) / time.Duration(n), nil
}
