package mount

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestMountFlags(t *testing.T) {
	for _, tt := range []struct {
		fsType  string
		options []string
		flags   uintptr
		plain   bool
	}{
		{"ext4", nil, 0, true},
		{"ext4", []string{"ro", "noatime"}, unix.MS_RDONLY | unix.MS_NOATIME, true},
		{"xfs", []string{"defaults", "nosuid", "nodev"}, unix.MS_NOSUID | unix.MS_NODEV, true},
		{"xfs", []string{"nouuid"}, 0, false},
		{"ext4", []string{"ro", `context="system_u:object_r:container_file_t:s0:c1,c2"`}, 0, false},
		{"", []string{"bind"}, unix.MS_BIND, true},
		{"", []string{"bind", "ro"}, 0, false},
		{"", []string{"remount,bind,ro"}, 0, false},
		{"", nil, 0, false},
	} {
		flags, plain := mountFlags(tt.fsType, tt.options)
		if plain != tt.plain || plain && flags != tt.flags {
			t.Errorf("mountFlags(%q, %q) = %#x, %v, want %#x, %v", tt.fsType, tt.options, flags, plain, tt.flags, tt.plain)
		}
	}
}
