package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"
)

// sectorSize is the unit of /sys/block/X/size, whatever the disk's own block size is
// (Documentation/ABI/stable/sysfs-block).
const sectorSize = 512

// load reads one disk from sysfs. Numbers that the kernel always tells are required.
func (s *System) load(name string) (Disk, error) {
	d := Disk{Name: name, Path: s.dev(strings.ReplaceAll(name, "!", "/"))}
	dev, err := s.readAttr("block", name, "dev")
	if err != nil {
		return d, err
	}
	if d.Major, d.Minor, err = parseDev(dev); err != nil {
		return d, fmt.Errorf("read %s/dev: %w", name, err)
	}
	sectors, err := s.uintAttr(name, "size")
	if err != nil {
		return d, err
	}
	if sectors > math.MaxInt64/sectorSize {
		return d, fmt.Errorf("read %s/size: %d sectors is too large", name, sectors)
	}
	d.Size = int64(sectors) * sectorSize
	if d.ReadOnly, err = s.boolAttr(name, "ro"); err != nil {
		return d, err
	}
	if d.Removable, err = s.boolAttr(name, "removable"); err != nil {
		return d, err
	}
	d.Rotational = s.attr("block", name, "queue", "rotational") == "1"
	if seq := s.attr("block", name, "diskseq"); seq != "" {
		if d.Seq, err = strconv.ParseUint(seq, 10, 64); err != nil {
			return d, fmt.Errorf("read %s/diskseq: %w", name, err)
		}
	}
	s.identify(&d)
	return d, nil
}

// readAttr returns a sysfs attribute, trimmed.
func (s *System) readAttr(elem ...string) (string, error) {
	b, err := os.ReadFile(s.sys(elem...))
	return clean(b), err
}

// attr returns an attribute that not every disk has; empty when it cannot be read.
func (s *System) attr(elem ...string) string {
	v, err := s.readAttr(elem...)
	if err != nil {
		return ""
	}
	return v
}

func clean(b []byte) string {
	return string(bytes.TrimFunc(b, func(r rune) bool { return r == 0 || unicode.IsSpace(r) }))
}

func (s *System) uintAttr(name, attr string) (uint64, error) {
	v, err := s.readAttr("block", name, attr)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s/%s: %w", name, attr, err)
	}
	return n, nil
}

func (s *System) boolAttr(name, attr string) (bool, error) {
	n, err := s.uintAttr(name, attr)
	return n != 0, err
}

// parseDev parses the kernel's "major:minor".
func parseDev(v string) (major, minor uint32, err error) {
	maj, mnr, ok := strings.Cut(v, ":")
	if !ok {
		return 0, 0, fmt.Errorf("device number %q is not major:minor", v)
	}
	a, err := strconv.ParseUint(maj, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("device number %q: %w", v, err)
	}
	b, err := strconv.ParseUint(mnr, 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("device number %q: %w", v, err)
	}
	return uint32(a), uint32(b), nil
}

// identify fills in who the disk is: transport, model, serial, WWN and the by-id names that follow.
func (s *System) identify(d *Disk) {
	d.Transport = s.transport(d.Name)
	d.Model = s.attr("block", d.Name, "device", "model")
	d.Serial = s.attr("block", d.Name, "device", "serial")
	if d.Serial == "" {
		d.Serial = s.attr("block", d.Name, "serial") // virtio-blk
	}
	if d.Serial == "" {
		d.Serial = s.vpdSerial(d.Name)
	}
	d.WWN = s.attr("block", d.Name, "wwid") // NVMe
	if d.WWN == "" {
		d.WWN = s.attr("block", d.Name, "device", "wwid") // SCSI
	}
	d.Links = derivedLinks(*d, s.attr("block", d.Name, "nsid"))
}

// vpdSerial reads the Unit Serial Number page (SPC, VPD page 0x80): a header of four bytes, of which the
// last two are the length, then the text.
func (s *System) vpdSerial(name string) string {
	b, err := os.ReadFile(s.sys("block", name, "device", "vpd_pg80"))
	if err != nil || len(b) < 4 || b[1] != 0x80 {
		return ""
	}
	n := int(b[2])<<8 | int(b[3])
	return clean(b[4:min(4+n, len(b))])
}

// Transports are the values that Disk.Transport can have. NVMe over a network is not "nvme": such a disk
// may be seen by several nodes, and two of them would claim it.
var Transports = []string{
	"nvme", "nvme-tcp", "nvme-rdma", "nvme-fc", "nvme-loop",
	"sata", "sas", "scsi", "virtio", "usb", "mmc", "iscsi", "fc",
}

func (s *System) transport(name string) string {
	switch {
	case strings.HasPrefix(name, "nvme"):
		return s.nvmeTransport(name)
	case strings.HasPrefix(name, "vd"):
		return "virtio"
	case strings.HasPrefix(name, "mmcblk"):
		return "mmc"
	case !strings.HasPrefix(name, "sd"):
		return ""
	}
	// The device's place in the tree tells its bus, as in util-linux misc-utils/lsblk.c get_transport.
	path, err := filepath.EvalSymlinks(s.sys("block", name, "device"))
	if err != nil {
		return ""
	}
	for _, bus := range []struct{ prefix, transport string }{
		{"end_device-", "sas"}, {"usb", "usb"}, {"session", "iscsi"}, {"rport-", "fc"}, {"ata", "sata"},
	} {
		for dir := range strings.SplitSeq(path, "/") {
			rest, ok := strings.CutPrefix(dir, bus.prefix)
			if ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
				return bus.transport
			}
		}
	}
	return "scsi"
}

// nvmeTransport reads the controller's transport. The device of a multipath disk is the subsystem, which
// holds its controllers as nvme0, nvme1 …; one controller on a network makes it a network disk.
func (s *System) nvmeTransport(name string) string {
	paths, err := filepath.Glob(s.sys("block", name, "device", "nvme*", "transport"))
	if err != nil {
		return ""
	}
	for _, p := range append(paths, s.sys("block", name, "device", "transport")) {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		if t := clean(b); t != "pcie" && t != "apple-nvme" {
			return "nvme-" + t
		}
	}
	return "nvme"
}

// derivedLinks are the names that udev's 60-persistent-storage.rules give a disk, so that a disk can be
// named by them where no udev runs.
func derivedLinks(d Disk, nsid string) []string {
	var links []string
	if d.WWN != "" {
		if hex, ok := strings.CutPrefix(d.WWN, "naa."); ok {
			links = append(links, "wwn-0x"+hex)
		} else if strings.HasPrefix(d.Name, "nvme") {
			links = append(links, "nvme-"+underscored(d.WWN))
		}
	}
	prefix := map[string]string{"sata": "ata-", "virtio": "virtio-"}[d.Transport]
	if strings.HasPrefix(d.Name, "nvme") {
		prefix = "nvme-"
	}
	if prefix == "" || d.Serial == "" {
		return links
	}
	id := prefix + underscored(d.Serial)
	if d.Model != "" {
		id = prefix + underscored(d.Model) + "_" + underscored(d.Serial)
	}
	// Namespaces of one controller share model and serial. The name without a number is the first one's.
	if nsid != "" {
		links = append(links, id+"_"+nsid)
	}
	if nsid == "" || nsid == "1" {
		links = append(links, id)
	}
	return links
}

func underscored(s string) string { return strings.Join(strings.Fields(s), "_") }

// udevLinks maps the kernel's names to the links in /dev/disk/by-id. Without udev there are none.
func (s *System) udevLinks() (map[string][]string, error) {
	entries, err := os.ReadDir(s.dev("disk", "by-id"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	links := map[string][]string{}
	for _, e := range entries {
		target, err := os.Readlink(s.dev("disk", "by-id", e.Name()))
		if err == nil {
			name := filepath.Base(target)
			links[name] = append(links[name], e.Name())
		}
	}
	return links, nil
}
