//go:build vm

package real

import (
	"bufio"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lamina-csi/lamina/test/vm"
)

// TestWriteReplay lets an agent work on a disk whose writes are logged, and looks at
// what a power cut at each of them leaves on the disk: all that was acknowledged, and
// metadata of LVM and of the thin pool that are whole and agree. Of what no flush
// followed, all is there, nothing, or any part. A sample of the states boots. One that LVM
// cannot read, which a disk makes that loses LVM's text and keeps a later header, is
// repaired as the runbook says.
func TestWriteReplay(t *testing.T) {
	t.Parallel()
	rounds, states, boots := 3, 300, 2
	if *long {
		rounds, states, boots = 35, 5000, 20
	}
	r := newCutRig(t)
	h := r.record(rounds)
	p := newReplay(t, r, h)
	defer p.close()
	bootAt := map[int]bool{}
	for len(bootAt) < boots { // half of them right after an answer
		n := h.calls[r.rng.IntN(len(h.calls))].answered
		if len(bootAt)%2 == 1 {
			n = h.began + r.rng.IntN(p.total()-h.began)
		}
		bootAt[n] = true
	}
	for n := 0; n <= p.total(); n++ {
		p.states(n)
		if bootAt[n] {
			p.boot(n)
		}
		if n < p.total() {
			p.advance(n)
		}
	}
	r.boots("repair", r.path("torn"), p.tornLook)
	t.Log(p.summary())
	if p.count < states {
		t.Errorf("%d states, want %d", p.count, states)
	}
}

// call is what the guest asked for: nothing, something or all of it is on the disk
// between its two numbers of entries in the log, and all from the second one on.
type call struct {
	what, lv        string // create, expand, delete; write
	n               int64  // bytes; or what was written
	began, answered int    // first as bytes of the log, then as entries
}

// history is what a guest did, in order.
type history struct {
	log            *vm.WriteLog
	meta, metaSize int64 // where the thin pool's metadata lies on the disk
	began          int   // when the pool was there
	calls          []call
}

// record lets the guest work.
func (r *cutRig) record(rounds int) *history {
	r.t.Helper()
	m, in, out := r.boot("record", "-rounds", fmt.Sprint(rounds))
	h := &history{}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		line := lines.Text()
		word, rest, _ := strings.Cut(line, " ")
		var err error
		switch word {
		case "METADATA":
			_, err = fmt.Sscan(rest, &h.meta, &h.metaSize)
			h.began = int(r.logSize())
		case "BEGIN":
			c := call{began: int(r.logSize())}
			_, err = fmt.Sscan(rest, &c.what, &c.lv, &c.n)
			h.calls = append(h.calls, c)
		case "ANSWERED":
			h.calls[len(h.calls)-1].answered = int(r.logSize())
		default:
			fmt.Println(line)
			continue
		}
		if err != nil {
			r.t.Fatalf("%s: %v", line, err)
		}
		fmt.Fprintln(in)
	}
	pass(r.t, m)
	var err error
	if h.log, err = vm.ReadWriteLog(r.path("log")); err != nil {
		r.t.Fatal(err)
	}
	h.began = h.log.Index(int64(h.began))
	for i, c := range h.calls {
		h.calls[i].began, h.calls[i].answered = h.log.Index(int64(c.began)), h.log.Index(int64(c.answered))
	}
	return h
}

// boot boots a state, and finds what was written and acknowledged.
func (p *replay) boot(n int) {
	p.t.Helper()
	undo := p.apply(p.log.Survivors(p.rig.rng, p.log.Volatile(n), lvmArea))
	p.rig.boots("look", p.image.Name(), p.h.at(n).look())
	undo()
	p.booted++
}

// boots boots a copy of a disk, on which the guest finds what it looks for.
func (r *cutRig) boots(scenario, disk, look string) {
	r.t.Helper()
	copied := filepath.Join(r.dir, "look")
	r.copy(disk, copied)
	m, err := vm.Start(r.t.Context(), vm.Config{
		Program: r.guest, Args: []string{scenario, "-for", look},
		Files: map[string]string{"/usr/local/bin/lamina-node": r.node},
		Disks: []vm.Disk{{Serial: "A", Path: copied, WriteLog: copied + ".log"}},
		Stdin: strings.NewReader(""), Stdout: r.t.Output(), Stderr: r.t.Output(), Timeout: 10 * time.Minute,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	pass(r.t, m)
}
