package mount

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestValidateMountFlags(t *testing.T) {
	good := [][]string{
		nil, {"noatime", "discard"}, {"discard=async"}, {"commit=30", "data=writeback"}, {"compress=zstd:3"}, {"compress"},
		{"ro", "noexec"}, {"logbsize=256k"}, {`context="system_u:object_r:container_file_t:s0:c12,c34"`},
		{"context=system_u:object_r:container_file_t:s0"},
	}
	for _, flags := range good {
		if err := ValidateMountFlags(flags); err != nil {
			t.Errorf("%q: %v", flags, err)
		}
	}
	bad := [][]string{
		{""}, {"noatime,suid"}, {"bind"}, {"rbind"}, {"remount"}, {"move"}, {"loop"}, {"loop=/dev/loop0"}, {"shared"}, {"rprivate"},
		{"offset=4096"}, {"sizelimit=1"}, {"encryption=aes"}, {"helper=x"}, {"uhelper=udisks2"}, {"x-mount.mkdir"},
		{"X-mount.owner=0"}, {"x-systemd.automount"}, {"user"}, {"errors=panic"}, {"logdev=/dev/sda"}, {"journal_path=/dev/sda"},
		{"journal_dev=0x801"}, {"rtdev=/dev/sda"}, {"device=/dev/sda"}, {"dax=always"}, {"subvolid=5"}, {"degraded"}, {"usebackuproot"},
		{"usrjquota=/etc/shadow"}, {"jqfmt=vfsv0"}, {"uid=0"}, {"umask=0"}, {"test_dummy_encryption"}, {"init=/bin/sh"}, {"nofail"}, {"auto"},
		{"comment=x"}, {"x-gvfs-show"}, {"X-mount.subdir=../.."}, {"X-mount.idmap=/proc/1/ns/user"}, {"X-mount.mode=04777"}, {"verity.roothash=x"},
		{"rootcontext=system_u:object_r:root_t:s0"}, {"defcontext=a:b:c:s0"}, {"seclabel"}, {"remount,suid"}, {"bind,rw"}, {"ro\x00rw"}, {"RO"},
		{"-oremount"}, {"--make-shared"}, {"-t"}, {"noatime -o bind"}, {"context=system_u:object_r:x:s0:c1,c2"}, {`context="a:b:c:s0:c1",bind`},
		{`context="a:b:c:s0" `}, {`context='a:b:c:s0'`}, {"data=ordered:rw"}, {"compress=zstd:3,remount"}, {"discard="}, {"norecovery"}, {"noload"}, {"rescue=all"}, {"degraded"}, {"subvol=../x"}, {"noatime\n"}, {"noatime=1"},
		{"commit"}, {"commit=30,suid"}, {"commit=-1"}, {"commit=99999999999"}, {"ro", "rw"}, {"-o"}, {"--bind"},
		{`context="a",suid`}, {`context="a"b"`}, {`context=a,b`}, {`fscontext="a:b:c:s0"`}, {"nöatime"}, {"=ro"},
	}
	for _, flags := range bad {
		if err := ValidateMountFlags(flags); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: error = %v, want ErrInvalid", flags, err)
		}
	}
}

func FuzzValidateMountFlags(f *testing.F) {
	f.Add("noatime")
	f.Add(`context="a:b:c:s0:c1,c2"`)
	f.Add("ro,bind")
	f.Fuzz(func(t *testing.T, flag string) {
		if ValidateMountFlags([]string{flag}) != nil {
			return
		}
		// Quotes keep the commas of a SELinux context together; nothing else may have either.
		if context, ok := strings.CutPrefix(flag, `context="`); ok {
			flag = strings.ReplaceAll(strings.TrimSuffix(context, `"`), ",", "")
		}
		if strings.ContainsAny(flag, ",\"'\\ \t\n\x00/") || strings.HasPrefix(flag, "-") {
			t.Errorf("%q passes", flag)
		}
		// Nothing that makes mount(8) do something else, or names another device.
		name, _, _ := strings.Cut(flag, "=")
		for _, never := range []string{"bind", "rbind", "remount", "move", "loop", "offset", "helper", "uhelper", "logdev", "rtdev",
			"journal_dev", "journal_path", "device", "subvol", "subvolid", "user", "users", "owner", "group"} {
			if name == never || strings.HasPrefix(strings.ToLower(name), "x-") {
				t.Errorf("%q passes", flag)
			}
		}
	})
}

func TestValidateMkfsOptions(t *testing.T) {
	for _, tt := range []struct {
		fsType FSType
		words  []string
	}{
		{Ext4, nil}, {Ext4, []string{"-i", "65536", "-m", "0.5"}}, {Ext4, []string{"-E", "stride=16,stripe_width=64"}},
		{Ext4, []string{"-O", "^orphan_file,fast_commit"}}, {XFS, []string{"-d", "su=64k,sw=2", "-m", "reflink=0"}},
		{Btrfs, []string{"-n", "16k", "-m", "dup", "--csum", "xxhash"}},
	} {
		if err := ValidateMkfsOptions(tt.fsType, tt.words); err != nil {
			t.Errorf("%s %q: %v", tt.fsType, tt.words, err)
		}
	}
	for _, tt := range []struct {
		fsType FSType
		words  []string
	}{
		{"ext3", nil}, {"", nil}, {Ext4, []string{"-F"}}, {Ext4, []string{"-i"}}, {Ext4, []string{"-i", "-1"}}, {Ext4, []string{"-U", "clear"}},
		{Ext4, []string{"/dev/sda"}}, {Ext4, []string{"--"}}, {Ext4, []string{"-d", "/etc"}}, {Ext4, []string{"-E", "discard"}},
		{Ext4, []string{"-E", "assume_storage_prezeroed=1"}}, {Ext4, []string{"-E", "offset=4096"}}, {Ext4, []string{"-E", ""}},
		{Ext4, []string{"-O", "^has_journal"}}, {Ext4, []string{"-O", "journal_dev"}}, {Ext4, []string{"-J", "device=/dev/sda"}}, {Ext4, []string{"-J", "location=1"}}, {Ext4, []string{"-J", "size=4,device=LABEL=x"}},
		{Ext4, []string{"-E", "root_owner=0:0"}}, {Ext4, []string{"-E", "hash_seed=x"}}, {Ext4, []string{"-E", "stride=1,offset=1"}}, {Ext4, []string{"-E", "orphan_file_size=1"}},
		{Ext4, []string{"-L", "STATE"}}, {Ext4, []string{"-o", "Linux"}}, {Ext4, []string{"-c", "-c"}}, {Ext4, []string{"-l", "/etc/shadow"}}, {Ext4, []string{"-z", "/etc/x"}},
		{Ext4, []string{"-d", "/"}}, {Ext4, []string{"-S", "-S"}}, {Ext4, []string{"-n", "-n"}}, {Ext4, []string{"-t", "xfs"}}, {Ext4, []string{"-M", "/"}},
		{Ext4, []string{"-O", "metadata_csum_seed,journal_dev"}}, {Ext4, []string{"-O", "mmp"}}, {Ext4, []string{"-O", "bigalloc"}}, {Ext4, []string{"-i", "65536\n"}},
		{XFS, []string{"-L", "BOOT"}}, {XFS, []string{"-c", "options=/etc/x"}}, {XFS, []string{"-d", "rtinherit=1"}}, {XFS, []string{"-N", "-N"}}, {XFS, []string{"-i", "attr=1"}},
		{XFS, []string{"-l", "internal=0"}}, {XFS, []string{"-l", "size=64m,logdev=/dev/sda"}}, {XFS, []string{"-P", "/"}},
		{Btrfs, []string{"--rootdir", "/"}}, {Btrfs, []string{"-U", "x"}}, {Btrfs, []string{"-L", "EFI"}}, {Btrfs, []string{"--shrink", "x"}}, {Btrfs, []string{"-u", "rw:x"}},
		{Btrfs, []string{"-K", "-K"}}, {Btrfs, []string{"-d", "single /dev/sda"}}, {Btrfs, []string{"-O", "list-all"}},
		{Ext4, []string{"-m", "99"}}, {Ext4, []string{"-i", "65536 -F"}}, {XFS, []string{"-f"}}, {XFS, []string{"-m", "uuid=x"}},
		{XFS, []string{"-l", "logdev=/dev/sda"}}, {XFS, []string{"-d", "file,name=/x"}}, {XFS, []string{"-p", "/etc/passwd"}},
		{XFS, []string{"-r", "rtdev=/dev/sda"}}, {Btrfs, []string{"-r", "/"}}, {Btrfs, []string{"-d", "raid0"}}, {Btrfs, []string{"-f", ""}},
		{Btrfs, []string{"-O", "zoned"}},
	} {
		if err := ValidateMkfsOptions(tt.fsType, tt.words); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s %q: error = %v, want ErrInvalid", tt.fsType, tt.words, err)
		}
	}
}

func FuzzValidateMkfsOptions(f *testing.F) {
	f.Add("ext4", "-i", "65536")
	f.Add("xfs", "-d", "su=64k,sw=2")
	f.Add("btrfs", "-O", "^no-holes")
	f.Fuzz(func(t *testing.T, fsType, flag, value string) {
		if ValidateMkfsOptions(FSType(fsType), []string{flag, value}) != nil {
			return
		}
		if strings.ContainsAny(value, "/ \t\n\x00") || strings.HasPrefix(value, "-") {
			t.Errorf("%s %s %q passes", fsType, flag, value)
		}
		cmd, err := mkfsCommand(mkfsPlan{device: "/dev/dm-1", fsType: FSType(fsType), uuid: "u", options: []string{flag, value}}, 1<<30, false)
		if err != nil || !slices.Equal(cmd.Args[len(cmd.Args)-2:], []string{"--", "/dev/dm-1"}) {
			t.Errorf("command %v, error %v", cmd, err)
		}
	})
}

func TestMkfsCommand(t *testing.T) {
	const uuid = "0b6ae0a2-9b3a-4f0e-8a2e-1f2d3c4b5a69"
	for _, tt := range []struct {
		name      string
		plan      mkfsPlan
		size      int64
		prezeroed bool
		want      string
	}{
		{"ext4", mkfsPlan{fsType: Ext4}, 1 << 30, false,
			"mke2fs -q -t ext4 -U UUID -E nodiscard -O metadata_csum,metadata_csum_seed -m 0 -- /dev/dm-7"},
		{"ext4 prezeroed, with options, again", mkfsPlan{fsType: Ext4, force: true, options: []string{"-m", "1", "-E", "stride=16", "-O", "^orphan_file"}}, 1 << 30, true,
			"mke2fs -q -t ext4 -U UUID -E assume_storage_prezeroed=1,nodiscard,stride=16 -O metadata_csum,metadata_csum_seed,^orphan_file -m 1 -F -- /dev/dm-7"},
		{"xfs", mkfsPlan{fsType: XFS}, 1 << 30, true, "mkfs.xfs -q -K -i nrext64=0 -l size=64m -m uuid=UUID -- /dev/dm-7"},
		{"large xfs, with options", mkfsPlan{fsType: XFS, force: true, options: []string{"-m", "reflink=0", "-i", "size=1024"}}, 2 << 40, false,
			"mkfs.xfs -q -K -i nrext64=0,size=1024 -l size=128m -m reflink=0,uuid=UUID -f -- /dev/dm-7"},
		{"btrfs", mkfsPlan{fsType: Btrfs, options: []string{"-n", "4k"}}, 1 << 30, true, "mkfs.btrfs -q -K -U UUID -n 4k -- /dev/dm-7"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.plan.device, tt.plan.uuid = "/dev/dm-7", uuid
			cmd, err := mkfsCommand(tt.plan, tt.size, tt.prezeroed)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.ReplaceAll(tt.want, "UUID", uuid), cmd.String()); diff != "" {
				t.Errorf("command (-want +got):\n%s", diff)
			}
		})
	}
}
