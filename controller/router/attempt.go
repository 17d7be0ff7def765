package router

import "sync"

// maxUncertain bounds how many names are remembered: some megabytes. The oldest
// go first. From then on nodes are asked what they have; a volume on a node that
// is away could be made on another one too, and be found as an orphan on the first.
const maxUncertain = 10_000

// attempts knows the names for which a CreateVolume is under way, and the node
// that one without a certain outcome was sent to.
type attempts struct {
	mu        sync.Mutex
	busy      map[string]bool
	uncertain map[string]attempt
	clock     int
	lost      bool // a name was dropped
}

type attempt struct {
	node string
	at   int
}

// begin claims a name, and tells the node that may have the volume already. ok is
// false while another call has the name.
func (a *attempts) begin(name string) (node string, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.busy[name] {
		return "", false
	}
	if a.busy == nil {
		a.busy, a.uncertain = map[string]bool{}, map[string]attempt{}
	}
	a.busy[name] = true
	return a.uncertain[name].node, true
}

// end gives the name free. node is the one that may have the volume now; "": none,
// or the caller knows of it.
func (a *attempts) end(name, node string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.busy, name)
	delete(a.uncertain, name)
	if node == "" {
		return
	}
	if len(a.uncertain) >= maxUncertain {
		a.dropOldest()
	}
	a.clock++
	a.uncertain[name] = attempt{node, a.clock}
}

func (a *attempts) dropOldest() {
	oldest, at := "", a.clock+1
	for name, t := range a.uncertain {
		if t.at < at {
			oldest, at = name, t.at
		}
	}
	delete(a.uncertain, oldest)
	a.lost = true
}

// complete reports whether every uncertain name is remembered.
func (a *attempts) complete() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.lost
}
