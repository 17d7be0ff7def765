//go:build vm

package real

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/test/vm"
)

// replay is a disk on which the writes of a log are done again.
type replay struct {
	t     *testing.T
	rig   *cutRig
	h     *history
	log   *vm.WriteLog
	image *os.File // all up to the last flush
	meta  *os.File // what lies in the thin pool's metadata there
	tools string   // directory of the node's userland
	seen  map[string]bool

	tornLook string // what must be found on the copy that reorder keeps

	count, checks, leaks, booted, torn, reordered, wrong int
}

func newReplay(t *testing.T, r *cutRig, h *history) *replay {
	t.Helper()
	p := &replay{t: t, rig: r, h: h, log: h.log, tools: filepath.Join(r.dir, "userland"), seen: map[string]bool{}}
	root, err := bundle.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := bundle.Build(t.Context(), bundle.Options{Root: root})
	if err == nil {
		err = tree.WriteDir(p.tools)
	}
	if err != nil {
		t.Fatal(err)
	}
	p.image, p.meta = p.sparse("image", diskSize), p.sparse("meta", h.metaSize)
	return p
}

func (p *replay) close() { p.image.Close(); p.meta.Close(); p.log.Close() }

func (p *replay) sparse(name string, size int64) *os.File {
	p.t.Helper()
	f, err := os.Create(p.rig.path(name))
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

func (p *replay) total() int { return len(p.log.Entries) }

// advance takes entry n into what can no more be lost, if it is a flush, with all that
// came before it.
func (p *replay) advance(n int) {
	p.t.Helper()
	if !p.log.Entries[n].Flush {
		return
	}
	p.apply(p.log.Volatile(n))
	if err := p.log.Apply(n, p.image); err != nil { // its own data, if it has some
		p.t.Fatal(err)
	}
	p.refresh(n)
}

// apply does entries to the image.
func (p *replay) apply(entries []int) (undo func()) {
	p.t.Helper()
	type old struct {
		at   int64
		data []byte
	}
	var saved []old
	for _, n := range entries {
		e := p.log.Entries[n]
		data := make([]byte, e.Length)
		if _, err := p.image.ReadAt(data, e.Offset); err != nil {
			p.t.Fatal(err)
		}
		saved = append(saved, old{e.Offset, data})
		if err := p.log.Apply(n, p.image); err != nil {
			p.t.Fatal(err)
		}
		p.refresh(n)
	}
	return func() {
		for i, s := range slices.Backward(saved) {
			if _, err := p.image.WriteAt(s.data, s.at); err != nil {
				p.t.Fatal(err)
			}
			p.refresh(entries[i])
		}
	}
}

// refresh copies what entry n has touched of the thin pool's metadata.
func (p *replay) refresh(n int) {
	p.t.Helper()
	e := p.log.Entries[n]
	from, to := max(e.Offset, p.h.meta), min(e.Offset+e.Length, p.h.meta+p.h.metaSize)
	if from >= to {
		return
	}
	data := make([]byte, to-from)
	_, err := p.image.ReadAt(data, from)
	if err == nil {
		_, err = p.meta.WriteAt(data, from-p.h.meta)
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// inMeta reports whether entry n lies in the thin pool's metadata.
func (p *replay) inMeta(n int) bool {
	e := p.log.Entries[n]
	return e.Offset < p.h.meta+p.h.metaSize && e.Offset+e.Length > p.h.meta
}

// states looks at what a power cut after n entries may leave: all of them, those that a
// flush followed, and others at random.
func (p *replay) states(n int) {
	p.t.Helper()
	volatile := p.log.Volatile(n)
	var any []int
	for _, i := range volatile {
		if p.rig.rng.IntN(2) == 0 || p.log.Entries[i].Offset < lvmArea {
			any = append(any, i)
		}
	}
	for _, survivors := range [][]int{volatile, nil, any, p.log.Survivors(p.rig.rng, volatile, lvmArea)} {
		p.state(n, survivors)
	}
	p.reorder(n, volatile)
}

// state looks at one. What was looked at before need not be again, but for what was
// acknowledged since.
func (p *replay) state(n int, survivors []int) {
	p.t.Helper()
	base := n - len(p.log.Volatile(n))
	if key := p.key(base, survivors); !p.seen[key] {
		p.seen[key] = true
		p.count++
	}
	undo := p.apply(survivors)
	defer undo()
	vg, err := lvm.ReadDisk(p.image)
	if err == nil {
		err = p.acknowledged(vg, n)
	}
	if n < p.h.began {
		return // the pool is being made, and nothing was acknowledged
	}
	if err == nil {
		err = p.thin(vg, base, survivors)
	}
	if err != nil {
		if p.wrong++; p.wrong < 10 {
			p.t.Errorf("after %d entries, with %v of %v: %v", n, survivors, p.log.Volatile(n), err)
		}
	}
}

// key names a state by what is on the disk: flushes change nothing, and what survives at
// the beginning is as good as flushed.
func (p *replay) key(base int, survivors []int) string {
	for {
		switch {
		case len(survivors) > 0 && survivors[0] == base:
			survivors = survivors[1:]
		case base < p.total() && p.log.Entries[base].Length == 0:
		default:
			return fmt.Sprint(base, survivors)
		}
		base++
	}
}

// facts are what must be there after n entries.
type facts struct {
	size    map[string]int64 // by LV
	written map[string]int64
	known   map[string]bool // every LV that there was
	pending string          // the LV that a call is about which was not answered
	next    int64           // its size when the call will have been; 0: it is gone
}

func (h *history) at(n int) facts {
	f := facts{size: map[string]int64{}, written: map[string]int64{}, known: map[string]bool{}}
	for _, c := range h.calls {
		if c.began > n {
			break
		}
		f.known[c.lv] = true
		if c.answered > n {
			if c.what == "write" {
				delete(f.written, c.lv)
			} else {
				f.pending, f.next = c.lv, c.n
			}
			if c.what == "delete" {
				delete(f.written, c.lv)
			}
			break
		}
		switch c.what {
		case "write":
			f.written[c.lv] = c.n
		case "delete":
			delete(f.size, c.lv)
			delete(f.written, c.lv)
		default:
			f.size[c.lv] = c.n
		}
	}
	return f
}

// look is for the guest.
func (f facts) look() string {
	var words []string
	for lv, round := range f.written {
		words = append(words, fmt.Sprintf("%s %d", lv, round))
	}
	return strings.Join(words, " ")
}

// acknowledged holds LVM's metadata to what was answered.
func (p *replay) acknowledged(vg *lvm.VG, n int) error {
	f, errs := p.h.at(n), []error{}
	have := map[string]int64{}
	for _, lv := range vg.LVs {
		if lv.Thin != nil {
			have[lv.Name.String()] = lv.Size
		}
	}
	for lv := range have {
		if !f.known[lv] {
			errs = append(errs, fmt.Errorf("%s is there, and nobody asked for it", lv))
		}
	}
	for lv := range f.known {
		if have[lv] != f.size[lv] && (lv != f.pending || have[lv] != f.next) {
			errs = append(errs, fmt.Errorf("%s has %d bytes, and %d were acknowledged", lv, have[lv], f.size[lv]))
		}
	}
	return errors.Join(errs...)
}

// thin holds the thin pool's metadata to its own rules and to LVM's.
func (p *replay) thin(vg *lvm.VG, base int, survivors []int) error {
	// The same metadata was looked at before if only other writes differ.
	touched := slices.DeleteFunc(slices.Clone(survivors), func(n int) bool { return !p.inMeta(n) })
	for base > 0 && !p.inMeta(base-1) {
		base--
	}
	key := fmt.Sprint("meta ", base, touched, vg.Seqno)
	if p.seen[key] {
		return nil
	}
	p.seen[key] = true
	p.checks++
	if out, err := p.tool("thin_check", p.meta.Name()); err != nil {
		p.leaks++
		// What the node does when it activates a pool (docs/decisions/thin-check-auto-repair.md).
		p.rig.copy(p.meta.Name(), p.rig.path("repaired"))
		if again, err := p.tool("thin_check", "-q", "--clear-needs-check-flag", "--auto-repair", p.rig.path("repaired")); err != nil {
			return fmt.Errorf("thin_check: %s; with --auto-repair: %s", out, again)
		}
	}
	return p.agree(vg)
}

// agree compares the kernel's thin devices with LVM's. LVM commits first what the kernel
// is to do: it may be one transaction ahead, and of that one a device may be missing, or
// still there which is to be deleted.
func (p *replay) agree(vg *lvm.VG) error {
	var pool *lvm.ThinPool
	for i := range vg.LVs {
		if vg.LVs[i].Pool != nil {
			pool = vg.LVs[i].Pool
		}
	}
	super := make([]byte, 56)
	if _, err := p.meta.ReadAt(super, 0); err != nil {
		return err
	}
	kernel := int64(binary.LittleEndian.Uint64(super[48:])) // struct thin_disk_superblock
	if pool == nil || kernel != pool.TransactionID && kernel+1 != pool.TransactionID {
		return fmt.Errorf("the thin pool is at transaction %d, LVM's is %+v", kernel, pool)
	}
	out, err := p.tool("thin_ls", "--no-headers", "--format", "DEV", p.meta.Name())
	if err != nil {
		return fmt.Errorf("thin_ls: %s", out)
	}
	have := map[int64]bool{}
	for _, field := range strings.Fields(out) {
		id, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return err
		}
		have[id] = true
	}
	for _, lv := range vg.LVs {
		if lv.Thin == nil {
			continue
		}
		if !have[lv.Thin.DeviceID] && lv.Thin.TransactionID != kernel {
			return fmt.Errorf("the thin pool does not have %s, which LVM made in transaction %d of %d", lv.Name, lv.Thin.TransactionID, kernel)
		}
		delete(have, lv.Thin.DeviceID)
	}
	for id := range have {
		if !slices.Contains(pool.Deletes, id) {
			return fmt.Errorf("the thin pool has device %d, LVM has not", id)
		}
	}
	return nil
}

// reorder counts what a disk would do that wrote LVM's header before the text that it
// names, and lost the text. A copy is kept of the first such state in the second half.
func (p *replay) reorder(n int, volatile []int) {
	first := slices.IndexFunc(volatile, func(n int) bool { return p.log.Entries[n].Offset < lvmArea })
	if first < 0 || first == len(volatile)-1 {
		return
	}
	survivors := slices.Delete(slices.Clone(volatile), first, first+1)
	key := fmt.Sprint("reordered ", survivors)
	if p.seen[key] {
		return
	}
	p.seen[key] = true
	p.reordered++
	undo := p.apply(survivors)
	defer undo()
	if _, err := lvm.ReadDisk(p.image); err != nil {
		p.torn++
		if p.tornLook == "" && n > p.h.calls[len(p.h.calls)/2].answered {
			p.rig.copy(p.image.Name(), p.rig.path("torn"))
			p.tornLook = p.h.at(n).look()
		}
	}
}

// tool runs a program of the node's userland with the libraries there.
func (p *replay) tool(name string, args ...string) (string, error) {
	lib := filepath.Join(p.tools, "usr/lib/x86_64-linux-gnu")
	loader := []string{"--library-path", lib, filepath.Join(p.tools, "usr/sbin/pdata_tools"), name}
	out, err := exec.CommandContext(p.t.Context(), filepath.Join(lib, "ld-linux-x86-64.so.2"), append(loader, args...)...).CombinedOutput()
	return string(out), err
}

func (p *replay) summary() string {
	return fmt.Sprintf("%d states after %d entries of the log, %d calls answered; %d thin_checks, of which %d found blocks to give back; "+
		"%d boots; %d states wrong. A disk that loses LVM's text and keeps a header after it: %d states, %d without a group",
		p.count, p.total(), len(p.h.calls), p.checks, p.leaks, p.booted, p.wrong, p.reordered, p.torn)
}
