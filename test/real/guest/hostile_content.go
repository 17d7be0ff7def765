//go:build vm

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/test/agent"
)

// lvmOutput runs lvm as the agent does, with its configuration.
func lvmOutput(args ...string) (string, error) { return lvmWith("/run/lamina/lvm", args...) }

// lvmWith runs lvm with the configuration in a directory.
func lvmWith(systemDir string, args ...string) (string, error) {
	cmd := exec.Command("/usr/sbin/lvm", args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LVM_SYSTEM_DIR=" + systemDir, "LVM_SUPPRESS_FD_WARNINGS=1"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("lvm %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func lvmDo(commands ...string) error {
	for _, c := range commands {
		if _, err := lvmOutput(strings.Fields(c)...); err != nil {
			return err
		}
	}
	return nil
}

// bySerial is the disk of that serial.
func bySerial(serial string) (string, error) {
	paths, err := filepath.Glob("/sys/block/nvme*/device/serial")
	if err != nil {
		return "", err
	}
	for _, p := range paths {
		text, err := os.ReadFile(p)
		if err == nil && strings.TrimSpace(string(text)) == serial {
			return "/dev/" + filepath.Base(filepath.Dir(filepath.Dir(p))), nil
		}
	}
	return "", fmt.Errorf("no disk has the serial %s", serial)
}

// dm is the volume's device-mapper node.
func dm(v agent.Volume) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(v.Target(), &st); err != nil {
		return "", err
	}
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(st.Rdev)), nil
}

// writeAt writes through the pod's device, and to the disk.
func writeAt(path string, at int64, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, at)
	return errors.Join(err, f.Sync(), f.Close())
}

// cloneOfPool copies the head of the pool's own disk: label, names, tags and UUIDs.
func cloneOfPool(_, target string) error {
	disk, err := bySerial("FAST1")
	if err != nil {
		return err
	}
	f, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 18<<20)
	if _, err := io.ReadFull(f, head); err != nil {
		return err
	}
	return writeAt(target, 0, head)
}

// innerGroup makes a volume group with our tag inside a volume.
func innerGroup(dev, _ string) error {
	name := "inner" + filepath.Base(dev)
	look := "--devices " + dev + " --config devices/scan_lvs=1 "
	if err := lvmDo("pvcreate "+look+dev, "vgcreate "+look+"--addtag lamina.pool=fast "+name+" "+dev,
		"lvcreate "+look+"--zero n --wipesignatures n --addtag lamina.kind=volume --size 8m --name pvc-00000000-0000-0000-0000-000000000000 "+name); err != nil {
		return err
	}
	// The tenant has no device-mapper: nothing of it is active on the host.
	return lvmDo("vgchange " + look + "--activate n " + name)
}

// mdMember is the superblock of a RAID member, version 1.2 at 4 KiB and 1.0 near the
// end (include/uapi/linux/raid/md_p.h).
func mdMember(_, target string) error {
	super := make([]byte, 4096)
	binary.LittleEndian.PutUint32(super, 0xa92b4efc)
	binary.LittleEndian.PutUint32(super[4:], 1)
	binary.LittleEndian.PutUint32(super[72:], 1) // level
	return errors.Join(writeAt(target, 4096, super), writeAt(target, volumeOfEvil-8192, super))
}

// gptDisk is a protective MBR and a GPT header.
func gptDisk(_, target string) error {
	head := make([]byte, 1024)
	head[446+4], head[510], head[511] = 0xee, 0x55, 0xaa
	copy(head[512:], "EFI PART\x00\x00\x01\x00")
	return writeAt(target, 0, head)
}

// systemLabel is a file system with a label that an operating system looks for.
func systemLabel(_, target string) error {
	out, err := exec.Command("/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-L", "STATE", target).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mke2fs: %w: %s", err, out)
	}
	return nil
}

// secrets writes what the host looks for on the disks when the machine is off.
func (h *scenario) secrets() error {
	for _, pool := range []string{"fast", "slow"} {
		for _, how := range []string{"active", "inactive"} {
			v, err := h.block(pool, pool+"-"+how, 32<<20)
			if err != nil {
				return err
			}
			secret := []byte(fmt.Sprintf("secret of %s %s; ", pool, how))
			if err := writeAt(v.Target(), 0, bytes.Repeat(secret, 16<<20/len(secret))); err != nil {
				return err
			}
			if err := v.Unmount(h.ctx); err != nil {
				return err
			}
			if how == "inactive" {
				_, lv, _ := strings.Cut(v.VolumeId, "/")
				if err := lvmDo("lvchange --activate n lamina-" + pool + "/" + lv); err != nil {
					return err
				}
			}
			if err := v.Delete(h.ctx); err != nil {
				return err
			}
		}
		// Whoever gets the blocks next does not see them.
		next, err := h.block(pool, pool+"-next", 96<<20)
		if err != nil {
			return err
		}
		if err := noSecret(next); err != nil {
			return err
		}
		if err := errors.Join(next.Unmount(h.ctx), next.Delete(h.ctx)); err != nil {
			return err
		}
	}
	return nil
}

// noSecret writes a byte into each chunk of a volume, so that it gets blocks, and
// reads all of it.
func noSecret(v agent.Volume) error {
	const chunk = 64 << 10
	f, err := os.OpenFile(v.Target(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	for at := int64(0); at < 96<<20; at += chunk {
		if _, err := f.WriteAt([]byte{'x'}, at+100); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	buf, want := make([]byte, chunk), make([]byte, chunk)
	want[100] = 'x'
	for at := int64(0); at < 96<<20; at += chunk {
		if _, err := f.ReadAt(buf, at); err != nil {
			return err
		}
		if !bytes.Equal(buf, want) {
			return fmt.Errorf("%s shows %q at byte %d", v.Name, buf[:64], at)
		}
	}
	return nil
}
