//go:build vm

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/test/agent"
)

// The pools of the hang scenario. The last lies on an encrypted disk, whose
// device-mapper device can be suspended.
const hangPools = `pools: {fast: thin, slow: thick, own: own}
profiles:
  thin: {disks: {serial: "FAST*"}}
  thick: {disks: {serial: "SLOW*"}}
  own: {adopt: own}
`

const (
	ownDevice = "own-luks"
	hangSize  = 64 << 20
)

// hang: lvm hangs, and then a disk. Who asks for it is told so in time, no second
// command is started, the other pools work, and all goes on when it ends.
func hang(ctx context.Context, a *agent.Agent) error {
	if err := a.Stop(); err != nil {
		return err
	}
	if err := encryptedGroup(); err != nil {
		return err
	}
	a, err := agent.Start(ctx, agent.Options{Program: "/usr/local/bin/lamina-node", Dir: "/var/lib/kubelet", Pools: hangPools})
	if err != nil {
		return err
	}
	h := &hanging{ctx: ctx, agent: a}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"somebody else's lvm keeps the lock of a group", h.locked},
		{"a disk does not answer", h.suspended},
	} {
		fmt.Println("---", step.name)
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return a.Stop()
}

// encryptedGroup makes a volume group on LUKS, as an operating system does.
func encryptedGroup() error {
	disk, err := bySerial("OWN1")
	if err != nil {
		return err
	}
	return errors.Join(
		typed("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-", disk),
		typed("cryptsetup", "open", "--disable-keyring", "--key-file", "-", disk, ownDevice),
		typed("lvm", "vgcreate", "own", "/dev/mapper/"+ownDevice),
	)
}

// typed runs what a person types; the passphrase is for cryptsetup.
func typed(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1")
	cmd.Stdin = strings.NewReader("passphrase")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

type hanging struct {
	ctx   context.Context
	agent *agent.Agent
}

// create asks for a volume, for three seconds.
func (h *hanging) create(pool, name string) error {
	ctx, cancel := context.WithTimeout(h.ctx, 3*time.Second)
	defer cancel()
	_, err := h.agent.Create(ctx, pool, name, "ext4", hangSize, nil)
	return err
}

// refused is nil if a call ended with a code and said why.
func refused(err error, code codes.Code, words ...string) error {
	fmt.Println("told:", err)
	ok := status.Code(err) == code
	for _, w := range words {
		ok = ok && strings.Contains(err.Error(), w)
	}
	if !ok {
		return fmt.Errorf("want %v with %q, got %w", code, words, err)
	}
	return nil
}

// works has another pool make, mount and delete a volume.
func (h *hanging) works(pool string) error {
	v, err := h.agent.Create(h.ctx, pool, "beside", "ext4", hangSize, nil)
	if err != nil {
		return err
	}
	return errors.Join(v.Mount(h.ctx), put(file(v), content("beside")), same(v, "beside"), v.Unmount(h.ctx), v.Delete(h.ctx))
}

// await waits until the agent says of a pool what it is.
func (h *hanging) await(pool, health string) (text string, err error) {
	err = h.agent.AwaitPool(h.ctx, pool+" "+health, func(s *link.PoolStatus) bool {
		if s.GetName() != pool || s.GetHealth() != health {
			return false
		}
		text = s.GetText()
		return true
	})
	fmt.Println("pool", pool, "is", health, text)
	return text, err
}

// once is nil if one volume of that name is there, and no other.
func (h *hanging) once(pool, name string) error {
	v, err := h.agent.Create(h.ctx, pool, name, "ext4", hangSize, nil)
	if err != nil {
		return err
	}
	list, err := h.agent.ListVolumes(h.ctx, &csi.ListVolumesRequest{})
	if err != nil {
		return err
	}
	if len(list.Entries) != 1 || list.Entries[0].Volume.VolumeId != v.VolumeId {
		return fmt.Errorf("volumes %v, want %s alone", list.Entries, v.VolumeId)
	}
	return v.Delete(h.ctx)
}

// locked keeps the lock that LVM's file locking takes (lib/locking/file_locking.c).
func (h *hanging) locked() error {
	f, err := os.OpenFile("/run/lock/lvm/V_lamina-slow", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if err := errors.Join(
		refused(h.create("slow", "a"), codes.Aborted, "lvcreate on lamina-slow: command still running"),
		refused(h.create("slow", "a"), codes.Aborted, "lvcreate has run for"),
		refused(h.create("slow", "b"), codes.Aborted, "lvcreate has run for"),
		h.works("fast"),
	); err != nil {
		return err
	}
	if n := changing("lamina-slow"); n != 1 {
		return fmt.Errorf("%d lvm processes want to change the group, not 1", n)
	}
	text, err := h.await("slow", "stuck")
	if err != nil || !strings.Contains(text, "lvcreate has been running since") {
		return fmt.Errorf("the pool says %q (%w)", text, err)
	}
	health, err := h.agent.NodeGetStorageHealth(h.ctx, &csi.NodeGetStorageHealthRequest{})
	if err != nil || len(health.BackendHealth) != 1 || health.BackendHealth[0].Reason != "LVMCommandStuck" {
		return fmt.Errorf("storage health %v (%w)", health, err)
	}
	log, err := os.ReadFile(h.agent.LogFile)
	if err != nil || !bytes.Contains(log, []byte("lvm does not end")) {
		return fmt.Errorf("the log does not name it (%w)", err)
	}
	if err := h.works("fast"); err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		return err
	}
	if _, err := h.await("slow", "ok"); err != nil {
		return err
	}
	return h.once("slow", "a")
}

// changing counts the lvm processes that name a group: a report of all groups does not.
func changing(vg string) (n int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		if args, err := os.ReadFile(path); err == nil && bytes.Contains(args, []byte("lvm")) && bytes.Contains(args, []byte(vg+"/")) {
			n++
		}
	}
	return n
}

// suspended: lvm waits in the kernel, where no signal reaches it.
func (h *hanging) suspended() error {
	kernel := &lvm.LinuxKernel{}
	if err := kernel.Suspend(ownDevice); err != nil {
		return err
	}
	err := errors.Join(
		refused(h.create("own", "c"), codes.Aborted, "lvcreate on own: command still running"),
		refused(h.create("own", "c"), codes.Aborted, "lvcreate has run for"),
		h.works("fast"),
		h.works("slow"),
	)
	if err == nil {
		var text string
		text, err = h.await("own", "error")
		if err == nil && !strings.Contains(text, "/dev/mapper/"+ownDevice+" has not answered a read") {
			err = fmt.Errorf("the pool says %q", text)
		}
	}
	if err := errors.Join(err, kernel.Resume(ownDevice)); err != nil {
		return err
	}
	if _, err := h.await("own", "ok"); err != nil {
		return err
	}
	return h.once("own", "c")
}
