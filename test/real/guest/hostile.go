//go:build vm

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

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
		{"a former tenant's blocks", h.secrets},
		{"a disk with a group of our name and tag", h.intruder},
		{"crafted content", h.craft},
		{"it is there, for an lvm that looks for it", h.control},
		{"the agent works beside it", h.work},
		{"the agent's lvm does not see it", h.unseen},
		{"restart with all of it active", h.restart},
		{"restart with nothing active", h.restartInactive},
		{"and works", h.work},
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
