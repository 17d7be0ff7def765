//go:build vm

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"

	"github.com/lamina-csi/lamina/driver"
	"github.com/lamina-csi/lamina/test/agent"
	"github.com/lamina-csi/lamina/test/invariant"
)

// dying is a userland whose programs are this one: each kills the agent that started
// it, before or after it has run, if dieAt says that it is its turn.
const (
	dying = "/run/dying"
	dieAt = "/run/die-at"
)

// runDying is a program of the userland.
func runDying() error {
	if err := os.Setenv("PATH", "/usr/sbin:/usr/bin"); err != nil {
		return err
	}
	name := filepath.Base(os.Args[0])
	program, err := exec.LookPath(name)
	if err != nil {
		return err
	}
	args := append([]string{name}, os.Args[1:]...)
	var left int
	var when string
	exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", os.Getppid()))
	text, err := os.ReadFile(dieAt)
	if err != nil || filepath.Base(exe) != "lamina-node" {
		return unix.Exec(program, args, os.Environ())
	}
	if _, err := fmt.Sscan(string(text), &left, &when); err != nil {
		return err
	}
	if left > 1 {
		if err := os.WriteFile(dieAt, fmt.Appendln(nil, left-1, when), 0o600); err != nil {
			return err
		}
		return unix.Exec(program, args, os.Environ())
	}
	if err := os.WriteFile(dieAt+".done", []byte(name), 0o600); err != nil {
		return err
	}
	if err := os.Remove(dieAt); err != nil {
		return err
	}
	agent := os.Getppid()
	if when == "after" {
		cmd := exec.Command(program, args[1:]...)
		cmd.Stdin = os.Stdin
		_ = cmd.Run() // nobody hears how it ends
	}
	return unix.Kill(agent, unix.SIGKILL)
}

// makeDying fills the userland.
func makeDying() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, dir := range []string{"/usr/sbin", "/usr/bin"} {
		if err := os.MkdirAll(dying+dir, 0o755); err != nil {
			return err
		}
		programs, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, p := range programs {
			if err := os.Symlink(self, filepath.Join(dying, dir, p.Name())); err != nil {
				return err
			}
		}
	}
	return os.Symlink("/etc", dying+"/etc") // mke2fs.conf
}

func startDying(ctx context.Context) (*agent.Agent, error) {
	return agent.Start(ctx, agent.Options{Program: "/usr/local/bin/lamina-node", Dir: "/var/lib/kubelet", Pools: pools, Userland: dying})
}

// mortal is a node whose agent is killed.
type mortal struct {
	*agent.Agent
	ctx    context.Context
	kept   agent.Volume // mounted, with data
	snap   *csi.Snapshot
	points int
}

// die has the agent killed before and after each program that it runs, over each
// operation; then the same is asked again, or the other thing that may come next.
func die(ctx context.Context, a *agent.Agent) error {
	m := &mortal{ctx: ctx, Agent: a}
	var err error
	if err := errors.Join(a.Stop(), makeDying()); err != nil {
		return err
	}
	if m.Agent, err = startDying(ctx); err != nil {
		return err
	}
	if m.kept, err = m.Create(ctx, "fast", "kept", "ext4", adminSize, nil); err != nil {
		return err
	}
	if err := errors.Join(m.kept.Mount(ctx), put(file(m.kept), content("kept"))); err != nil {
		return err
	}
	if m.snap, err = m.kept.Snapshot(ctx, "snap-kept"); err != nil {
		return err
	}
	for _, op := range m.operations() {
		if err := m.each(op); err != nil {
			return fmt.Errorf("%s: %w", op.name, err)
		}
	}
	fmt.Println("killed at", m.points, "points in all")
	return errors.Join(m.kept.Unmount(ctx), m.kept.Delete(ctx), m.DropSnapshot(ctx, m.snap), m.Stop())
}

// operation is a call about the volume of a number, which undo takes away, whatever of
// it is there; first is what must be there before.
type operation struct {
	name             string
	first, run, undo func(n int) error
}

func (m *mortal) operations() []operation {
	none := func(int) error { return nil }
	return []operation{
		{"create", none, m.create, m.remove},
		{"stage", m.create, m.stage, m.remove},
		{"stage, encrypted", m.createEncrypted, m.stageEncrypted, m.removeEncrypted},
		{"expand", m.stage, m.expand, m.remove},
		{"delete", m.stageAndClose, m.remove, m.remove},
		{"snapshot", none, m.snapshot, m.dropSnapshot},
		{"restore", none, m.restore, m.removeRestored},
		{"clone", none, m.clone, m.removeClone},
		{"delete snapshot", m.snapshot, m.dropSnapshot, m.dropSnapshot},
		{"group snapshot", m.create, m.group, m.dropGroup},
	}
}

// each kills at one program after the other, until an operation needs no more.
func (m *mortal) each(op operation) error {
	for n := 1; ; n++ {
		for _, when := range []string{"before", "after"} {
			if err := op.first(n); err != nil {
				return err
			}
			if err := os.WriteFile(dieAt, fmt.Appendln(nil, n, when), 0o600); err != nil {
				return err
			}
			first := op.run(n)
			program, err := os.ReadFile(dieAt + ".done")
			if errors.Is(err, fs.ErrNotExist) {
				fmt.Printf("%s: %d programs\n", op.name, n-1)
				return errors.Join(first, os.Remove(dieAt), op.undo(n))
			}
			at := fmt.Sprintf("killed %s program %d (%s)", when, n, program)
			if err := errors.Join(err, os.Remove(dieAt+".done"), m.restart()); err != nil {
				return fmt.Errorf("%s: %w", at, err)
			}
			// With odd numbers the caller has changed its mind.
			if n%2 == 0 || when == "before" {
				err = op.run(n)
			}
			if err := errors.Join(err, op.undo(n), same(m.kept, "kept"), invariant.Check(m.ctx, invariant.Machine(nil))); err != nil {
				return fmt.Errorf("%s (%w): %w", at, first, err)
			}
			m.points++
		}
	}
}

func (m *mortal) restart() (err error) {
	m.Kill()
	if m.Agent, err = startDying(m.ctx); err == nil {
		m.kept = m.Found(m.kept)
	}
	return err
}

func (m *mortal) volume(n int, source *csi.Snapshot) (agent.Volume, error) {
	return m.Create(m.ctx, "fast", fmt.Sprint("new-", n), "ext4", adminSize, source)
}

func (m *mortal) create(n int) error {
	_, err := m.volume(n, nil)
	return err
}

// stage is the first one, which formats. Data in it is there if it was staged before.
func (m *mortal) stage(n int) error {
	v, err := m.volume(n, nil)
	if err != nil {
		return err
	}
	return v.Mount(m.ctx)
}

func (m *mortal) stageAndClose(n int) error {
	v, err := m.volume(n, nil)
	if err != nil {
		return err
	}
	return errors.Join(v.Mount(m.ctx), put(file(v), content("x")), v.Unmount(m.ctx))
}

// remove takes away what there is of a volume: kubelet unmounts what it knows nothing of.
func (m *mortal) remove(n int) error { return m.take(m.volume(n, nil)) }

func (m *mortal) take(v agent.Volume, err error) error {
	if err != nil {
		return err
	}
	return errors.Join(v.Unmount(m.ctx), v.Delete(m.ctx))
}

func (m *mortal) encrypted(n int) (agent.Volume, error) {
	v, err := m.CreateWith(m.ctx, "fast", fmt.Sprint("new-", n), "ext4", adminSize, map[string]string{"encryption": "luks2"})
	v.Secrets = map[string]string{driver.PassphraseKey: "correct horse"}
	return v, err
}

func (m *mortal) createEncrypted(n int) error {
	_, err := m.encrypted(n)
	return err
}

func (m *mortal) stageEncrypted(n int) error {
	v, err := m.encrypted(n)
	if err != nil {
		return err
	}
	return v.Mount(m.ctx)
}

func (m *mortal) removeEncrypted(n int) error { return m.take(m.encrypted(n)) }

func (m *mortal) expand(n int) error {
	v, err := m.volume(n, nil)
	if err != nil {
		return err
	}
	return v.Expand(m.ctx, 2*adminSize)
}

func (m *mortal) snapshot(n int) error {
	_, err := m.kept.Snapshot(m.ctx, fmt.Sprint("snap-", n))
	return err
}

func (m *mortal) dropSnapshot(n int) error {
	s, err := m.kept.Snapshot(m.ctx, fmt.Sprint("snap-", n))
	if err != nil {
		return err
	}
	return m.DropSnapshot(m.ctx, s)
}

func (m *mortal) restore(n int) error { return m.copied(m.volume(n, m.snap)) }

func (m *mortal) copied(v agent.Volume, err error) error {
	if err != nil {
		return err
	}
	return errors.Join(v.Mount(m.ctx), same(v, "kept"))
}

func (m *mortal) removeRestored(n int) error { return m.take(m.volume(n, m.snap)) }

func (m *mortal) cloned(n int) (agent.Volume, error) {
	resp, err := m.CreateVolume(m.ctx, &csi.CreateVolumeRequest{
		Name:               fmt.Sprint("new-", n),
		CapacityRange:      &csi.CapacityRange{RequiredBytes: adminSize},
		VolumeCapabilities: []*csi.VolumeCapability{agent.Capability("ext4")},
		Parameters:         map[string]string{"pool": "fast"},
		VolumeContentSource: &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
			Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: m.kept.VolumeId}}},
	})
	return m.Found(agent.Volume{Volume: resp.GetVolume(), Name: fmt.Sprint("new-", n), FS: "ext4"}), err
}

func (m *mortal) clone(n int) error       { return m.copied(m.cloned(n)) }
func (m *mortal) removeClone(n int) error { return m.take(m.cloned(n)) }

func (m *mortal) group(n int) error {
	v, err := m.volume(n, nil)
	if err != nil {
		return err
	}
	_, err = m.CreateVolumeGroupSnapshot(m.ctx, &csi.CreateVolumeGroupSnapshotRequest{
		Name: fmt.Sprint("group-", n), SourceVolumeIds: []string{m.kept.VolumeId, v.VolumeId},
	})
	return err
}

func (m *mortal) dropGroup(n int) error {
	v, err := m.volume(n, nil)
	if err != nil {
		return err
	}
	resp, err := m.CreateVolumeGroupSnapshot(m.ctx, &csi.CreateVolumeGroupSnapshotRequest{
		Name: fmt.Sprint("group-", n), SourceVolumeIds: []string{m.kept.VolumeId, v.VolumeId},
	})
	if err != nil {
		return err
	}
	var ids []string
	for _, s := range resp.GroupSnapshot.Snapshots {
		ids = append(ids, s.SnapshotId)
	}
	_, err = m.DeleteVolumeGroupSnapshot(m.ctx, &csi.DeleteVolumeGroupSnapshotRequest{
		GroupSnapshotId: resp.GroupSnapshot.GroupSnapshotId, SnapshotIds: ids,
	})
	return errors.Join(err, v.Delete(m.ctx))
}

// isDying reports whether this process is a program of the userland.
func isDying() bool { return strings.HasPrefix(os.Args[0], dying+"/") }
