//go:build vm

package real

import (
	"flag"
	"fmt"
	"testing"

	"github.com/lamina-csi/lamina/test/vm"
)

var (
	runs  = flag.Int("runs", 2, "how many runs TestFullPool has")
	first = flag.Int("first", 0, "the first of them, to repeat one")
)

// perBoot is how many runs share a machine.
const perBoot = 4

// A pool becomes full, its data or its metadata, under writers and while volumes and
// snapshots are asked for; each run takes one of the ways out.
func TestFullPool(t *testing.T) {
	t.Parallel()
	for at := *first; at < *first+*runs; at += perBoot {
		n := min(perBoot, *first+*runs-at)
		var d []vm.Disk
		for i := at; i < at+n; i++ {
			d = append(d, vm.Disk{Serial: fmt.Sprint("SMALL", i), Size: gib / 2, Unsafe: true},
				vm.Disk{Serial: fmt.Sprint("LARGE", i), Size: 2 * gib, Unsafe: true})
		}
		pass(t, boot(t, "full", d, t.Output(), fmt.Sprint(max(1, *seedFlag)), fmt.Sprint(at), fmt.Sprint(n)))
	}
}
