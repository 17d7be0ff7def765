//go:build vm

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/test/agent"
)

// fullCase is a way for a pool to become full, and a way out.
type fullCase struct {
	metadata bool // the thin metadata fills, not the data
	queue    bool // the pool queues when full, as one that is older than the default
	inTime   bool // the way out is taken before the kernel gives up on what it queued
	way      string
}

// fullCases are gone through in turn.
var fullCases = []fullCase{
	{way: "disk"},
	{metadata: true, way: "disk"},
	{queue: true, way: "snapshot"},
	{way: "volume"},
	{way: "reserve"},
	{queue: true, inTime: true, way: "disk"},
	{way: "snapshot"},
	{queue: true, way: "disk"},
}

// full is one run: a pool of its own that becomes full.
type full struct {
	*agent.Agent
	ctx context.Context
	fullCase
	rnd     *rand.Rand
	pool    string
	disk    string // serial of the disk that the pool has; another one is there, and not wanted yet
	ballast agent.Volume
	old     *csi.Snapshot
	copies  []agent.Volume // of it, where the metadata is to be filled
	eaten   int            // copies that were written to
	writers []*writer
}

// fullRuns goes through some runs; each has a pool and two disks of its own.
func fullRuns(ctx context.Context, a *agent.Agent) error {
	seed, err := strconv.ParseUint(os.Args[2], 10, 64)
	first, err2 := strconv.Atoi(os.Args[3])
	runs, err3 := strconv.Atoi(os.Args[4])
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	var wanted []*link.Pool
	for i := first; i < first+runs; i++ {
		f := &full{
			Agent: a, ctx: ctx, fullCase: fullCases[i%len(fullCases)], rnd: rand.New(rand.NewPCG(seed, uint64(i))),
			pool: fmt.Sprint("p", i), disk: fmt.Sprint("SMALL", i),
		}
		if f.metadata { // many chunks are needed
			f.disk = fmt.Sprint("LARGE", i)
		}
		fmt.Printf("run %d of seed %d: %+v\n", i, seed, f.fullCase)
		err := f.run(&wanted)
		if err != nil {
			return fmt.Errorf("run %d of seed %d (%+v): %w", i, seed, f.fullCase, err)
		}
	}
	return a.Stop()
}

func (f *full) run(wanted *[]*link.Pool) error {
	*wanted = append(*wanted, &link.Pool{Name: f.pool, Profile: "full"})
	want := (*wanted)[len(*wanted)-1]
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"make the pool", func() error { return f.makePool(*wanted, want) }},
		{"make volumes", f.makeVolumes},
		{"fill", f.fill},
		{"ask of a full pool", f.refused},
		{"way out: " + f.way, func() error { return f.wayOut(*wanted, want) }},
		{"go on", f.goOn},
		{"look at all that was acknowledged", f.look},
	} {
		start := time.Now()
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Printf("  %s: %.1f s\n", step.name, time.Since(start).Seconds())
	}
	return nil
}

func (f *full) profile(disks string, reserve int) string {
	return fmt.Sprintf("{disks: {serial: %q}, overprovision: 50, reserve: %d%%}", disks, reserve)
}

func (f *full) apply(wanted []*link.Pool) error {
	_, err := f.Pools.Apply(f.ctx, &link.ApplyRequest{Pools: wanted})
	return err
}

// await waits for a status of this run's pool.
func (f *full) await(what string, ok func(*link.PoolStatus) bool) error {
	ctx, cancel := context.WithTimeout(f.ctx, 4*time.Minute)
	defer cancel()
	return f.AwaitPool(ctx, what, func(s *link.PoolStatus) bool { return s.GetName() == f.pool && ok(s) })
}

func (f *full) makePool(wanted []*link.Pool, want *link.Pool) error {
	reserve := 5 // percent of the group that the pool lets be
	if f.way == "reserve" {
		reserve = 45
	}
	want.Text = f.profile(f.disk, reserve)
	if f.metadata {
		if err := f.smallMetadata(); err != nil {
			return err
		}
	}
	if err := errors.Join(f.apply(wanted), f.await("well", agent.Healthy)); err != nil {
		return err
	}
	if f.queue {
		return lvmDo("lvchange --errorwhenfull n lamina-" + f.pool + "/thinpool")
	}
	return nil
}

// smallMetadata makes a volume group as ours, with metadata that fills soon and no
// room to grow.
func (f *full) smallMetadata() error {
	dev, err := bySerial(f.disk)
	if err != nil {
		return err
	}
	vg := " lamina-" + f.pool
	return lvmDo(
		"vgcreate --physicalextentsize 1m --metadatasize 16m --setautoactivation n --addtag lamina.pool="+f.pool+vg+" "+dev,
		"lvcreate --type thin-pool --name thinpool --extents 100%FREE --poolmetadatasize 2m --chunksize 64k --zero y"+
			" --addtag lamina.schema=1 --addtag lamina.kind=pool"+vg)
}

// makeVolumes makes two that are written to, and a ballast with a snapshot.
func (f *full) makeVolumes() (err error) {
	for _, fs := range []string{"ext4", "xfs"} {
		v, err := f.Create(f.ctx, f.pool, f.pool+"-"+fs, fs, gib, nil)
		if err != nil {
			return err
		}
		if err := v.Mount(f.ctx); err != nil {
			return err
		}
		w := &writer{Volume: v, seed: f.rnd.Uint64(), stop: make(chan struct{})}
		// Something is acknowledged before it is tight.
		if err := w.write(20); err != nil {
			return err
		}
		f.writers = append(f.writers, w)
	}
	if f.ballast, err = f.Create(f.ctx, f.pool, f.pool+"-ballast", "", 4*gib, nil); err != nil {
		return err
	}
	return f.ballast.Mount(f.ctx)
}

const gib = 1 << 30

// refused: a full pool makes nothing, says so with its name and the way out, and what it
// has told of itself fits.
func (f *full) refused() error {
	full := func(s *link.PoolStatus) bool {
		return s.GetHealth() == "full" && strings.Contains(s.GetText(), "no free block")
	}
	if f.metadata {
		full = func(s *link.PoolStatus) bool { return strings.Contains(s.GetText(), "metadata is full") }
	}
	if err := f.await("full", full); err != nil {
		return err
	}
	_, created := f.Create(f.ctx, f.pool, f.pool+"-late", "ext4", gib, nil)
	_, snapped := f.writers[0].Snapshot(f.ctx, f.pool+"-late")
	for _, err := range []error{created, snapped} {
		fmt.Println("  asked of a full pool:", err)
		if err := tellsTheWayOut(err, f.pool); err != nil {
			return err
		}
	}
	if f.metadata {
		// The kernel would refuse it when LVM has written it down.
		if err := f.DropSnapshot(f.ctx, f.old); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "add a disk") {
			return fmt.Errorf("a snapshot was deleted without room for metadata: %w", err)
		}
	}
	if f.inTime {
		return nil
	}
	for _, w := range f.writers {
		<-w.failed
		fmt.Printf("  %s: the first write that failed took %.1f s: %v\n", w.FS, w.took.Seconds(), w.err)
	}
	return f.health("when it is full", func(reasons string) bool { return strings.Contains(reasons, "ThinPool") })
}

func tellsTheWayOut(err error, pool string) error {
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "pool "+pool) || !strings.Contains(err.Error(), "add a disk") {
		return fmt.Errorf("it does not say that the pool is full and what to do: %w", err)
	}
	return nil
}

// health prints what the health call says of each volume, and judges it.
func (f *full) health(when string, ok func(reasons string) bool) error {
	for _, w := range f.writers {
		resp, err := f.NodeGetVolumeHealth(f.ctx, &csi.NodeGetVolumeHealthRequest{VolumeId: w.VolumeId, StagingTargetPath: w.Staging()})
		if err != nil {
			return err
		}
		var reasons []string
		for _, h := range resp.GetVolumeHealth().GetHealthStatuses() {
			reasons = append(reasons, h.GetReason())
		}
		fmt.Printf("  health of %s %s: %v\n", w.FS, when, reasons)
		if !ok(strings.Join(reasons, " ")) {
			return fmt.Errorf("health of %s %s: %v", w.FS, when, reasons)
		}
	}
	return nil
}

// wayOut does what docs/operations.md says, and waits until the pool is well.
func (f *full) wayOut(wanted []*link.Pool, want *link.Pool) error {
	var err error
	switch f.way {
	case "disk": // one that matches
		want.Text = f.profile("?????"+f.disk[5:], 5)
		err = f.apply(wanted)
	case "reserve":
		want.Text = f.profile(f.disk, 5)
		err = f.apply(wanted)
	case "snapshot":
		err = f.DropSnapshot(f.ctx, f.old)
	case "volume":
		err = errors.Join(f.ballast.Unmount(f.ctx), f.ballast.Delete(f.ctx))
	}
	if err != nil {
		return err
	}
	if err := f.await("well again", agent.Healthy); err != nil || !f.metadata {
		return err
	}
	return f.DropSnapshot(f.ctx, f.old)
}

// goOn writes on as a program would that was not restarted, then after its pod was.
func (f *full) goOn() error {
	for _, w := range f.writers {
		close(w.stop)
		if err := <-w.done; f.inTime && err != nil {
			return fmt.Errorf("%s: a write failed although there was room in time: %w", w.FS, err)
		}
		fmt.Printf("  %s: %d records are acknowledged, the longest took %.1f s; without a remount another one in that file: %v; in a new one: %v\n",
			w.FS, len(w.acked), w.longest.Seconds(), w.again(), w.write(5))
	}
	if err := f.health("afterwards", func(string) bool { return true }); err != nil {
		return err
	}
	for _, w := range f.writers {
		if err := errors.Join(w.Unmount(f.ctx), w.Mount(f.ctx)); err != nil {
			return err
		}
		for _, r := range w.doubtful {
			fmt.Printf("  %s: the record in the file whose fsync had failed, after a remount: %v\n", w.FS, w.there(r))
		}
		if err := errors.Join(w.check(), w.Expand(f.ctx, 2*gib), w.write(5)); err != nil {
			return err
		}
	}
	return f.health("after a restart of the pod", func(reasons string) bool { return reasons == "" })
}

// look reads all that was ever acknowledged, from the disk. The pool does when it is full
// what it did, also where the agent has extended it.
func (f *full) look() error {
	mode := map[bool]string{true: "queue", false: "error"}[f.queue]
	got, err := lvmOutput("lvs", "--noheadings", "-o", "lv_when_full", "lamina-"+f.pool+"/thinpool")
	if err == nil && strings.TrimSpace(got) != mode {
		err = fmt.Errorf("when it is full the pool does %q, not %q", got, mode)
	}
	errs := []error{err}
	for _, w := range f.writers {
		errs = append(errs, w.Unmount(f.ctx), w.Mount(f.ctx), w.check(), w.Unmount(f.ctx))
	}
	rest := f.copies
	if f.way != "volume" {
		rest = append(rest, f.ballast)
	}
	for _, v := range rest {
		errs = append(errs, v.Unmount(f.ctx))
	}
	return errors.Join(errs...)
}
