//go:build vm

package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/test/agent"
)

// roundData is what a round writes.
func roundData(round int) []byte {
	sum := sha256.Sum256(fmt.Append(nil, round))
	return bytes.Repeat(sum[:], 256<<10/len(sum))
}

// fill mounts a volume and writes its round.
func (c *cutter) fill(v cutVolume) error {
	w := c.vol(v)
	if err := w.Mount(c.ctx); err != nil {
		return err
	}
	if v.fs == "" {
		return put(file(w), roundData(v.round))
	}
	dir, err := os.Open(w.Target())
	if err != nil {
		return err
	}
	defer dir.Close()
	return errors.Join(put(file(w), roundData(v.round)), dir.Sync())
}

// holds reads a mounted volume.
func (c *cutter) holds(v cutVolume) error {
	want := roundData(v.round)
	if v.round == 0 {
		want = make([]byte, len(want))
	}
	f, err := os.Open(file(c.vol(v)))
	if v.fs != "" && v.round == 0 && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 0); err != nil {
		return fmt.Errorf("%s: %w", v.name, err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s (%s) does not hold round %d", v.name, v.fs, v.round)
	}
	return nil
}

// snapHolds reads a snapshot.
func (c *cutter) snapHolds(s cutSnapshot) error { return c.restores(c.snapID(s.name), s.of) }

// restores reads the snapshot of a volume through a volume that is made from it.
func (c *cutter) restores(id string, of cutVolume) error {
	v := of
	v.name = "pvc-ffffffff-0000-0000-0000-000000000000"
	err := inOrder(
		func() error { return c.make(v, snapSource(id)) },
		func() error { return c.vol(v).Mount(c.ctx) },
		func() error { return c.holds(v) },
		func() error { return c.remove(v) })
	if err != nil {
		return fmt.Errorf("snapshot %s: %w", id, err)
	}
	return nil
}

// inOrder ends at the first error.
func inOrder(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func snapSource(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{
		Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: id}}}
}

func volumeSource(id string) *csi.VolumeContentSource {
	return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{
		Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: id}}}
}

// vol is the volume as kubelet knows it: its id follows from its name.
func (c *cutter) vol(v cutVolume) agent.Volume {
	return c.Found(agent.Volume{
		Volume: &csi.Volume{VolumeId: c.vg + "/" + v.name}, Name: v.name, FS: v.fs,
	})
}

// make creates a volume, and finds that it has the id that it must have.
func (c *cutter) make(v cutVolume, source *csi.VolumeContentSource) error {
	resp, err := c.CreateVolume(c.ctx, &csi.CreateVolumeRequest{
		Name: v.name, CapacityRange: &csi.CapacityRange{RequiredBytes: v.size}, VolumeContentSource: source,
		VolumeCapabilities: []*csi.VolumeCapability{agent.Capability(v.fs)}, Parameters: map[string]string{"pool": "fast"},
	})
	if err == nil && (resp.Volume.VolumeId != c.vg+"/"+v.name || resp.Volume.CapacityBytes < v.size) {
		err = fmt.Errorf("created %v", resp.Volume)
	}
	return err
}

// sized finds a volume of that size.
func (c *cutter) sized(name string, size int64) error {
	resp, err := c.ControllerGetVolume(c.ctx, &csi.ControllerGetVolumeRequest{VolumeId: c.vg + "/" + name})
	if err == nil && resp.Volume.CapacityBytes < size {
		err = fmt.Errorf("%s has %d bytes, not %d", name, resp.Volume.CapacityBytes, size)
	}
	return err
}

// gone finds that there is no such volume.
func (c *cutter) gone(name string) error {
	if err := c.sized(name, 0); status.Code(err) != codes.NotFound {
		return fmt.Errorf("%s is still there (%w)", name, err)
	}
	return nil
}

// remove unmounts and deletes a volume.
func (c *cutter) remove(v cutVolume) error {
	return inOrder(
		func() error { return c.vol(v).Unmount(c.ctx) },
		func() error { return c.vol(v).Delete(c.ctx) },
		func() error { return c.gone(v.name) })
}

func (c *cutter) snapID(name string) string { return c.vg + "/snap-" + name }

// snap makes a snapshot.
func (c *cutter) snap(s cutSnapshot) error {
	got, err := c.vol(s.of).Snapshot(c.ctx, "snapshot-"+s.name)
	if err == nil && (got.SnapshotId != c.snapID(s.name) || !got.ReadyToUse) {
		err = fmt.Errorf("made %v", got)
	}
	return err
}

func (c *cutter) removeSnap(s cutSnapshot) error {
	if err := c.DropSnapshot(c.ctx, &csi.Snapshot{SnapshotId: c.snapID(s.name)}); err != nil {
		return err
	}
	return c.hasSnaps(false, c.snapID(s.name))
}

// hasSnaps finds all of them, or none.
func (c *cutter) hasSnaps(want bool, ids ...string) error {
	for _, id := range ids {
		resp, err := c.ListSnapshots(c.ctx, &csi.ListSnapshotsRequest{SnapshotId: id})
		if err != nil {
			return err
		}
		if got := len(resp.Entries) == 1; got != want {
			return fmt.Errorf("snapshot %s: it is there: %t", id, got)
		}
	}
	return nil
}

// afresh makes a volume of the name of one whose deletion was cut. It may still be
// there, whole or discarded: then it is deleted as any other.
func (c *cutter) afresh(v, empty cutVolume) error {
	there := c.gone(v.name) != nil
	if err := c.make(v, nil); err != nil {
		return err
	}
	// What can be mounted was not formatted again.
	if err := c.vol(v).Mount(c.ctx); err == nil && there && v.round > 0 {
		if _, err := os.Stat(file(c.vol(v))); err != nil {
			return err
		}
	}
	return inOrder(func() error { return c.remove(v) }, func() error { return c.make(empty, nil) })
}
