package mounttest

import (
	"slices"
	"strings"

	"github.com/lamina-csi/lamina/node/mount"
)

// program behaves like a program of the node's userland. The system's lock is held.
type program func(s *System, cmd mount.Command) (stdout string, err error)

var programs = map[string]program{
	"blkid":      blkid,
	"blkdiscard": blkdiscard,
	"mke2fs":     func(s *System, cmd mount.Command) (string, error) { return s.mkfs(cmd, mount.Ext4, "") },
	"mkfs.xfs":   func(s *System, cmd mount.Command) (string, error) { return s.mkfs(cmd, mount.XFS, "-f") },
	"mkfs.btrfs": func(s *System, cmd mount.Command) (string, error) { return s.mkfs(cmd, mount.Btrfs, "-f") },
	"e2fsck":     e2fsck,
	"tune2fs":    tune2fs,
	"xfs_db":     xfsDB,
	"btrfstune":  btrfstune,
	"resize2fs":  resize2fs,
	"btrfs":      btrfs,
	"cryptsetup": cryptsetup,
}

// option returns the word after a flag.
func option(cmd mount.Command, flag string) string {
	if i := slices.Index(cmd.Args, flag); i >= 0 && i+1 < len(cmd.Args) {
		return cmd.Args[i+1]
	}
	return ""
}

// open returns the device that the last argument names, and its content.
func (s *System) open(cmd mount.Command) (path string, d Device, c Content, err error) {
	path = cmd.Args[len(cmd.Args)-1]
	if d, err = s.device(path); err != nil {
		return path, nil, c, fail(1, "%v", err)
	}
	if c, err = readContent(d); err != nil {
		return path, nil, c, fail(1, "%v", err)
	}
	return path, d, c, nil
}

// openUnused is open for programs that refuse a device in use.
func (s *System) openUnused(cmd mount.Command) (Device, Content, error) {
	path, d, c, err := s.open(cmd)
	if err == nil && s.inUse(path) {
		err = fail(1, "%s contains a mounted filesystem", path)
	}
	return d, c, err
}

func blkid(s *System, cmd mount.Command) (string, error) {
	_, _, c, err := s.open(cmd)
	if err != nil || c.Type == "" && c.PTType == "" {
		return "", fail(2, "") // the real one is silent about a device that it cannot open
	}
	if c.Type != "" && c.PTType != "" {
		return "", fail(8, "ambivalent result")
	}
	out := "DEVNAME=" + cmd.Args[len(cmd.Args)-1] + "\n"
	for _, line := range [][2]string{{"UUID", c.UUID}, {"TYPE", c.Type}, {"PTTYPE", c.PTType}} {
		if line[1] != "" {
			out += line[0] + "=" + line[1] + "\n"
		}
	}
	return out, nil
}

func blkdiscard(s *System, cmd mount.Command) (string, error) {
	d, _, err := s.openUnused(cmd)
	if err != nil {
		return "", err
	}
	return "", writeContent(d, Content{})
}

func (s *System) mkfs(cmd mount.Command, fsType mount.FSType, force string) (string, error) {
	d, c, err := s.openUnused(cmd)
	if err != nil {
		return "", err
	}
	if force != "" && c != (Content{}) && !slices.Contains(cmd.Args, force) {
		return "", fail(1, "appears to contain an existing filesystem (%s)", c.Type)
	}
	uuid := option(cmd, "-U")
	for _, sub := range strings.Split(option(cmd, "-m"), ",") {
		if text, ok := strings.CutPrefix(sub, "uuid="); ok {
			uuid = text
		}
	}
	s.made++
	return "", writeContent(d, Content{Type: string(fsType), UUID: uuid, Size: d.Size(), Made: s.made})
}

func e2fsck(s *System, cmd mount.Command) (string, error) {
	d, c, err := s.openUnused(cmd)
	if err != nil {
		return "", err
	}
	if c.Type != string(mount.Ext4) {
		return "", fail(8, "Bad magic number in super-block")
	}
	c.Log = false
	return "", writeContent(d, c)
}

func tune2fs(s *System, cmd mount.Command) (string, error) {
	d, c, err := s.openUnused(cmd)
	if err != nil {
		return "", err
	}
	if c.Type != string(mount.Ext4) || c.Log {
		return "", fail(1, "Bad magic number, or the journal is dirty")
	}
	c.UUID = option(cmd, "-U")
	return "", writeContent(d, c)
}

// xfsDB exits with 0 whatever happens, like the real one.
func xfsDB(s *System, cmd mount.Command) (string, error) {
	d, c, err := s.openUnused(cmd)
	if err != nil {
		return "", err
	}
	uuid, set := strings.CutPrefix(option(cmd, "-c"), "uuid ")
	if !set {
		if c.OldBackups {
			return "warning: UUID in AG 1 differs to the primary SB\n", nil
		}
		return "UUID = " + c.UUID + "\n", nil
	}
	if c.Log {
		return "ERROR: The filesystem has valuable metadata changes in a log which needs to\nbe replayed.\n", nil
	}
	c.UUID, c.OldBackups = uuid, false
	return "writing all SBs\nnew UUID = " + uuid + "\n", writeContent(d, c)
}

func btrfstune(s *System, cmd mount.Command) (string, error) {
	d, c, err := s.openUnused(cmd)
	if err != nil {
		return "", err
	}
	if c.Type != string(mount.Btrfs) {
		return "", fail(1, "No valid Btrfs found")
	}
	if c.Log {
		c.Type = "btrfs-broken" // the real one succeeds, and the filesystem does not mount any more
	}
	c.UUID = option(cmd, "-M")
	return "", writeContent(d, c)
}

func resize2fs(s *System, cmd mount.Command) (string, error) {
	_, d, c, err := s.open(cmd)
	if err != nil {
		return "", err
	}
	c.Size = d.Size()
	return "", writeContent(d, c)
}

func btrfs(s *System, cmd mount.Command) (string, error) {
	d, c, err := s.mounted(cmd.Args[len(cmd.Args)-1])
	if err != nil {
		return "", fail(1, "%v", err)
	}
	c.Size = d.Size()
	return "", writeContent(d, c)
}

func cryptsetup(s *System, cmd mount.Command) (string, error) {
	switch cmd.Args[0] {
	case "luksFormat":
		d, _, err := s.openUnused(cmd)
		if err != nil {
			return "", err
		}
		s.made++
		inside := &section{under: d, size: d.Size() - luksDataOffset}
		if err := writeContent(inside, Content{}); err != nil {
			return "", err
		}
		return "", writeContent(d, Content{Type: "crypto_LUKS", UUID: option(cmd, "--uuid"), Key: string(cmd.Stdin), Made: s.made})
	case "luksUUID":
		d, c, err := s.openUnused(cmd)
		if err != nil {
			return "", err
		}
		c.UUID = option(cmd, "--uuid")
		return "", writeContent(d, c)
	case "open":
		return s.cryptOpen(cmd)
	}
	return s.cryptMapping(cmd)
}

func (s *System) cryptOpen(cmd mount.Command) (string, error) {
	path, name := cmd.Args[len(cmd.Args)-2], cmd.Args[len(cmd.Args)-1]
	d, err := s.device(path)
	if err != nil {
		return "", fail(4, "%v", err)
	}
	c, err := readContent(d)
	if err != nil || c.Type != "crypto_LUKS" {
		return "", fail(1, "Device %s is not a valid LUKS device.", path)
	}
	if c.Key != string(cmd.Stdin) {
		return "", fail(2, "No key available with this passphrase.")
	}
	if s.mappings[name] != nil {
		return "", fail(5, "Device %s already exists.", name)
	}
	s.mappings[name] = &mapping{path: path, section: &section{under: d, size: d.Size() - luksDataOffset}}
	return "", nil
}

// cryptMapping does what needs an open mapping: status, close, resize.
func (s *System) cryptMapping(cmd mount.Command) (string, error) {
	name := cmd.Args[len(cmd.Args)-1]
	m := s.mappings[name]
	if m == nil {
		return "", fail(4, "Device %s is not active.", name)
	}
	switch cmd.Args[0] {
	case "status":
		return mount.MappedDevice(name) + " is active.\n", nil
	case "resize":
		m.section.size = m.section.under.Size() - luksDataOffset
		return "", nil
	case "close":
		if s.Busy[name] || s.inUse(mount.MappedDevice(name)) {
			return "", fail(5, "Device %s is still in use.", name)
		}
		delete(s.mappings, name)
		return "", nil
	}
	return "", fail(1, "Unknown action.")
}
