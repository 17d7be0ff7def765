//go:build vm

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/test/agent"
)

const adminSize = 64 << 20

// admin: a person changes by hand what the agent manages. What the agent cannot
// understand it reports and leaves alone; put right again, it works as before.
func admin(ctx context.Context, a *agent.Agent) error {
	h := &hands{ctx: ctx, agent: a}
	var err error
	if h.kept, err = h.filled("kept"); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"a volume of another's beside ours", h.foreign},
		{"a volume is renamed", h.renamed},
		{"a volume is removed", h.removed},
		{"a volume is extended", h.extended},
		{"a volume is deactivated", h.deactivated},
		{"a volume loses its tags", h.untagged},
		{"the pool loses its tag", h.poolUntagged},
		{"the volume group is renamed", h.groupRenamed},
		{"the pool's metadata moves to raid1", h.converted},
	} {
		fmt.Println("---", step.name)
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		// A volume in use does not notice, and others come and go.
		if err := errors.Join(same(h.kept, "kept"), h.works()); err != nil {
			return fmt.Errorf("after: %s: %w", step.name, err)
		}
	}
	return errors.Join(h.kept.Unmount(ctx), h.kept.Delete(ctx), h.agent.Stop())
}

type hands struct {
	ctx   context.Context
	agent *agent.Agent
	kept  agent.Volume // mounted all the time
}

// restart is a new agent, which looks at the disks.
func (h *hands) restart() (err error) {
	if err := h.agent.Stop(); err != nil {
		return err
	}
	if h.agent, err = start(h.ctx); err == nil {
		h.kept = h.agent.Found(h.kept)
	}
	return err
}

// filled is a mounted volume with data.
func (h *hands) filled(name string) (agent.Volume, error) {
	v, err := h.agent.Create(h.ctx, "fast", name, "ext4", adminSize, nil)
	if err != nil {
		return v, err
	}
	if err := v.Mount(h.ctx); err != nil {
		return v, err
	}
	return v, put(file(v), content(name))
}

// closed is a volume with data that nobody uses.
func (h *hands) closed(name string) (agent.Volume, error) {
	v, err := h.filled(name)
	if err != nil {
		return v, err
	}
	return v, v.Unmount(h.ctx)
}

func (h *hands) works() error {
	v, err := h.filled("comes-and-goes")
	if err != nil {
		return err
	}
	return errors.Join(same(v, "comes-and-goes"), v.Unmount(h.ctx), v.Delete(h.ctx))
}

// back is nil if a volume has its data, and goes.
func (h *hands) back(v agent.Volume) error {
	return errors.Join(v.Mount(h.ctx), same(v, v.Name), v.Unmount(h.ctx), v.Delete(h.ctx))
}

// listed counts the volumes that the agent shows.
func (h *hands) listed(want int) error {
	list, err := h.agent.ListVolumes(h.ctx, &csi.ListVolumesRequest{})
	if err == nil && len(list.Entries) != want {
		err = fmt.Errorf("%d volumes, want %d: %v", len(list.Entries), want, list.Entries)
	}
	return err
}

// lvOf is the volume's LV as lvm takes it.
func lvOf(v agent.Volume) string {
	_, lv, _ := strings.Cut(v.VolumeId, "/")
	return "lamina-fast/" + lv
}

// There is none of ours that goes by its name, and it stays.
func (h *hands) foreign() error {
	if err := lvmDo("lvcreate --type thin --virtualsize 64m --thinpool thinpool --name his lamina-fast", "lvcreate --size 32m --name linear lamina-fast"); err != nil {
		return err
	}
	id := strings.Replace(h.kept.VolumeId, strings.TrimPrefix(lvOf(h.kept), "lamina-fast/"), "his", 1)
	_, err := h.agent.DeleteVolume(h.ctx, &csi.DeleteVolumeRequest{VolumeId: id})
	return errors.Join(h.listed(1), refused(err, codes.FailedPrecondition, "it is no volume of ours"), h.works(),
		lvmDo("lvs lamina-fast/his", "lvs lamina-fast/linear", "lvremove --yes lamina-fast/his lamina-fast/linear"))
}

// An id whose LV is not there has no volume; the LV stays, under the name that it got.
func (h *hands) renamed() error {
	v, err := h.closed("renamed")
	if err != nil {
		return err
	}
	return errors.Join(
		lvmDo("lvrename "+lvOf(v)+" lamina-fast/other"),
		refused(v.Stage(h.ctx), codes.NotFound, "volume"),
		v.Delete(h.ctx),
		h.listed(2),
		lvmDo("lvrename lamina-fast/other "+lvOf(v)),
		h.back(v),
	)
}

func (h *hands) removed() error {
	v, err := h.closed("removed")
	if err != nil {
		return err
	}
	return errors.Join(
		lvmDo("lvremove --yes "+lvOf(v)),
		refused(v.Stage(h.ctx), codes.NotFound, "volume"),
		v.Delete(h.ctx),
		h.listed(1),
	)
}

// An expansion to the size that it has already grows the file system.
func (h *hands) extended() error {
	v, err := h.filled("extended")
	if err != nil {
		return err
	}
	if err := errors.Join(lvmDo("lvextend --size +64m "+lvOf(v)), v.Expand(h.ctx, 2*adminSize)); err != nil {
		return err
	}
	stats, err := h.agent.NodeGetVolumeStats(h.ctx, &csi.NodeGetVolumeStatsRequest{VolumeId: v.VolumeId, VolumePath: v.Target()})
	if err != nil {
		return err
	}
	if total := stats.Usage[0].Total; total < adminSize*3/2 {
		return fmt.Errorf("the file system has %d bytes", total)
	}
	return errors.Join(same(v, v.Name), v.Unmount(h.ctx), v.Delete(h.ctx))
}

func (h *hands) deactivated() error {
	v, err := h.closed("deactivated")
	if err != nil {
		return err
	}
	return errors.Join(lvmDo("lvchange --activate n "+lvOf(v)), h.back(v))
}

func (h *hands) untagged() error {
	v, err := h.closed("untagged")
	if err != nil {
		return err
	}
	return errors.Join(
		lvmDo("lvchange --deltag lamina.kind=volume "+lvOf(v)),
		refused(v.Stage(h.ctx), codes.FailedPrecondition, "it is no volume of ours"),
		refused(v.Delete(h.ctx), codes.FailedPrecondition, "it is no volume of ours"),
		h.listed(1),
		lvmDo("lvchange --addtag lamina.kind=volume "+lvOf(v)),
		h.back(v),
	)
}

// Without its tag the group is somebody else's, with whatever is in it.
func (h *hands) poolUntagged() error {
	v, err := h.closed("in-the-pool")
	if err != nil {
		return err
	}
	if err := errors.Join(lvmDo("vgchange --deltag lamina.pool=fast lamina-fast"), h.restart()); err != nil {
		return err
	}
	v = h.agent.Found(v)
	_, err = h.agent.Create(h.ctx, "fast", "new", "ext4", adminSize, nil)
	if err := errors.Join(
		refused(v.Stage(h.ctx), codes.Unavailable, "is a disk missing?"),
		refused(v.Delete(h.ctx), codes.Unavailable, "is a disk missing?"),
		refused(err, codes.ResourceExhausted, "this node has no pool"),
		h.says("is in use"),
		lvmDo("vgchange --addtag lamina.pool=fast lamina-fast"),
		h.restart(),
	); err != nil {
		return err
	}
	return h.back(h.agent.Found(v))
}

// says is nil if the pool's status or one of its refused disks has the words.
func (h *hands) says(words string) error {
	var said string
	err := h.agent.AwaitPool(h.ctx, "refused", func(s *link.PoolStatus) bool {
		said = s.String()
		return s.GetHealth() == "error"
	})
	fmt.Println("the pool says:", said)
	if err == nil && !strings.Contains(said, words) {
		err = fmt.Errorf("the pool says %s, want %q", said, words)
	}
	return err
}

// A volume goes by its group's UUID: the group's new name is seen when the agent looks.
func (h *hands) groupRenamed() error {
	v, err := h.closed("of-the-group")
	if err != nil {
		return err
	}
	if err := errors.Join(
		lvmDo("vgrename lamina-fast hers"),
		refused(v.Stage(h.ctx), codes.Unavailable, "it belongs to volume group hers"),
		same(h.kept, "kept"),
		h.agent.AwaitPool(h.ctx, "well", agent.Healthy),
	); err != nil {
		return err
	}
	if err := errors.Join(h.kept.Unmount(h.ctx), h.kept.Mount(h.ctx), same(h.kept, "kept"), h.works(), h.back(v),
		lvmDo("vgrename hers lamina-fast"), h.restart()); err != nil {
		return err
	}
	return errors.Join(h.kept.Unmount(h.ctx), h.kept.Mount(h.ctx))
}

// The other leg lies on a disk that is too small for the agent's profile.
func (h *hands) converted() error {
	disk, err := bySerial("SPARE")
	if err != nil {
		return err
	}
	if err := lvmDo("vgextend lamina-fast "+disk, "lvconvert --yes --type raid1 --mirrors 1 lamina-fast/thinpool_tmeta "+disk); err != nil {
		return err
	}
	// It looks again when it sees that something is amiss.
	if err := h.agent.AwaitPool(h.ctx, "well", agent.Healthy); err != nil {
		return err
	}
	return errors.Join(h.works(), h.restart())
}
