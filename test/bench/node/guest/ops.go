package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/test/agent"
)

// operation is one that is timed in three ways.
type operation struct{ plain, tuned, csi sample }

// opBars are the bars of CreateVolume and CreateSnapshot against a plain
// installation, by the number of volumes.
var opBars = map[string]map[int]float64{
	"CreateVolume":   {1: 0.60, 500: 0.80},
	"CreateSnapshot": {1: 0.40, 500: 0.65},
}

// operations times create, snapshot and delete: typed at a plain installation,
// the agent's own commands typed by hand, and by CSI, by turns.
func (b *bench) operations(ctx context.Context, n int) error {
	var create, snapshot, remove operation
	var floor sample
	var commands [3]agent.Command // of create, snapshot, remove
	for round := range b.rounds + 1 {
		// The first round warms up, and tells which commands the agent runs.
		warm := round == 0
		c, s, r := &create, &snapshot, &remove
		if warm {
			c, s, r = &operation{}, &operation{}, &operation{}
		}
		ran, err := b.byCSI(ctx, c, s, r)
		if err != nil {
			return err
		}
		if warm {
			commands = ran
		}
		if err := b.byHand(commands, c, s, r); err != nil {
			return err
		}
		if err := b.byPlainHand(c, s, r); err != nil {
			return err
		}
		if err := b.floor(&floor); err != nil {
			return err
		}
	}
	// A … A: the first again, at the end.
	again := operation{}
	if err := b.byPlainHand(&again, &operation{}, &operation{}); err != nil {
		return err
	}
	for _, o := range []struct {
		name string
		operation
	}{{"CreateVolume", create}, {"CreateSnapshot", snapshot}, {"DeleteVolume", remove}} {
		b.table.ratio(o.name+" ÷ plain lvm", o.csi, o.plain, opBars[o.name][n])
		b.table.ratio(o.name+" ÷ the agent's lvm command alone", o.csi, o.tuned, 1.10)
	}
	b.table.tell("commits of LVM's metadata by one create, snapshot, delete", fmt.Sprintf("%d, %d, %d",
		b.commits[1]-b.commits[0], b.commits[2]-b.commits[1], b.commits[4]-b.commits[3]))
	b.table.ratio("drift: plain lvcreate again at the end ÷ before", again.plain, create.plain, 0)
	b.table.ratio("the agent's lvcreate alone ÷ device-mapper's part of it", create.tuned, floor, 0)
	b.slope(n, create)
	return nil
}

var seqnoLine = regexp.MustCompile(`(?m)^seqno = (\d+)$`)

// seqno is the number of the metadata's last commit.
func (b *bench) seqno() (n int, err error) {
	raw, err := b.kernel.ReadMetadata(b.group.Devices[0], lvm.Generation{})
	if err != nil {
		return 0, err
	}
	m := seqnoLine.FindSubmatch(raw.Text)
	if m == nil {
		return 0, errors.New("LVM's text has no seqno")
	}
	return strconv.Atoi(string(m[1]))
}

func (b *bench) slope(n int, create operation) {
	if b.base.csi == nil {
		b.base, b.baseCount = create, n
		return
	}
	for _, s := range []struct {
		what     string
		now, one sample
	}{{"CreateVolume", create.csi, b.base.csi}, {"the lvm command alone", create.tuned, b.base.tuned}, {"plain lvcreate", create.plain, b.base.plain}} {
		b.table.ratio(fmt.Sprintf("slope: %s with %d volumes ÷ with %d", s.what, n, b.baseCount), s.now, s.one, 0)
	}
}

// takeTurn does, untimed, what the first command of a configuration does to a pool that
// a command of another one wrote last: the tables of the two hold different low-water
// marks (thin_pool_autoextend_threshold), so LVM reloads the pool, and suspends every
// active volume in it for that.
func (b *bench) takeTurn(conf string) error {
	name := b.name()
	if err := runLVM(conf, "lvcreate", "-V", "1g", "--thinpool", thinPool, "-n", name, vg); err != nil {
		return err
	}
	return runLVM(conf, "lvremove", "-y", vg+"/"+name)
}

// byCSI makes a volume, a snapshot of it, and removes both.
func (b *bench) byCSI(ctx context.Context, create, snapshot, remove *operation) (ran [3]agent.Command, err error) {
	if err := b.takeTurn(tunedLVM); err != nil {
		return ran, err
	}
	before, err := b.agent.Commands()
	if err != nil {
		return ran, err
	}
	if b.commits[0], err = b.seqno(); err != nil {
		return ran, err
	}
	var v agent.Volume
	var s *csi.Snapshot
	name := b.name()
	steps := []func() error{
		func() (err error) { v, err = b.agent.Create(ctx, "fast", name, "ext4", gib, nil); return err },
		func() (err error) { s, err = v.Snapshot(ctx, "snapshot-of-"+name); return err },
		func() error {
			_, err := b.agent.DeleteSnapshot(ctx, &csi.DeleteSnapshotRequest{SnapshotId: s.SnapshotId})
			return err
		},
		func() error { return v.Delete(ctx) },
	}
	for i, to := range []*sample{&create.csi, &snapshot.csi, new(sample), &remove.csi} {
		quiet()
		if err := to.timed(steps[i]); err != nil {
			return ran, err
		}
		if b.commits[i+1], err = b.seqno(); err != nil {
			return ran, err
		}
	}
	after, err := b.agent.Commands()
	if err != nil {
		return ran, err
	}
	if ran := after[len(before):]; len(ran) != 4 {
		return [3]agent.Command{}, fmt.Errorf("four operations ran %d lvm commands: %v", len(ran), ran)
	}
	after = after[len(before):]
	return [3]agent.Command{after[0], after[1], after[3]}, nil
}

// renamed is a command of the agent's about other volumes.
func renamed(c agent.Command, oldNew ...string) []string {
	r := strings.NewReplacer(oldNew...)
	out := []string{c.Name}
	for _, a := range c.Args {
		out = append(out, r.Replace(a))
	}
	return out
}

// named is the value of --name.
func named(c agent.Command) string { return c.Args[slices.Index(c.Args, "--name")+1] }

// byHand types the same commands.
func (b *bench) byHand(commands [3]agent.Command, create, snapshot, remove *operation) error {
	v, s := named(commands[0]), named(commands[1])
	name := b.name()
	remove1 := renamed(commands[2], v, name)
	removeSnap := renamed(commands[2], v, "s-"+name)
	for _, step := range []struct {
		to   *sample
		args []string
	}{
		{&create.tuned, renamed(commands[0], v, name)},
		{&snapshot.tuned, renamed(commands[1], s, "s-"+name, v, name)},
		{new(sample), removeSnap},
		{&remove.tuned, remove1},
	} {
		if err := typed(step.to, tunedLVM, step.args...); err != nil {
			return err
		}
	}
	return nil
}

// byPlainHand types what a manual says.
func (b *bench) byPlainHand(create, snapshot, remove *operation) error {
	if err := b.takeTurn(plainLVM); err != nil {
		return err
	}
	name := b.name()
	for _, step := range []struct {
		to   *sample
		args []string
	}{
		{&create.plain, []string{"lvcreate", "-V", "1g", "--thinpool", thinPool, "-n", name, vg}},
		{&snapshot.plain, []string{"lvcreate", "-s", "-n", "s-" + name, vg + "/" + name}},
		{new(sample), []string{"lvremove", "-y", vg + "/s-" + name}},
		{&remove.plain, []string{"lvremove", "-y", vg + "/" + name}},
	} {
		if err := typed(step.to, plainLVM, step.args...); err != nil {
			return err
		}
	}
	return nil
}

func typed(to *sample, conf string, args ...string) error {
	quiet()
	return to.timed(func() error { return runLVM(conf, args...) })
}

// floor is what the kernel needs for a new thin volume: the message to the pool,
// a device, its table.
func (b *bench) floor(to *sample) error {
	const id, name, tpool = 1 << 23, "bench-floor", vg + "-" + thinPool + "-tpool"
	if err := to.timed(func() error {
		if err := b.kernel.Message(tpool, fmt.Sprintf("create_thin %d", id)); err != nil {
			return err
		}
		if err := dmDevice(dmDevCreate, name); err != nil {
			return err
		}
		table := []lvm.Target{{Length: gib / 512, Type: "thin", Params: fmt.Sprintf("/dev/mapper/%s %d", tpool, id)}}
		if err := b.kernel.Load(name, table, false); err != nil {
			return err
		}
		return b.kernel.Resume(name)
	}); err != nil {
		return err
	}
	quiet()
	if err := dmDevice(dmDevRemove, name); err != nil {
		return err
	}
	return b.kernel.Message(tpool, fmt.Sprintf("delete %d", id))
}

// Commands of device-mapper (include/uapi/linux/dm-ioctl.h, DM_VERSION_CMD and
// following) that the agent has no use for.
const (
	dmDevCreate = 0xc138fd03
	dmDevRemove = 0xc138fd04
)

// dmDevice makes a device without a table, or removes one.
func dmDevice(request uintptr, name string) error {
	f, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var h [312]byte // struct dm_ioctl
	binary.NativeEndian.PutUint32(h[0:], 4)
	binary.NativeEndian.PutUint32(h[12:], uint32(len(h)))
	binary.NativeEndian.PutUint32(h[16:], uint32(len(h)))
	copy(h[48:], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(unsafe.Pointer(&h[0]))); errno != 0 {
		return fmt.Errorf("device-mapper, %s: %w", name, errno)
	}
	return nil
}

const burst = 16

// concurrent makes 16 volumes at once, and then 16 by the same commands in a loop,
// with as many in the pool.
func (b *bench) concurrent(ctx context.Context) error {
	if err := b.takeTurn(tunedLVM); err != nil {
		return err
	}
	before, err := b.agent.Commands()
	if err != nil {
		return err
	}
	names := make([]string, burst)
	for i := range names {
		names[i] = b.name()
	}
	var loop, atOnce sample
	quiet()
	if err := atOnce.timed(func() error { return b.createAll(ctx, names) }); err != nil {
		return err
	}
	after, err := b.agent.Commands()
	if err != nil {
		return err
	}
	create := after[len(before)]
	if err := b.removeAll(names); err != nil {
		return err
	}
	quiet()
	more := make([]string, burst)
	if err := loop.timed(func() error {
		for i := range more {
			more[i] = b.name()
			if err := runLVM(tunedLVM, renamed(create, named(create), more[i])...); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	b.table.ratio(fmt.Sprintf("%d CreateVolume at once ÷ %[1]d lvcreate in a loop", burst), atOnce, loop, 1.05)
	return b.removeAll(more)
}

// createAll makes volumes at once.
func (b *bench) createAll(ctx context.Context, names []string) error {
	var all sync.WaitGroup
	failed := make(chan error, len(names))
	for _, name := range names {
		all.Go(func() {
			_, err := b.agent.Create(ctx, "fast", name, "ext4", gib, nil)
			failed <- err
		})
	}
	all.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) removeAll(names []string) error {
	args := []string{"lvremove", "--yes", "--"}
	for _, n := range names {
		args = append(args, vg+"/"+n)
	}
	return runLVM(tunedLVM, args...)
}
