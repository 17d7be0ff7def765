package mount

import (
	"regexp"
	"slices"
	"strings"
)

// Shapes of mount option values. A nil pattern is an option without a value.
var (
	number   = regexp.MustCompile(`^[0-9]{1,10}$`)
	sizeText = regexp.MustCompile(`^[0-9]{1,10}[kKmMgG]?$`)
)

func oneOf(words ...string) *regexp.Regexp {
	return regexp.MustCompile(`^(?:` + strings.Join(words, "|") + `)$`)
}

// mountOptions is the list of what a volume's mount flags may contain. It is a list of what is
// allowed, because mount(8), libmount and the filesystems keep adding options that name other
// devices (logdev, journal_path, loop, device), run helpers (helper, uhelper), change other mounts
// (bind, move, remount, propagation), hide damage (norecovery, rescue, degraded, errors=panic takes the
// node down) or only mean something in fstab (user, x-…).
var mountOptions = map[string]*regexp.Regexp{
	"defaults": nil, "ro": nil, "rw": nil, "async": nil, "sync": nil, "dirsync": nil,
	"atime": nil, "noatime": nil, "relatime": nil, "norelatime": nil, "strictatime": nil, "nostrictatime": nil,
	"diratime": nil, "nodiratime": nil, "lazytime": nil, "nolazytime": nil, "iversion": nil, "noiversion": nil,
	"dev": nil, "nodev": nil, "exec": nil, "noexec": nil, "suid": nil, "nosuid": nil, "nosymfollow": nil,
	"acl": nil, "noacl": nil, "user_xattr": nil, "nodiscard": nil, "_netdev": nil,
	"quota": nil, "noquota": nil, "usrquota": nil, "grpquota": nil, "prjquota": nil,

	// ext4
	"data": oneOf("ordered", "writeback", "journal"), "errors": oneOf("continue", "remount-ro"),
	"barrier": oneOf("0", "1"), "nobarrier": nil, "delalloc": nil, "nodelalloc": nil,
	"auto_da_alloc": oneOf("0", "1"), "noauto_da_alloc": nil, "journal_async_commit": nil,
	"journal_ioprio": oneOf("[0-7]"), "init_itable": number, "noinit_itable": nil, "stripe": number,
	"max_batch_time": number, "min_batch_time": number, "inode_readahead_blks": number,
	"dioread_lock": nil, "dioread_nolock": nil, "nombcache": nil, "block_validity": nil, "noblock_validity": nil,

	// xfs; nouuid is harmless: a copy has its own UUID before it is mounted
	"nouuid": nil, "inode32": nil, "inode64": nil, "largeio": nil, "nolargeio": nil, "swalloc": nil, "noalign": nil,
	"allocsize": sizeText, "logbufs": number, "logbsize": sizeText, "sunit": number, "swidth": number,
	"wsync": nil, "filestreams": nil, "ikeep": nil, "noikeep": nil, "attr2": nil,
	"uquota": nil, "gquota": nil, "pquota": nil, "uqnoenforce": nil, "gqnoenforce": nil, "pqnoenforce": nil,

	// btrfs
	"compress-force": oneOf("zlib(:[1-9])?", "lzo", "zstd(:(1[0-5]|[1-9]))?"),
	"autodefrag":     nil, "noautodefrag": nil, "ssd": nil, "nossd": nil, "ssd_spread": nil, "nossd_spread": nil,
	"datacow": nil, "nodatacow": nil, "datasum": nil, "nodatasum": nil, "space_cache": oneOf("v2"),
	"flushoncommit": nil, "noflushoncommit": nil, "treelog": nil, "notreelog": nil, "max_inline": sizeText,
	"thread_pool": number, "metadata_ratio": number, "skip_balance": nil,

	// ext4 and btrfs
	"commit": number,
}

// mountOptionsMaybe may stand alone or with a value.
var mountOptionsMaybe = map[string]*regexp.Regexp{
	"discard":  oneOf("async", "sync"),
	"compress": mountOptions["compress-force"],
}

// selinuxContext is what kubelet passes for SELinux mounts. The quotes keep the commas of its level
// together in mount(8) and in the kernel.
var selinuxContext = regexp.MustCompile(`^context="[A-Za-z0-9_.:,-]{1,512}"$|^context=[A-Za-z0-9_.:-]{1,512}$`)

// ValidateMountFlags checks mount flags of a volume. An error wraps ErrInvalid and names the flag.
func ValidateMountFlags(flags []string) error {
	for _, flag := range flags {
		if err := validateMountFlag(flag); err != nil {
			return err
		}
	}
	if slices.Contains(flags, "ro") && slices.Contains(flags, "rw") {
		return invalidf("mount flags ro and rw contradict each other")
	}
	return nil
}

func validateMountFlag(flag string) error {
	if selinuxContext.MatchString(flag) {
		return nil
	}
	name, value, hasValue := strings.Cut(flag, "=")
	pattern, known := mountOptions[name]
	if optional, maybe := mountOptionsMaybe[name]; maybe {
		known = true
		if hasValue {
			pattern = optional
		}
	}
	switch {
	case !known:
		return invalidf("mount flag %q is not allowed", flag)
	case hasValue && (pattern == nil || !pattern.MatchString(value)):
		return invalidf("mount flag %q: bad value", flag)
	case !hasValue && pattern != nil:
		return invalidf("mount flag %q needs a value", flag)
	}
	return nil
}
