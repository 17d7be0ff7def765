package lvm

import (
	"errors"
	"fmt"
	"strings"
)

// What an error of this package means to its caller. Test with errors.Is.
var (
	// ErrInvalid: a name, tag, size or path that LVM cannot have.
	ErrInvalid = errors.New("not valid")
	// ErrNotFound: the volume group, logical volume or device is not there.
	ErrNotFound = errors.New("not found")
	// ErrExists: the name is taken.
	ErrExists = errors.New("exists already")
	// ErrNoSpace: the volume group or the thin pool has no room.
	ErrNoSpace = errors.New("no space left")
	// ErrInUse: the device is open, mounted or held.
	ErrInUse = errors.New("in use")
	// ErrDamaged: a part of the volume is missing or damaged. LVM changes nothing.
	ErrDamaged = errors.New("missing or damaged")
	// ErrCopied: a disk is there twice, as after cloning it.
	ErrCopied = errors.New("a disk is there twice")
	// ErrPending: a command was started and has not ended. It still runs and
	// holds the lock of its volume group.
	ErrPending = errors.New("command still running")
)

// Error is an lvm command that ended with an error.
type Error struct {
	Command  string   // lvcreate
	Args     []string // its arguments
	Exit     int      // ECMD_FAILED is 5, EINIT_FAILED 4, EINVALID_CMD_LINE 3 (tools/errors.h)
	Messages []string // what it said, one line each
	kind     error
}

func (e *Error) Error() string {
	text := strings.Join(e.Messages, "; ")
	if signal := e.Exit - 128; signal > 0 {
		text = strings.TrimPrefix(text+fmt.Sprintf("; signal %d killed it", signal), "; ")
	}
	if text == "" {
		text = "it said nothing"
	}
	return fmt.Sprintf("%s: exit %d: %s", e.Command, e.Exit, text)
}

// Unwrap gives the sentinel that fits, or nil when the reason is not known.
func (e *Error) Unwrap() error { return e.kind }

// MissingModuleError is a module that the kernel lacks and did not load by itself.
type MissingModuleError struct {
	Module string // dm_thin_pool
	Err    error  // what the kernel said
}

// Error says what a person can do. Talos' kernel runs no modprobe of its own since
// 1.14, and the machine configuration has had two forms.
func (e *MissingModuleError) Error() string {
	return fmt.Sprintf("load the kernel module %[1]s on this host: modprobe %[1]s, and a line %[1]s in /etc/modules-load.d; "+
		"on Talos add the document {apiVersion: v1alpha1, kind: KernelModuleConfig, name: %[1]s} to the machine configuration, "+
		"before Talos 1.14 machine.kernel.modules: [{name: %[1]s}] (%[2]v)", e.Module, e.Err)
}

// Unwrap gives what the kernel said.
func (e *MissingModuleError) Unwrap() error { return e.Err }

// patterns turn lvm's English (LC_ALL=C) into a sentinel. Each names the source
// that prints it. A text that fits none leaves the reason unknown: never guess.
var patterns = []struct {
	text string
	kind error
}{
	// lib/metadata/lv_manip.c, lv_create_single() and lv_rename_update().
	{"already exists in volume group", ErrExists},
	// tools/vgcreate.c, vgcreate(): "A volume group called %s already exists."
	{"already exists.", ErrExists},
	// lib/metadata/vg.c, vg_validate...: the same, when a volume of it is active:
	// "%s: already exists in filesystem".
	{"already exists in filesystem", ErrExists},
	// tools/toollib.c, _process_lv_vgnameid_list(): "Failed to find logical volume \"%s\"".
	{"Failed to find logical volume", ErrNotFound},
	// tools/lvcreate.c: "Snapshot origin LV %s not found in Volume group %s.",
	// "Thin pool %s not found in Volume group %s."
	{"not found in Volume group", ErrNotFound},
	// lib/metadata/lv_manip.c, _lv_extend_layered_lv(), lv_extend():
	// "Volume group \"%s\" has insufficient free space (%u extents): %u required."
	{"insufficient free space", ErrNoSpace},
	{"Insufficient free space", ErrNoSpace},
	// lib/metadata/lv_manip.c, _allocate(): "Insufficient suitable allocatable extents".
	{"Insufficient suitable", ErrNoSpace},
	// lib/metadata/thin_manip.c, pool_below_threshold() and its callers:
	// "Cannot create new thin volume, free space in thin pool %s reached threshold."
	{"reached threshold", ErrNoSpace},
	// lib/format_text/format-text.c, _vg_write_raw(): the metadata area is full:
	// "VG %s metadata on %s … too large for circular buffer".
	{"too large for circular buffer", ErrNoSpace},
	// lib/activate/dev_manager.c, _pool_callback(): "Check of pool %s failed
	// (status:%d). Manual repair required!"
	{"Manual repair required", ErrDamaged},
	// lib/activate/activate.c, _lv_activate(): "Refusing activation of partial LV %s."
	{"Refusing activation of partial LV", ErrDamaged},
	// lib/metadata/metadata.c, vg_read(): "Cannot change VG %s while PVs are missing."
	{"while PVs are missing", ErrDamaged},
	// lib/activate/activate.c, lv_check_not_in_use():
	// "Logical volume %s contains a filesystem in use.", "… is used by another device.", "… in use."
	{"contains a filesystem in use", ErrInUse},
	{"is used by another device", ErrInUse},
	{" in use.", ErrInUse},
	// lib/device/dev-io.c and tools/toollib.c, pvcreate:
	// "Can't open %s exclusively.  Mounted filesystem?"
	{"exclusively.  Mounted filesystem?", ErrInUse},
}

// classify finds the sentinel for what a command said.
func classify(messages []string) error {
	for _, m := range messages {
		// lib/activate/dev_manager.c: LVM could not ask how full the pool is, and
		// then says "reached threshold" all the same.
		if strings.Contains(m, "has unexpected transaction id") {
			return nil
		}
		// lib/metadata/metadata.c, vg_read(): "Volume group \"%s\" not found".
		if strings.Contains(m, "Volume group \"") && strings.Contains(m, "not found") {
			return ErrNotFound
		}
		for _, p := range patterns {
			if strings.Contains(m, p.text) {
				return p.kind
			}
		}
	}
	return nil
}

// lines splits the text of a command and drops blanks.
func lines(text []byte) []string {
	var out []string
	for _, l := range strings.Split(string(text), "\n") {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}

func isNotFound(err error) bool { return errors.Is(err, ErrNotFound) }
