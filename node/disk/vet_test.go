package disk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const mountLine = "30 22 %DEV% / %POINT% rw,relatime shared:1 - %TYPE% %SRC% rw\n"

// mountinfo returns a line of it.
func mountinfo(dev, point, fstype, source string) string {
	return strings.NewReplacer("%DEV%", dev, "%POINT%", point, "%TYPE%", fstype, "%SRC%", source).Replace(mountLine)
}

func swaps(paths ...string) string {
	text := "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
	for _, p := range paths {
		text += p + "                               partition\t1048572\t\t0\t\t-2\n"
	}
	return text
}

// vetCases prepare the blank disk nvme0n1 (259:0), and name the whole reason of the refusal or, after
// "...", a part of it. wraps is an error that must be found in the chain.
var vetCases = []struct {
	name    string
	prepare func(f *fake)
	reason  string
	wraps   error
}{
	{"partition table", func(f *fake) {
		f.sys.Prober = probe(Signature{PTType: "gpt", UUID: "u"}, nil)
	}, "has a partition table (gpt)", nil},
	{"filesystem", func(f *fake) {
		f.sys.Prober = probe(Signature{Type: "ext4", Usage: "filesystem", UUID: "u", Label: "x"}, nil)
	}, "holds a filesystem, ext4 (blkid: TYPE=ext4, UUID=u)", nil},
	{"filesystem with a partition table", func(f *fake) {
		f.sys.Prober = probe(Signature{Type: "iso9660", Usage: "filesystem", PTType: "dos"}, nil)
	}, "holds a filesystem, iso9660 (blkid: TYPE=iso9660, PTTYPE=dos)", nil},
	{"member", func(f *fake) {
		f.sys.Prober = probe(Signature{Type: "LVM2_member", Usage: "raid", UUID: "u"}, nil)
	}, "holds LVM2_member (blkid: TYPE=LVM2_member, UUID=u)", nil},
	{"only odd tags", func(f *fake) { f.sys.Prober = probe(Signature{Usage: "x"}, nil) },
		"holds something that blkid knows but does not name", nil},
	{"probe fails", func(f *fake) { f.sys.Prober = probe(Signature{}, errors.New("blkid: exit status 8")) },
		"cannot be proved to be blank: probe its signatures: blkid: exit status 8", nil},
	{"probe times out on its own", func(f *fake) { f.sys.Prober = probe(Signature{}, context.DeadlineExceeded) },
		"...cannot be proved to be blank: probe its signatures", context.DeadlineExceeded},
	{"no prober", func(f *fake) { f.sys.Prober = nil }, "cannot be proved to be blank: no prober is configured", nil},

	{"mounted", func(f *fake) { f.write("proc/self/mountinfo", mountinfo("259:0", "/data", "xfs", "/dev/nvme0n1")) },
		"is mounted at /data", nil},
	{"mounted, seen by process 1", func(f *fake) {
		f.write("proc/1/mountinfo", mountinfo("259:0", `/my\040data`, "xfs", "none"))
	}, `is mounted at /my\040data`, nil},
	{"btrfs tells only its source", func(f *fake) {
		f.write("proc/self/mountinfo", mountinfo("0:44", "/data", "btrfs", "/dev/nvme0n1"))
	}, "is mounted at /data", nil},
	{"source by a link", func(f *fake) {
		f.symlink("../../nvme0n1", `dev/disk/by-id/a b`)
		f.write("proc/self/mountinfo", mountinfo("0:44", "/data", "btrfs", `/dev/disk/by-id/a\040b`))
	}, "is mounted at /data", nil},
	{"system disk by partition", func(f *fake) {
		f.partition("nvme0n1", "nvme0n1p1", "259:7")
		f.write("proc/self/mountinfo", mountinfo("259:7", "/boot", "vfat", "/dev/nvme0n1p1"))
	}, "is in use: /boot is mounted from nvme0n1p1 on this disk", nil},
	{"system disk by LVM on a partition", func(f *fake) {
		f.partition("nvme0n1", "nvme0n1p1", "259:7")
		f.dm("dm-0", "253:0", "debian-root", "nvme0n1/nvme0n1p1")
		f.write("proc/self/mountinfo", mountinfo("253:0", "/", "ext4", "/dev/root"))
	}, "is in use: / is mounted from dm-0 (debian-root) on this disk", nil},
	{"system disk three layers down, told by name", func(f *fake) {
		f.dm("dm-0", "253:0", "crypt", "nvme0n1")
		f.dm("dm-1", "253:1", "vg-lv", "dm-0")
		f.write("proc/self/mountinfo", mountinfo("0:50", "/home", "btrfs", "/dev/mapper/vg-lv"))
	}, "is in use: /home is mounted from dm-1 (vg-lv) on this disk", nil},
	{"name of a mount that leads nowhere here", func(f *fake) {
		f.dm("dm-0", "253:0", "vg-lv", "nvme0n1")
		f.remove("dev/mapper/vg-lv")
		f.write("proc/self/mountinfo", mountinfo("0:50", "/home", "btrfs", "/dev/mapper/vg-lv"))
	}, "is in use: /home is mounted from dm-0 (vg-lv) on this disk", nil},

	{"swap", func(f *fake) { f.write("proc/swaps", swaps("/dev/sda2", "/dev/nvme0n1")) }, "is in use as swap", nil},
	{"swap on a partition", func(f *fake) {
		f.partition("nvme0n1", "nvme0n1p2", "259:8")
		f.write("proc/swaps", swaps("/dev/nvme0n1p2"))
	}, "is in use: nvme0n1p2 on this disk is swap", nil},
	{"swap on LVM", func(f *fake) {
		f.dm("dm-0", "253:0", "vg-swap", "nvme0n1")
		f.write("proc/swaps", swaps("/dev/dm-0"))
	}, "is in use: dm-0 (vg-swap) on this disk is swap", nil},

	{"held", func(f *fake) { f.dm("dm-3", "253:3", "lamina--fast-pool_tdata", "nvme0n1") },
		"is held by dm-3 (lamina--fast-pool_tdata)", nil},
	{"holders in a ring", func(f *fake) {
		f.dm("dm-3", "253:3", "a", "nvme0n1")
		f.mkdir("sys/block/dm-3/holders/nvme0n1")
	}, "is held by dm-3 (a)", nil},
	{"partition", func(f *fake) { f.partition("nvme0n1", "nvme0n1p1", "259:7") },
		"has a partition: nvme0n1p1 exists", nil},
	{"slaves", func(f *fake) { f.mkdir("sys/block/nvme0n1/slaves/sdb") }, "is built on sdb", nil},
	{"read-only", func(f *fake) { f.attrs("nvme0n1", map[string]string{"ro": "1"}) }, "is read-only", nil},
	{"removable", func(f *fake) { f.attrs("nvme0n1", map[string]string{"removable": "1"}) }, "is removable", nil},
	{"hidden", func(f *fake) { f.attrs("nvme0n1", map[string]string{"hidden": "1"}) },
		"is not a kind of device that pools are made of", nil},
	{"a partition itself", func(f *fake) { f.write("sys/class/block/nvme0n1/partition", "1\n") },
		"is a partition: only whole disks are taken", nil},
	{"claimed in the kernel", func(f *fake) {
		f.sys.open = func(d Disk) (*os.File, error) { return nil, &os.PathError{Op: "open", Path: d.Path, Err: unix.EBUSY} }
	}, "...is claimed by something in the kernel", unix.EBUSY},
	{"the real open wants a block device", func(f *fake) { f.sys.open = nil },
		"...is not block device 259:0", nil},
	{"no device node", func(f *fake) { f.remove("dev/nvme0n1") }, "...cannot be proved to be blank: open ", os.ErrNotExist},

	{"first byte", func(f *fake) { f.put("nvme0n1", 0, "x") },
		"is not blank: the first MiB is not zero at byte 0; wipe it yourself (wipefs, blkdiscard) if you are sure", nil},
	{"end of the first MiB", func(f *fake) { f.put("nvme0n1", mib-1, "\x80") }, "...the first MiB is not zero at byte 1048575;", nil},
	{"start of the last MiB", func(f *fake) { f.put("nvme0n1", fakeSize-mib, "\x01") }, "...the last MiB is not zero at byte 7340032;", nil},
	{"last byte", func(f *fake) { f.put("nvme0n1", fakeSize-1, "\x01") }, "...the last MiB is not zero at byte 8388607;", nil},
	{"LVM label", func(f *fake) { f.put("nvme0n1", 1024, "LABELONE") }, "...at byte 1024, which looks like an LVM physical volume;", nil},
	{"second LUKS header", func(f *fake) { f.put("nvme0n1", 0x4000, "SKUL\xba\xbe") }, "...which looks like a second LUKS header;", nil},
	{"GPT backup", func(f *fake) { f.put("nvme0n1", fakeSize-512, "EFI PART") }, "...which looks like a GPT backup;", nil},
	{"GPT backup of a 4Kn disk", func(f *fake) { f.put("nvme0n1", fakeSize-4096, "EFI PART") }, "...which looks like a GPT backup;", nil},
	{"MBR", func(f *fake) { f.put("nvme0n1", 510, "\x55\xaa") }, "...which looks like a boot sector or MBR;", nil},
	{"swap header", func(f *fake) { f.put("nvme0n1", 4086, "SWAPSPACE2") }, "...which looks like swap;", nil},
	{"md 1.2", func(f *fake) { f.put("nvme0n1", 4096, "\xfc\x4e\x2b\xa9") }, "...which looks like an md member;", nil},
	{"md 1.0", func(f *fake) { f.put("nvme0n1", fakeSize-8192, "\xfc\x4e\x2b\xa9") }, "...which looks like an md member;", nil},
	{"md 0.90", func(f *fake) { f.put("nvme0n1", fakeSize-64<<10, "\xfc\x4e\x2b\xa9") }, "...which looks like an md member;", nil},
	{"first ZFS label", func(f *fake) { f.put("nvme0n1", 128<<10, "\x0c\xb1\xba\x00\x00\x00\x00\x00") }, "...which looks like a ZFS label;", nil},
	{"last ZFS label, big endian", func(f *fake) {
		f.put("nvme0n1", fakeSize-1<<10, "\x00\x00\x00\x00\x00\xba\xb1\x0c")
	}, "...which looks like a ZFS label;", nil},
	{"device shorter than sysfs says", func(f *fake) {
		if err := os.Truncate(filepath.Join(f.root, "dev/nvme0n1"), fakeSize-512); err != nil {
			f.t.Fatal(err)
		}
	}, "cannot be proved to be blank: its size is 8388096 bytes, sysfs says 8388608", nil},
	{"unreadable device", func(f *fake) {
		f.sys.open = func(d Disk) (*os.File, error) { return os.OpenFile(d.Path, os.O_WRONLY, 0) }
	}, "...cannot be proved to be blank: read the first MiB", syscall.EBADF},

	{"no mountinfo", func(f *fake) { f.remove("proc/self/mountinfo") }, "...cannot be proved to be blank", os.ErrNotExist},
	{"mountinfo of another shape", func(f *fake) { f.write("proc/self/mountinfo", "30 22 259:1 / /data\n") },
		"...cannot be proved to be blank: parse mountinfo", nil},
	{"mountinfo of process 1 of another shape", func(f *fake) { f.write("proc/1/mountinfo", "?\n") },
		"...cannot be proved to be blank: parse mountinfo", nil},
	{"swaps of another shape", func(f *fake) { f.write("proc/swaps", "nothing\n") },
		"...cannot be proved to be blank: parse swaps", nil},
	{"no holders directory", func(f *fake) { f.remove("sys/block/nvme0n1/holders") },
		"...cannot be proved to be blank: read what is stacked on it", os.ErrNotExist},
	{"no slaves directory", func(f *fake) { f.remove("sys/block/nvme0n1/slaves") },
		"...cannot be proved to be blank: read what it is built on", os.ErrNotExist},

	{"gone before", func(f *fake) { f.remove("sys/block/nvme0n1") }, "...vanished while it was looked at", os.ErrNotExist},
	{"gone meanwhile", func(f *fake) { f.during(func() { f.remove("sys/block/nvme0n1") }, nil) },
		"...vanished while it was looked at", os.ErrNotExist},
	{"gone meanwhile, and the probe failed of it", func(f *fake) {
		f.during(func() { f.remove("sys/block/nvme0n1") }, syscall.EIO)
	}, "...vanished while it was looked at", syscall.EIO},
	{"other serial meanwhile", func(f *fake) {
		f.during(func() { f.attrs("nvme0n1", map[string]string{"device/serial": "S9"}) }, nil)
	}, "vanished while it was looked at: its serial was S1 and is S9 now", nil},
	{"other size meanwhile", func(f *fake) {
		f.during(func() { f.attrs("nvme0n1", map[string]string{"size": "8"}) }, nil)
	}, "...vanished while it was looked at: its size in bytes was 8388608 and is 4096 now", nil},
	{"other device number meanwhile", func(f *fake) {
		f.during(func() { f.attrs("nvme0n1", map[string]string{"dev": "259:5"}) }, nil)
	}, "vanished while it was looked at: its device number was 259:0 and is 259:5 now", nil},
	{"a twin meanwhile", func(f *fake) {
		f.during(func() { f.attrs("nvme0n1", map[string]string{"diskseq": "8"}) }, nil)
	}, "vanished while it was looked at: its diskseq was 7 and is 8 now", nil},
}

// during makes something happen while the prober runs.
func (f *fake) during(event func(), err error) {
	f.sys.Prober = proberFunc(func(context.Context, string) (Signature, error) {
		event()
		return Signature{}, err
	})
}

func TestVetRefuses(t *testing.T) {
	for _, tt := range vetCases {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.disk("nvme0n1", "259:0", "S1")
			d := f.list()[0]
			tt.prepare(f)
			_, statErr := os.Stat(d.Path)
			var before [32]byte
			if statErr == nil {
				before = f.sum("nvme0n1")
			}

			err := f.sys.Vet(t.Context(), d)

			var refusal *Refusal
			if !errors.As(err, &refusal) {
				t.Fatalf("got %v, want a refusal", err)
			}
			part, isPart := strings.CutPrefix(tt.reason, "...")
			if isPart && !strings.Contains(refusal.Reason, part) || !isPart && refusal.Reason != tt.reason {
				t.Errorf("got  %s\nwant %s", refusal.Reason, tt.reason)
			}
			if err.Error() != "nvme0n1 "+refusal.Reason || refusal.Disk.Serial != "S1" {
				t.Errorf("refusal %v is of %+v", err, refusal.Disk)
			}
			if tt.wraps != nil && !errors.Is(err, tt.wraps) {
				t.Errorf("%v does not wrap %v", err, tt.wraps)
			}
			if statErr == nil && f.sum("nvme0n1") != before {
				t.Error("the disk was written to")
			}
		})
	}
}

func TestVetNoSize(t *testing.T) {
	f := newFake(t)
	f.disk("nvme0n1", "259:0", "S1")
	f.attrs("nvme0n1", map[string]string{"size": "0"})
	var refusal *Refusal
	if err := f.sys.Vet(t.Context(), f.list()[0]); !errors.As(err, &refusal) || !strings.HasPrefix(refusal.Reason, "has no size") {
		t.Errorf("got %v", err)
	}
}

func TestVetPasses(t *testing.T) {
	for name, prepare := range map[string]func(f *fake){
		"blank": func(*fake) {},
		"other disk in use": func(f *fake) {
			f.disk("nvme1n1", "259:1", "S2")
			f.partition("nvme1n1", "nvme1n1p1", "259:2")
			f.dm("dm-0", "253:0", "vg-root", "nvme1n1/nvme1n1p1")
			f.write("proc/self/mountinfo", mountinfo("253:0", "/", "ext4", "/dev/mapper/vg-root"))
			f.write("proc/1/mountinfo", mountinfo("259:2", "/boot", "ext4", "/dev/nvme1n1p1"))
			f.write("proc/swaps", swaps("/dev/nvme1n1p2", `/swap\040file`))
		},
		"no swap in the kernel":      func(f *fake) { f.remove("proc/swaps") },
		"data between the two edges": func(f *fake) { f.put("nvme0n1", 4*mib, "former tenant") },
		"smaller than one MiB": func(f *fake) {
			f.attrs("nvme0n1", map[string]string{"size": "8"})
			if err := os.Truncate(filepath.Join(f.root, "dev/nvme0n1"), 4096); err != nil {
				f.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.disk("nvme0n1", "259:0", "S1")
			prepare(f)
			before := f.sum("nvme0n1")
			if err := f.sys.Vet(t.Context(), f.list()[0]); err != nil {
				t.Error(err)
			}
			if f.sum("nvme0n1") != before {
				t.Error("the disk was written to")
			}
		})
	}
}

func TestVetCancelled(t *testing.T) {
	f := newFake(t)
	f.disk("nvme0n1", "259:0", "S1")
	d := f.list()[0]
	ctx, cancel := context.WithCancel(t.Context())
	f.during(cancel, nil)
	err := f.sys.Vet(ctx, d)
	if !errors.Is(err, context.Canceled) || errors.As(err, new(*Refusal)) {
		t.Errorf("got %v, want the context's error and no refusal", err)
	}
}
