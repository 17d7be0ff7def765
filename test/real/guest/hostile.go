//go:build vm

package main

import (
	"bytes"
	"context"
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

// The pools of the hostile scenario: one thin and one thick, each on a disk of its
// own. A third disk is plugged in with a volume group that somebody else made.
const hostilePools = `pools: {fast: thin, slow: thick}
profiles:
  thin: {disks: {serial: "FAST*"}, overprovision: 10}
  thick: {disks: {serial: "SLOW*"}, mode: thick}
`

// hostile: what tenants write to their volumes, and a disk that comes from
// elsewhere, confuse neither the agent nor its lvm commands; and what a tenant wrote
// leaves the disk with an active volume. The host looks at the disks afterwards.
func hostile(ctx context.Context, a *agent.Agent) error {
	h := &scenario{ctx: ctx, agent: a}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"restart with two pools", h.restart},
		{"crafted content", h.craft},
		{"it is there, for an lvm that looks for it", h.control},
		{"the agent works beside it", h.work},
		{"the agent's lvm does not see it", h.unseen},
		{"restart with all of it active", h.restart},
		{"restart with nothing active", h.restartInactive},
		{"and works", h.work},
		{"a former tenant's blocks", h.secrets},
		{"a disk with a group of our name and tag", h.intruder},
	} {
		fmt.Println("---", step.name)
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return h.agent.Stop()
}

type scenario struct {
	ctx   context.Context
	agent *agent.Agent
	evil  []agent.Volume // hostile block volumes, published
	runs  int            // of work
}

// lvmOutput runs lvm as the agent does, with its configuration.
func lvmOutput(args ...string) (string, error) {
	cmd := exec.Command("/usr/sbin/lvm", args...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LVM_SYSTEM_DIR=/run/lamina/lvm", "LVM_SUPPRESS_FD_WARNINGS=1"}
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

func (h *scenario) restart() error {
	if err := h.agent.Stop(); err != nil {
		return err
	}
	return h.start()
}

func (h *scenario) start() error {
	a, err := agent.Start(h.ctx, agent.Options{Program: "/usr/local/bin/lamina-node", Dir: "/var/lib/kubelet", Pools: hostilePools})
	if err != nil {
		return err
	}
	h.agent = a
	for i := range h.evil {
		h.evil[i] = a.Found(h.evil[i])
	}
	return nil
}

func (h *scenario) restartInactive() error {
	for _, v := range h.evil {
		if err := v.Unmount(h.ctx); err != nil {
			return err
		}
	}
	if err := h.agent.Stop(); err != nil {
		return err
	}
	if err := lvmDo("vgchange --activate n lamina-fast", "vgchange --activate n lamina-slow"); err != nil {
		return err
	}
	return h.start()
}

// block makes a raw block volume and publishes it.
func (h *scenario) block(pool, name string, size int64) (agent.Volume, error) {
	v, err := h.agent.Create(h.ctx, pool, name, "", size, nil)
	if err != nil {
		return v, err
	}
	return v, v.Mount(h.ctx)
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

const volumeOfEvil = 64 << 20

// craft fills block volumes, thin and thick, with what could be taken for something
// else.
func (h *scenario) craft() error {
	for _, pool := range []string{"fast", "slow"} {
		for name, fill := range map[string]func(dev, target string) error{
			"clone": cloneOfPool, "inner": innerGroup, "md": mdMember, "gpt": gptDisk, "label": systemLabel,
		} {
			v, err := h.block(pool, pool+"-"+name, volumeOfEvil)
			if err != nil {
				return err
			}
			dev, err := dm(v)
			if err != nil {
				return err
			}
			if err := fill(dev, v.Target()); err != nil {
				return fmt.Errorf("%s: %w", v.Name, err)
			}
			h.evil = append(h.evil, v)
		}
	}
	return nil
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

// control shows that the crafted content is what it claims to be: an lvm that is
// told to look into volumes finds groups there.
func (h *scenario) control() error {
	for _, v := range h.evil {
		dev, err := dm(v)
		if err != nil {
			return err
		}
		want := ""
		switch {
		case strings.HasSuffix(v.Name, "-clone"):
			want = "lamina-fast"
		case strings.HasSuffix(v.Name, "-inner"):
			want = "inner"
		default:
			continue
		}
		out, err := lvmOutput("vgs", "--devices", dev, "--config", "devices/scan_lvs=1", "--noheadings", "-o", "vg_name,vg_tags")
		if err != nil && !strings.Contains(out, want) {
			return err
		}
		if !strings.Contains(out, want) || !strings.Contains(out, "lamina.pool=fast") {
			return fmt.Errorf("%s holds no group %s: %s", v.Name, want, out)
		}
	}
	return nil
}

// unseen: with the agent's configuration lvm sees the two pools on their disks and
// nothing else.
func (h *scenario) unseen() error {
	out, err := lvmOutput("vgs", "--noheadings", "-o", "vg_name")
	if err != nil {
		return err
	}
	if got := strings.Fields(out); strings.Join(got, " ") != "lamina-fast lamina-slow" {
		return fmt.Errorf("vgs sees %q", out)
	}
	out, err = lvmOutput("pvs", "--all", "--noheadings", "-o", "pv_name,vg_name")
	if err != nil {
		return err
	}
	if strings.Contains(out, "dm-") || strings.Contains(out, "/dev/lamina") || strings.Contains(out, "inner") || strings.Contains(out, "WARNING") {
		return fmt.Errorf("pvs sees %q", out)
	}
	out, err = lvmOutput("lvs", "--all", "--noheadings", "-o", "vg_name,lv_name")
	if err != nil {
		return err
	}
	if strings.Contains(out, "inner") || strings.Contains(out, "WARNING") {
		return fmt.Errorf("lvs sees %q", out)
	}
	return nil
}

// work is the life of volumes beside, and made from, the hostile ones: each step
// runs the commands that it always does, on the pool's own disk, and nothing is said
// about anything else.
func (h *scenario) work() error {
	h.runs++
	a, ctx := h.agent, h.ctx
	before, err := a.Commands()
	if err != nil {
		return err
	}
	name := func(what string) string { return fmt.Sprint(what, "-", h.runs) }
	v, err := a.Create(ctx, "fast", name("plain"), "ext4", volumeOfEvil, nil)
	if err != nil {
		return err
	}
	if err := v.Mount(ctx); err != nil {
		return err
	}
	if err := put(filepath.Join(v.Target(), "data"), content("plain")); err != nil {
		return err
	}
	if err := v.Expand(ctx, 2*volumeOfEvil); err != nil {
		return err
	}
	thick, err := a.Create(ctx, "slow", name("thick"), "", 16<<20, nil)
	if err != nil {
		return err
	}
	made := []agent.Volume{thick}
	for _, e := range h.evil {
		if e.Name != "fast-clone" && e.Name != "fast-inner" {
			continue // a copy of the others is no other case
		}
		snap, err := e.Snapshot(ctx, name("snap-"+e.Name))
		if err != nil {
			return err
		}
		copied, err := a.Create(ctx, "fast", name("copy-"+e.Name), "", volumeOfEvil, snap)
		if err != nil {
			return err
		}
		if err := copied.Mount(ctx); err != nil {
			return err
		}
		if err := copied.Unmount(ctx); err != nil {
			return err
		}
		made = append(made, copied)
		if err := a.DropSnapshot(ctx, snap); err != nil {
			return err
		}
	}
	if err := same(v, "plain"); err != nil {
		return err
	}
	if err := v.Unmount(ctx); err != nil {
		return err
	}
	for _, v := range append(made, v) {
		if err := v.Delete(ctx); err != nil {
			return err
		}
	}
	return h.ranOnDisks(len(before))
}

// ranOnDisks checks the commands since then: each succeeded, and each that is about
// a group named its one disk alone.
func (h *scenario) ranOnDisks(from int) error {
	ran, err := h.agent.Commands()
	if err != nil {
		return err
	}
	fast, err := bySerial("FAST1")
	if err != nil {
		return err
	}
	slow, err := bySerial("SLOW1")
	if err != nil {
		return err
	}
	for _, c := range ran[from:] {
		if c.Exit != 0 {
			return fmt.Errorf("%s ended with %d", c, c.Exit)
		}
		if c.Name == "fullreport" || c.Name == "version" {
			continue
		}
		if c.Args[0] != "--devices" || c.Args[1] != fast && c.Args[1] != slow {
			return fmt.Errorf("%s %v is not about one of our disks", c.Name, c.Args)
		}
	}
	if len(ran) == from {
		return errors.New("no command was seen")
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

// intruder is a disk that is there when the agent starts, with a volume group that
// has the name and the tag of our pool.
func (h *scenario) intruder() error {
	ctx := h.ctx
	v, err := h.agent.Create(ctx, "fast", "kept", "ext4", volumeOfEvil, nil)
	if err != nil {
		return err
	}
	if err := v.Mount(ctx); err != nil {
		return err
	}
	if err := put(filepath.Join(v.Target(), "data"), content("kept")); err != nil {
		return err
	}
	if err := v.Unmount(ctx); err != nil {
		return err
	}
	if err := h.agent.Stop(); err != nil {
		return err
	}
	disk, err := bySerial("EVIL1")
	if err != nil {
		return err
	}
	only := "--devices " + disk + " "
	if err := lvmDo("vgchange --activate n lamina-fast", "vgcreate "+only+"--addtag lamina.pool=fast lamina-fast "+disk,
		"lvcreate "+only+"--type thin-pool --size 64m --poolmetadatasize 32m --name thinpool lamina-fast",
		"vgchange "+only+"--activate n lamina-fast"); err != nil {
		return err
	}
	state, err := lvmOutput("vgs", "--devices", disk, "--noheadings", "-o", "vg_uuid,vg_seqno,lv_count,pv_count,vg_tags", "lamina-fast")
	if err != nil {
		return err
	}
	if err := h.start(); err != nil {
		return err
	}
	v = h.agent.Found(v)
	if err := v.Mount(ctx); err != nil {
		return err
	}
	if err := same(v, "kept"); err != nil {
		return err
	}
	if _, err := h.agent.Create(ctx, "fast", "new", "ext4", volumeOfEvil, nil); err == nil || !strings.Contains(err.Error(), "both carry its tag") {
		return fmt.Errorf("a volume in a pool that is there twice: %w", err)
	}
	if err := errors.Join(v.Unmount(ctx), v.Delete(ctx)); err != nil {
		return err
	}
	now, err := lvmOutput("vgs", "--devices", disk, "--noheadings", "-o", "vg_uuid,vg_seqno,lv_count,pv_count,vg_tags", "lamina-fast")
	if err != nil || now != state {
		return fmt.Errorf("the intruder was %q and is %q (%w)", state, now, err)
	}
	// A person takes it away, and all is as before.
	if err := h.agent.Stop(); err != nil {
		return err
	}
	if err := lvmDo("vgremove --yes " + only + "lamina-fast"); err != nil {
		return err
	}
	if err := h.start(); err != nil {
		return err
	}
	return h.work()
}
