//go:build vm

// These tests run as root on a real kernel that has blank NVMe disks with serials that begin with VET.
// They write to those disks and to no other.

package disk

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// spare tells the disks that are there for these tests. A rig may give a VETRO, of which writes fail.
func spare(d Disk) bool { return strings.HasPrefix(d.Serial, "VET") && d.Serial != "VETRO" }

// spareDisk returns one of them.
func spareDisk(t *testing.T) Disk {
	t.Helper()
	disks, err := (&System{}).List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		if spare(d) {
			return d
		}
	}
	t.Fatalf("no disk has a serial that begins with VET: %+v", disks)
	return Disk{}
}

// run runs a program and returns when it succeeded.
func run(t *testing.T, stdin string, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}

func lvm(t *testing.T, d Disk, argv ...string) {
	t.Helper()
	args := append([]string{"lvm", argv[0], "--devices", d.Path, "--config",
		"activation{udev_sync=0 udev_rules=0 monitoring=0} backup{backup=0 archive=0}"}, argv[1:]...)
	run(t, "", args...)
}

func writeAt(t *testing.T, d Disk, off int64, data []byte) {
	t.Helper()
	f, err := os.OpenFile(d.Path, os.O_WRONLY|os.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(data, off); err != nil {
		t.Fatal(err)
	}
}

func ioctl(path string, request uint, arg unsafe.Pointer) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(arg)); errno != 0 {
		return fmt.Errorf("ioctl %#x of %s: %w", request, path, errno)
	}
	return nil
}

func reread(t *testing.T, d Disk) {
	t.Helper()
	if err := ioctl(d.Path, unix.BLKRRPART, nil); err != nil {
		t.Fatal(err)
	}
}

// zero makes the disk blank again.
func zero(t *testing.T, d Disk) {
	t.Helper()
	whole := [2]uint64{0, uint64(d.Size)}
	if err := ioctl(d.Path, unix.BLKZEROOUT, unsafe.Pointer(&whole)); err != nil {
		t.Fatal(err)
	}
	reread(t, d)
}

// mountAt mounts read-only, so that nothing but the code under test could write.
func mountAt(t *testing.T, device, fstype string) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount(device, dir, fstype, unix.MS_RDONLY, ""); err != nil {
		t.Fatalf("mount %s: %v", device, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// checksum covers every byte of the disk, past the page cache. Blocks of zeros are left out of the hash, which
// would take minutes in an emulated machine.
func checksum(t *testing.T, d Disk) string {
	t.Helper()
	f, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// O_DIRECT wants aligned memory.
	buf, err := unix.Mmap(-1, 0, 4*mib, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(buf)
	sum := sha256.New()
	for off := int64(0); off < d.Size; {
		n, err := f.Read(buf[:min(int64(len(buf)), d.Size-off)])
		if err != nil {
			t.Fatal(err)
		}
		for block := range slices.Chunk(buf[:n], 64<<10) {
			if !allZero(block) {
				fmt.Fprintf(sum, "%d:", off)
				sum.Write(block)
			}
			off += int64(len(block))
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// allZero reads words, eight at a time: an emulated processor is slow at the vector instructions that
// bytes.Equal uses. The block is aligned and made of whole sectors.
func allZero(block []byte) bool {
	words := unsafe.Slice((*uint64)(unsafe.Pointer(&block[0])), len(block)/8)
	var any uint64
	for ; len(words) >= 8; words = words[8:] {
		w := words[:8]
		any |= w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7]
	}
	return any == 0
}

// written returns the kernel's counters of sectors written and discarded
// (Documentation/admin-guide/iostats.rst, fields 7 and 14).
func written(t *testing.T, d Disk) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/sys/block", d.Name, "stat"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b))
	return fields[6] + " written, " + fields[13] + " discarded"
}

// refused vets a disk and wants a refusal that holds reason, and an untouched disk.
func refused(t *testing.T, d Disk, reason string) {
	t.Helper()
	unix.Sync()
	sum, writes := checksum(t, d), written(t, d)
	start := time.Now()
	err := (&System{Prober: blkid{}}).Vet(t.Context(), d)
	t.Logf("%v, in %v", err, time.Since(start).Round(time.Millisecond))
	var refusal *Refusal
	if !errors.As(err, &refusal) || !strings.Contains(refusal.Reason, reason) {
		t.Errorf("got %v\nwant a refusal: %s", err, reason)
	}
	if now := written(t, d); now != writes {
		t.Errorf("sectors %s before, %s after", writes, now)
	}
	if checksum(t, d) != sum {
		t.Error("the disk has changed")
	}
}

var vmCases = []struct {
	name    string
	prepare func(t *testing.T, d Disk)
	reason  string
}{
	{"MBR", func(t *testing.T, d Disk) { writeAt(t, d, 0, mbr(0x83, 2048, 65536)) }, "has a partition table (dos)"},
	{"MBR with its partition", func(t *testing.T, d Disk) {
		writeAt(t, d, 0, mbr(0x83, 2048, 65536))
		reread(t, d)
	}, "has a partition: %sp1 exists"},
	{"GPT", writeGPT, "has a partition table (gpt)"},
	{"GPT with its partition", func(t *testing.T, d Disk) {
		writeGPT(t, d)
		reread(t, d)
	}, "has a partition: %sp1 exists"},
	{"GPT of which only the backup is left", func(t *testing.T, d Disk) {
		writeGPT(t, d)
		writeAt(t, d, 0, make([]byte, mib))
	}, "which looks like a GPT backup"},
	{"ext4", func(t *testing.T, d Disk) { run(t, "", "mke2fs", "-q", "-t", "ext4", d.Path) }, "holds a filesystem, ext4 "},
	{"xfs", func(t *testing.T, d Disk) { run(t, "", "mkfs.xfs", "-q", d.Path) }, "holds a filesystem, xfs "},
	{"btrfs", func(t *testing.T, d Disk) { run(t, "", "mkfs.btrfs", "-q", d.Path) }, "holds a filesystem, btrfs "},
	{"PV of a foreign VG", func(t *testing.T, d Disk) {
		lvm(t, d, "pvcreate", d.Path)
		lvm(t, d, "vgcreate", "foreign", d.Path)
	}, "holds LVM2_member "},
	{"LUKS", func(t *testing.T, d Disk) {
		run(t, "secret", "cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2",
			"--pbkdf-force-iterations", "1000", "--key-file", "-", d.Path)
	}, "holds crypto_LUKS "},
	{"md", func(t *testing.T, d Disk) { writeAt(t, d, 4096, mdSuperblock(d)) }, "holds linux_raid_member "},
	{"swap", func(t *testing.T, d Disk) { writeAt(t, d, 0, swapHeader(d)) }, "holds swap "},
	{"swap in use", func(t *testing.T, d Disk) {
		writeAt(t, d, 0, swapHeader(d))
		swap(t, d.Path)
	}, "is in use as swap"},
	// blkid also wants a label with a checksum, which these uberblocks do not have: our own look names them.
	{"zfs", writeZFS, "which looks like a ZFS label"},
	{"iso9660", func(t *testing.T, d Disk) {
		writeAt(t, d, 0x8000, []byte("\x01CD001\x01"))
		writeAt(t, d, 0x8800, []byte("\xffCD001\x01"))
	}, "holds a filesystem, iso9660 "},
	{"mounted ext4", func(t *testing.T, d Disk) {
		run(t, "", "mke2fs", "-q", "-t", "ext4", d.Path)
		mountAt(t, d.Path, "ext4")
	}, "is mounted at /"},
	{"mounted btrfs", func(t *testing.T, d Disk) {
		run(t, "", "mkfs.btrfs", "-q", d.Path)
		mountAt(t, d.Path, "btrfs")
	}, "is mounted at /"},
	{"system disk by a partition", func(t *testing.T, d Disk) {
		writeGPT(t, d)
		reread(t, d)
		run(t, "", "mke2fs", "-q", "-t", "ext4", d.Path+"p1")
		mountAt(t, d.Path+"p1", "ext4")
	}, "is mounted from %sp1 on this disk"},
	{"system disk by LVM", func(t *testing.T, d Disk) {
		lvm(t, d, "pvcreate", d.Path)
		lvm(t, d, "vgcreate", "foreign", d.Path)
		lvm(t, d, "lvcreate", "--name", "root", "--size", "64m", "foreign")
		t.Cleanup(func() { lvm(t, d, "vgchange", "--activate", "n", "foreign") })
		run(t, "", "mke2fs", "-q", "-t", "ext4", "/dev/mapper/foreign-root")
		mountAt(t, "/dev/mapper/foreign-root", "ext4")
	}, "(foreign-root) on this disk"},
	{"held by device-mapper", func(t *testing.T, d Disk) {
		table := fmt.Sprintf("0 2048 linear %s 0", d.Path)
		run(t, "", "dmsetup", "create", "vethold", "--noudevsync", "--noudevrules", "--table", table)
		t.Cleanup(func() { run(t, "", "dmsetup", "remove", "--noudevsync", "--noudevrules", "vethold") })
	}, "is held by dm-"},
	{"claimed exclusively", func(t *testing.T, d Disk) {
		f, err := os.OpenFile(d.Path, os.O_RDONLY|unix.O_EXCL, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
	}, "is claimed by something in the kernel"},
	{"end of the first MiB", func(t *testing.T, d Disk) { writeAt(t, d, mib-1, []byte{1}) },
		"the first MiB is not zero at byte 1048575"},
	{"start of the last MiB", func(t *testing.T, d Disk) { writeAt(t, d, d.Size-mib, []byte{1}) },
		"the last MiB is not zero"},
	{"last byte", func(t *testing.T, d Disk) { writeAt(t, d, d.Size-1, []byte{1}) },
		"the last MiB is not zero"},
}

func TestVMRefuses(t *testing.T) {
	for _, tt := range vmCases {
		t.Run(tt.name, func(t *testing.T) {
			d := spareDisk(t)
			// That the blank disk passes first also shows that the case before was undone.
			if err := (&System{Prober: blkid{}}).Vet(t.Context(), d); err != nil {
				t.Fatalf("before: %v", err)
			}
			t.Cleanup(func() { zero(t, d) })
			tt.prepare(t, d)
			refused(t, d, strings.ReplaceAll(tt.reason, "%s", d.Name))
		})
	}
}

func TestVMPasses(t *testing.T) {
	var passed int
	disks, err := (&System{}).List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		if !spare(d) {
			continue
		}
		if ok, why := (Selector{}).Match(d); !ok {
			t.Errorf("%+v: %s", d, why)
		}
		sum, writes := checksum(t, d), written(t, d)
		if err := (&System{Prober: blkid{}}).Vet(t.Context(), d); err != nil {
			t.Error(err)
		}
		if checksum(t, d) != sum || written(t, d) != writes {
			t.Errorf("%s has changed", d.Name)
		}
		passed++
	}
	if passed < 3 {
		t.Errorf("%d spare disks, want 3", passed)
	}
}

// TestVMReadOnly lets the kernel itself protect the disk (BLKROSET). QEMU's read-only NVMe disk does not do:
// it does not say that it is write-protected, and only fails each write.
func TestVMReadOnly(t *testing.T) {
	d := spareDisk(t)
	protect := func(on int32) {
		if err := ioctl(d.Path, unix.BLKROSET, unsafe.Pointer(&on)); err != nil {
			t.Fatal(err)
		}
	}
	protect(1)
	t.Cleanup(func() { protect(0) })
	refused(t, d, "is read-only")
}

// TestVMVanishes pulls the disk from its PCI slot while it is looked at, and plugs it in again.
func TestVMVanishes(t *testing.T) {
	d := spareDisk(t)
	sum := checksum(t, d)
	pulled := proberFunc(func(ctx context.Context, device string) (Signature, error) {
		if err := os.WriteFile(filepath.Join("/sys/block", d.Name, "device/device/remove"), []byte("1"), 0); err != nil {
			t.Errorf("pull %s: %v", d.Name, err)
		}
		return Signature{}, nil
	})
	err := (&System{Prober: pulled}).Vet(t.Context(), d)
	t.Log(err)
	var refusal *Refusal
	if !errors.As(err, &refusal) || !strings.HasPrefix(refusal.Reason, "vanished while it was looked at") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile("/sys/bus/pci/rescan", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	back := reappeared(t, d.Serial)
	if checksum(t, back) != sum {
		t.Error("the disk has changed")
	}
	// What was known of the disk before does not speak for the one that is there now.
	err = (&System{Prober: blkid{}}).Vet(t.Context(), d)
	if !errors.As(err, &refusal) || !strings.HasPrefix(refusal.Reason, "vanished while it was looked at") {
		t.Errorf("with what was known before: got %v", err)
	}
	if err := (&System{Prober: blkid{}}).Vet(t.Context(), back); err != nil {
		t.Errorf("plugged in again: %v", err)
	}
}

func reappeared(t *testing.T, serial string) Disk {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		disks, err := (&System{}).List(ctx)
		if err != nil {
			t.Fatalf("wait for disk %s: %v", serial, err)
		}
		i := slices.IndexFunc(disks, func(d Disk) bool { return d.Serial == serial && d.Size > 0 })
		if i >= 0 {
			if f, err := os.Open(disks[i].Path); err == nil {
				f.Close()
				return disks[i]
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("disk %s did not come back: %v", serial, disks)
		}
	}
}
