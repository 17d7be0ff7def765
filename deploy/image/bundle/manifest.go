package bundle

// rootPackages are asked of apt; their dependencies follow.
var rootPackages = []string{
	"lvm2", "thin-provisioning-tools", "e2fsprogs", "xfsprogs", "btrfs-progs",
	"cryptsetup-bin", "util-linux", "mount", "libgcc-s1",
}

// manifest lists what the agent calls. A symbolic link brings its target, a
// program the libraries that it needs.
//
// No entry is a shell script, so the tree holds no shell: xfs_admin, xfs_info
// and fsck.xfs are scripts around xfs_db, xfs_spaceman and nothing, and the
// agent calls those programs themselves. util-linux' fsck passes over a file
// system whose helper is missing, which is right for xfs and btrfs.
var manifest = []string{
	"usr/sbin/lvm",
	"usr/sbin/dmsetup",

	"usr/sbin/pdata_tools",
	"usr/sbin/thin_check",
	"usr/sbin/thin_delta",
	"usr/sbin/thin_dump",
	"usr/sbin/thin_ls",
	"usr/sbin/thin_metadata_size",
	"usr/sbin/thin_repair",
	"usr/sbin/thin_restore",
	"usr/sbin/thin_rmap",
	"usr/sbin/thin_trim",

	"usr/sbin/mke2fs",
	"usr/sbin/mkfs.ext4",
	"usr/sbin/e2fsck",
	"usr/sbin/fsck.ext4",
	"usr/sbin/resize2fs",
	"usr/sbin/tune2fs",
	"usr/sbin/dumpe2fs",
	"etc/mke2fs.conf",

	"usr/sbin/mkfs.xfs",
	"usr/sbin/xfs_growfs",
	"usr/sbin/xfs_repair",
	"usr/sbin/xfs_db",
	"usr/sbin/xfs_io",
	"usr/sbin/xfs_spaceman",

	"usr/bin/btrfs",
	"usr/sbin/mkfs.btrfs",
	"usr/bin/btrfstune",

	"usr/sbin/cryptsetup",

	"usr/bin/mount",
	"usr/bin/umount",
	"usr/sbin/fsck",
	"usr/sbin/fsfreeze",
	"usr/sbin/blkid",
	"usr/sbin/blockdev",
	"usr/sbin/blkdiscard",
	"usr/bin/lsblk",
}

// Directories that programs expect, and the links of a merged /usr.
var (
	emptyDirs = []string{
		"dev", "etc/lvm", "proc", "root", "run/lock/lvm", "sys", "tmp", "var/lib", "var/tmp",
	}
	links = map[string]string{
		"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64",
		"var/run": "../run", "var/lock": "../run/lock",
		"etc/mtab": "../proc/self/mounts",
	}
	texts = map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/nonexistent\n",
		"etc/group":  "root:x:0:\ndisk:x:6:\n",
		"etc/os-release": `PRETTY_NAME="Lamina node bundle (Debian 13)"
NAME="Debian GNU/Linux"
ID=debian
VERSION_ID="13"
VERSION_CODENAME=trixie
VARIANT="Lamina node bundle"
VARIANT_ID=lamina
`,
	}
)
