package mounttest

import (
	"maps"
	"slices"

	"github.com/lamina-csi/lamina/node/mount"
)

// Mounted is a mount, or an open mapping, which has no path.
type Mounted struct {
	Device string
	Below  string // of a mapping: what it lies on
	Path   string
	Frozen bool
}

// Mounted lists the mounts in their order, then the mappings by name.
func (s *System) Mounted() []Mounted {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Mounted
	below := func(device string) string {
		for name, m := range s.mappings {
			if mount.MappedDevice(name) == device {
				return m.path
			}
		}
		return ""
	}
	for _, e := range s.mounts {
		out = append(out, Mounted{e.Device, below(e.Device), e.Path, s.frozen[e.Path]})
	}
	for _, name := range slices.Sorted(maps.Keys(s.mappings)) {
		device := mount.MappedDevice(name)
		out = append(out, Mounted{Device: device, Below: below(device)})
	}
	return out
}
