package node

import (
	"strings"
	"testing"
)

// A profile comes from a ConfigMap, over the link. What is wrong with it is told, and
// what is right with it is a pool that the rest of the agent takes.
func FuzzWant(f *testing.F) {
	f.Add("fast", "nvme", "")
	f.Add("fast", "mine", "disks: {transport: [sata], minSize: 100Gi, count: 2}\nlayout: raid1\nreserve: 10%")
	f.Add("old", "from-os", "adopt: data")
	f.Add("-y", "x", "null")
	f.Add("fast", "bomb", bomb(4))
	f.Fuzz(func(t *testing.T, name, profile, text string) {
		w := Want(name, profile, text)
		if w.Pool != name {
			t.Errorf("pool %q became %q", name, w.Pool)
		}
		if w.Err != nil {
			return
		}
		spec := w.Profile.Spec(name)
		if err := spec.Validate(); err != nil {
			t.Errorf("accepted %+v: %v", spec, err)
		}
		if text == "" && profile != builtin {
			t.Errorf("profile %q without a text is %+v", profile, w.Profile)
		}
	})
}

// bomb is a YAML document whose aliases stand for 10^levels values.
func bomb(levels int) string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := range levels {
		at := string(rune('0' + i))
		next := string(rune('1' + i))
		b.WriteString("a" + next + ": &a" + next + " [" + strings.TrimSuffix(strings.Repeat("*a"+at+",", 10), ",") + "]\n")
	}
	return b.String()
}

// Texts that are made to cost memory or time, or to be read as something else, are
// refused at once, and the error is short.
func TestHostileProfiles(t *testing.T) {
	for name, text := range map[string]string{
		"aliases":         bomb(8),
		"deep":            strings.Repeat("[", 100_000),
		"deep mapping":    strings.Repeat("{a: ", 100_000),
		"huge string":     "model: " + strings.Repeat("x", 4<<20),
		"huge number":     "overprovision: 1" + strings.Repeat("0", 100_000),
		"merge of itself": "a: &a {<<: *a}",
		"tag":             "!!binary aaaa",
		"key twice":       "mode: thin\nmode: thick",
		"null":            "null",
		"list":            "[]",
		"control":         "mode: \x00thin",
		"option":          "adopt: --yes",
		"selection":       "adopt: \"@lamina.pool=fast\"",
		"path":            "adopt: ../x",
	} {
		t.Run(name, func(t *testing.T) {
			w := Want("fast", "mine", text)
			if w.Err == nil {
				t.Errorf("read as %+v", w.Profile)
			} else if n := len(w.Err.Error()); n > 4096 {
				t.Errorf("an error of %d bytes", n)
			}
		})
	}
}

func FuzzDiskEvent(f *testing.F) {
	f.Add([]byte("add@/devices/pci/nvme0n1\x00ACTION=add\x00DEVPATH=/devices/pci/nvme0n1\x00SUBSYSTEM=block\x00DEVTYPE=disk\x00"))
	f.Add([]byte("\x00\x00DEVPATH=/devices/virtual/block/dm-1\x00"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		text := string(msg)
		if diskEvent(msg) && (!strings.Contains(text, "SUBSYSTEM=block") || !strings.Contains(text, "DEVTYPE=disk") || strings.Contains(text, "\x00DEVPATH=/devices/virtual/")) {
			t.Errorf("%q is about a disk", msg)
		}
	})
}
