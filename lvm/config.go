package lvm

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
)

//go:embed lvm.conf
var config string

// withoutUdev is appended where no udevd answers LVM's cookies.
const withoutUdev = `
activation {
	udev_sync = 0
	udev_rules = 0
}
`

// thinTools names the programs that lvm starts where they are not in /usr/sbin.
const thinTools = `
global {
	thin_check_executable = "%[1]s/usr/sbin/thin_check"
	thin_dump_executable = "%[1]s/usr/sbin/thin_dump"
	thin_repair_executable = "%[1]s/usr/sbin/thin_repair"
	thin_restore_executable = "%[1]s/usr/sbin/thin_restore"
}
`

// WriteConfig writes lvm.conf into dir (made with mode 0700 if missing), for use
// as LVM_SYSTEM_DIR, in one step for the commands that start meanwhile. LVM waits for
// udev if told to: see [CheckUdev] and [Udev]. The thin tools are those of the userland
// below root; "" is the system's own.
func WriteConfig(dir, root string, udev bool) error {
	text := config
	if root != "" {
		text += fmt.Sprintf(thinTools, root)
	}
	if !udev {
		text += withoutUdev
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write lvm.conf: %w", err)
	}
	path := filepath.Join(dir, "lvm.conf")
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return fmt.Errorf("write lvm.conf: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write lvm.conf: %w", err)
	}
	return nil
}
