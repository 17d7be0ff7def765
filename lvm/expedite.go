package lvm

import (
	"os"
	"sync"
)

// rcuExpedited makes every RCU grace period of the kernel an expedited one
// (kernel/ksysfs.c; Documentation/admin-guide/kernel-parameters.txt,
// rcupdate.rcu_expedited).
const rcuExpedited = "/sys/kernel/rcu_expedited"

// Expedite implements [Kernel]. Where the switch cannot be read or written,
// everything works and takes longer.
func (k *LinuxKernel) Expedite() (restore func()) { return k.rcu.set(rcuExpedited) }

// expedite turns a switch on while somebody needs it, and then back to what it
// was before the first.
type expedite struct {
	mu     sync.Mutex
	users  int
	before []byte
}

func (e *expedite) set(path string) (restore func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.users == 0 {
		before, err := os.ReadFile(path)
		if err != nil || os.WriteFile(path, []byte("1\n"), 0) != nil {
			return func() {}
		}
		e.before = before
	}
	e.users++
	return sync.OnceFunc(func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.users--; e.users == 0 {
			// It was written a moment ago. If it stays on, grace periods cost other
			// processors an interrupt more each, until the next boot.
			_ = os.WriteFile(path, e.before, 0)
		}
	})
}
