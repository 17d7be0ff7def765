// Command guest is the node's benchmark as it runs in the virtual machine: it
// plays kubelet and the provisioner towards lamina-node, types the same things by
// hand, and prints one table. Times are the guest's, where an instruction takes a
// nanosecond: their ratios mean something, they themselves do not.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/test/agent"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == writerCommand {
		if err := write(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, "writer:", err)
			os.Exit(1)
		}
		return
	}
	var counts, parts string
	b := &bench{begun: time.Now(), group: mustGroup()}
	flag.StringVar(&counts, "volumes", "", "")
	flag.StringVar(&parts, "parts", "", "")
	flag.IntVar(&b.rounds, "rounds", 0, "")
	flag.IntVar(&b.active, "active", 0, "")
	flag.IntVar(&b.memory, "memory", 0, "")
	flag.Parse()
	for _, s := range strings.Split(counts, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			fmt.Fprintf(os.Stderr, "-volumes: %q\n", s)
			os.Exit(2)
		}
		b.counts = append(b.counts, n)
	}
	b.parts = strings.Split(parts, ",")
	err := b.run(context.Background())
	b.table.print(os.Stdout)
	if err != nil {
		fmt.Println("FAILED:", err)
		if b.agent != nil {
			fmt.Println(b.agent.LogTail(5))
		}
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	counts         []int
	parts          []string
	rounds         int
	active, memory int

	begun   time.Time
	table   table
	agent   *agent.Agent
	group   lvm.Group
	kernel  lvm.LinuxKernel
	reserve string   // of the pool's profile
	filled  int      // volumes of ours that the pool holds
	names   []string // theirs
	n       int      // names given so far

	base      operation // CreateVolume with the fewest volumes
	baseCount int
	commits   [5]int // of LVM's metadata, before and after each operation of the last round
}

// run measures in an order in which the pool only fills.
func (b *bench) run(ctx context.Context) error {
	if err := b.setUp(ctx); err != nil {
		return err
	}
	for _, p := range []part{
		{"memory", func(context.Context) error { return b.empty() }},
		{"processes", b.processes}, {"first", b.firstStage}, {"mount", b.mount}, {"io", b.io}, {"chunks", b.chunks},
	} {
		if err := b.measure(ctx, p); err != nil {
			return err
		}
	}
	more := slices.IndexFunc(b.counts, func(n int) bool { return n > b.active })
	if more < 0 {
		more = len(b.counts)
	}
	if err := b.operationsWith(ctx, b.counts[:more]); err != nil {
		return err
	}
	for _, p := range []part{{"latency", b.latency}, {"stats", b.stats}, {"memory", func(ctx context.Context) error { return b.residence(ctx, b.active) }}} {
		if err := b.measure(ctx, p); err != nil {
			return err
		}
	}
	if err := b.operationsWith(ctx, b.counts[more:]); err != nil {
		return err
	}
	if err := b.measure(ctx, part{"memory", func(ctx context.Context) error { return b.residence(ctx, b.memory) }}); err != nil {
		return err
	}
	return b.agent.Stop()
}

// part is one that -parts names.
type part struct {
	name string
	do   func(context.Context) error
}

func (b *bench) measure(ctx context.Context, p part) error {
	if !b.wants(p.name) {
		return nil
	}
	b.say("%s", p.name)
	if err := p.do(ctx); err != nil {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return nil
}

func (b *bench) operationsWith(ctx context.Context, counts []int) error {
	for _, n := range counts {
		if err := b.withVolumes(ctx, n); err != nil {
			return fmt.Errorf("operations with %d volumes: %w", n, err)
		}
	}
	return nil
}

// withVolumes times the operations with that many volumes in the pool.
func (b *bench) withVolumes(ctx context.Context, n int) error {
	if !b.wants("ops") && !b.wants("burst") {
		return nil
	}
	b.say("operations with %d volumes", n)
	if err := b.fill(ctx, n); err != nil {
		return fmt.Errorf("fill the pool: %w", err)
	}
	b.table.section(fmt.Sprintf("Operations with %d volumes in the pool, all active", n))
	if b.wants("ops") {
		if err := b.operations(ctx, n); err != nil {
			return err
		}
	}
	if b.wants("burst") {
		return b.concurrent(ctx)
	}
	return nil
}

func (b *bench) wants(part string) bool { return slices.Contains(b.parts, part) }

// say tells how far the run is, on a stream that is not the table's.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%7.1f s: %s\n", time.Since(b.begun).Seconds(), fmt.Sprintf(format, args...))
}
