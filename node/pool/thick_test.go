package pool

import (
	"strings"
	"testing"

	"github.com/lamina-csi/lamina/lvm"
)

func thick(s *Spec) { s.Mode = Thick }

func (n *node) group(t *testing.T, v Volume) lvm.Group {
	t.Helper()
	f, err := n.find(v.ID, kindVolume)
	if err != nil {
		t.Fatal(err)
	}
	return f.group()
}

func (n *node) retag(t *testing.T, v Volume, add tagSet, del ...string) {
	t.Helper()
	f, err := n.find(v.ID, kindVolume)
	if err != nil {
		t.Fatal(err)
	}
	var gone []lvm.Tag
	for _, have := range f.lv.Tags {
		for _, d := range del {
			if strings.HasPrefix(have.String(), tagPrefix+d+"=") {
				gone = append(gone, have)
			}
		}
	}
	tags, err := add.lvmTags()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.client.LVChangeTags(t.Context(), f.group(), v.ID.LV, tags, gone); err != nil {
		t.Fatal(err)
	}
}

// What lies in a volume is zeroed only where a tag says that it is nobody's.
func TestThickDataIsNotZeroedByInference(t *testing.T) {
	const size = 16 * mib
	for name, spoil := range map[string]func(*testing.T, *node, Volume){
		"state is missing": func(t *testing.T, n *node, v Volume) { n.retag(t, v, tagSet{}, keyState) },
		"size is missing":  func(t *testing.T, n *node, v Volume) { n.retag(t, v, tagSet{}, keySize) },
		"state is unknown": func(t *testing.T, n *node, v Volume) { n.retag(t, v, tagSet{keyState: "later"}, keyState) },
		"extended by hand": func(t *testing.T, n *node, v Volume) {
			if err := n.client.LVExtend(t.Context(), n.group(t, v), v.ID.LV, 2*size); err != nil {
				t.Fatal(err)
			}
			dev, err := n.host.Device("/dev/mapper/" + lvm.DMName(n.group(t, v).Name, v.ID.LV, ""))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := dev.WriteAt([]byte("beyond"), size); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, spec(thick), "/dev/nvme0n1")
			n.after.Leaves(volumeLV("a").String()) // what spoil does to it
			v := n.create(t, CreateVolume{Name: "a", Required: size})
			write(t, n.device(t, v.ID), "precious")
			spoil(t, n, v)
			n.start(t)
			dev := n.device(t, v.ID)
			if got := read(t, dev, 8); got != "precious" {
				t.Errorf("the volume's data has become %q", got)
			}
			if name != "extended by hand" {
				return
			}
			b := make([]byte, 6)
			if _, err := dev.ReadAt(b, size); err != nil || string(b) != "beyond" {
				t.Errorf("what was written to the extension has become %q, %v", b, err)
			}
		})
	}
}

// After a crash at any step of an expansion no former content is visible, the
// volume's own is there, and the same call ends it.
func TestThickExpandCrash(t *testing.T) {
	const size = 8 * mib
	former := strings.Repeat("former! ", 2*size/8)
	prepare := func(t *testing.T) (*node, Volume) {
		n := newNode(t, spec(thick), "/dev/nvme0n1")
		old := n.create(t, CreateVolume{Name: "old", Required: 2 * size})
		write(t, n.device(t, old.ID), former)
		if err := n.DeleteVolume(t.Context(), old.ID); err != nil {
			t.Fatal(err)
		}
		v := n.create(t, CreateVolume{Name: "a", Required: size})
		write(t, n.device(t, v.ID), "precious")
		return n, v
	}
	n, v := prepare(t)
	before := n.host.Steps()
	if _, err := n.ExpandVolume(t.Context(), v.ID, 2*size, 0); err != nil {
		t.Fatal(err)
	}
	steps := n.host.Steps() - before
	if steps < 4 {
		t.Fatalf("an expansion has %d steps", steps)
	}
	for at := 1; at <= steps; at++ {
		n, v := prepare(t)
		n.host.CrashAt(at)
		if _, err := n.ExpandVolume(t.Context(), v.ID, 2*size, 0); err == nil && at < steps {
			t.Errorf("step %d: no error", at)
		}
		n.host.Restart()
		n.start(t)
		for _, when := range []string{"before", "after"} {
			dev := n.device(t, v.ID)
			all := read(t, dev, int(dev.Size()))
			if !strings.HasPrefix(all, "precious") || strings.Contains(all, "former!") {
				t.Errorf("step %d, %s the call is repeated: the content is wrong", at, when)
			}
			if _, err := n.ExpandVolume(t.Context(), v.ID, 2*size, 0); err != nil {
				t.Errorf("step %d: again: %v", at, err)
			}
		}
	}
}
