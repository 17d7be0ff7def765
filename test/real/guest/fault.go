//go:build vm

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/test/agent"
)

// The pool "fast" lies on the disks that something happens to, "other" on another one.
const (
	faultPools = "pools: {fast: fast, other: other}\nprofiles:\n" +
		"  fast: {disks: {serial: \"FAST*\"}, layout: %s}\n  other: {disks: {serial: \"OTHER*\"}}\n"
	runbook = "/operations.md"
)

// faults is a node whose disks fail.
type faults struct {
	*agent.Agent
	ctx     context.Context
	layout  string
	volumes []agent.Volume // of "fast", with content
	n       int            // volumes of the other pool so far
}

func startFaults(ctx context.Context, layout string) (*faults, error) {
	f := &faults{ctx: ctx, layout: layout}
	return f, f.start()
}

func (f *faults) start() (err error) {
	f.Agent, err = agent.Start(f.ctx, agent.Options{
		Program: "/usr/local/bin/lamina-node", Dir: "/var/lib/kubelet", Pools: fmt.Sprintf(faultPools, f.layout),
	})
	for i, v := range f.volumes {
		f.volumes[i] = f.Found(v)
	}
	return err
}

// awaitHealth waits until the pool "fast" is in that state, and its text says the words.
func (f *faults) awaitHealth(health, words string) error {
	ctx, cancel := context.WithTimeout(f.ctx, 4*time.Minute)
	defer cancel()
	return f.AwaitPool(ctx, health, func(s *link.PoolStatus) bool {
		ok := s.GetName() == "fast" && s.GetHealth() == health && strings.Contains(s.GetText()+s.GetError(), words)
		if ok {
			fmt.Printf("pool fast is %s: %s; %s\n", s.GetHealth(), s.GetText(), s.GetError())
		}
		return ok
	})
}

// fill makes volumes with content in the pool, mounted.
func (f *faults) fill() error {
	if err := f.awaitHealth("ok", ""); err != nil {
		return err
	}
	for _, fs := range []string{"ext4", "xfs"} {
		v, err := f.Create(f.ctx, "fast", fs, fs, volumeSize, nil)
		if err != nil {
			return err
		}
		if err := errors.Join(v.Mount(f.ctx), put(file(v), content(fs))); err != nil {
			return err
		}
		f.volumes = append(f.volumes, v)
	}
	return nil
}

func (f *faults) each(do func(agent.Volume) error) error {
	var errs []error
	for _, v := range f.volumes {
		errs = append(errs, do(v))
	}
	return errors.Join(errs...)
}

// write writes the content of each volume again, through to the disks, and reads it.
func (f *faults) write() error {
	return f.each(func(v agent.Volume) error { return errors.Join(put(file(v), content(v.Name)), same(v, v.Name)) })
}

func (f *faults) unmount() error {
	return f.each(func(v agent.Volume) error { return v.Unmount(f.ctx) })
}

// back is how it must be in the end: the volumes hold what was written, and take more.
func (f *faults) back() error {
	if err := f.awaitHealth("ok", ""); err != nil {
		return err
	}
	if err := f.each(func(v agent.Volume) error {
		if err := errors.Join(v.Mount(f.ctx), same(v, v.Name), put(file(v), content(v.Name))); err != nil {
			return err
		}
		return v.Unmount(f.ctx)
	}); err != nil {
		return err
	}
	return errors.Join(f.takesMore(), f.others(), f.Stop())
}

// takesMore: volumes are made and deleted in the pool.
func (f *faults) takesMore() error {
	v, err := f.Create(f.ctx, "fast", "after", "ext4", volumeSize, nil)
	if err != nil {
		return err
	}
	return v.Delete(f.ctx)
}

// refused: nothing is made in the pool, nor activated, and the answer says why.
func (f *faults) refused(words string) error {
	_, err := f.Create(f.ctx, "fast", "new", "ext4", volumeSize, nil)
	fmt.Println("a new volume:", err)
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), words) {
		return fmt.Errorf("a new volume in a pool that has a fault: %w", err)
	}
	return nil
}

// unstaged: a volume of the pool is not staged, and the answer says why.
func (f *faults) unstaged(words string) error {
	err := f.volumes[0].Stage(f.ctx)
	fmt.Println("staged:", err)
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), words) {
		return fmt.Errorf("a volume in a pool that has a fault was staged: %w", err)
	}
	return nil
}

// others: another pool goes on.
func (f *faults) others() error {
	f.n++
	v, err := f.Create(f.ctx, "other", fmt.Sprint("other-", f.n), "ext4", volumeSize, nil)
	if err != nil {
		return fmt.Errorf("the other pool: %w", err)
	}
	if err := errors.Join(v.Mount(f.ctx), put(file(v), content(v.Name)), same(v, v.Name), v.Unmount(f.ctx), v.Delete(f.ctx)); err != nil {
		return fmt.Errorf("the other pool: %w", err)
	}
	return nil
}

// untouched does something and finds the pool's metadata as it was.
func (f *faults) untouched(device string, do func() error) error {
	state := func() (string, error) {
		return lvmOutput("vgs", "--devices", device, "--noheadings", "-o", "vg_uuid,vg_seqno,lv_count,pv_count,vg_tags", "lamina-fast")
	}
	before, err := state()
	if err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	if after, err := state(); err != nil || after != before {
		return fmt.Errorf("the volume group was %q and is %q (%w)", before, after, err)
	}
	return nil
}

var hostSays = bufio.NewScanner(os.Stdin)

// host asks the host to do something to the machine, such as "pull FAST1".
func host(what string) error {
	fmt.Println("HOST", what)
	if !hostSays.Scan() {
		return errors.Join(errors.New("the host is gone"), hostSays.Err())
	}
	if hostSays.Text() != "done" {
		return fmt.Errorf("the host was to %s: %s", what, hostSays.Text())
	}
	return nil
}

// typeRunbook runs the commands that docs/operations.md shows below a heading, as they
// stand there.
func typeRunbook(heading string) error {
	text, err := os.ReadFile(runbook)
	if err != nil {
		return err
	}
	_, section, ok := strings.Cut(string(text), "\n"+heading+"\n")
	_, block, ok2 := strings.Cut(section, "\n```\n")
	block, _, ok3 := strings.Cut(block, "\n```")
	if !ok || !ok2 || !ok3 {
		return fmt.Errorf("%s has no commands below %q", runbook, heading)
	}
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "LVM_SYSTEM_DIR=") })
	for line := range strings.Lines(block) {
		command, _, _ := strings.Cut(line, "#")
		words := strings.Fields(command)
		if len(words) == 2 && words[0] == "export" {
			env = append(env, words[1])
			continue
		}
		if len(words) == 0 {
			continue
		}
		if _, err := exec.LookPath(words[0]); err != nil { // the image has no links to lvm
			words = append([]string{"lvm"}, words...)
		}
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		fmt.Printf("# %s\n%s", strings.TrimSpace(command), out)
		if err != nil {
			return fmt.Errorf("%q of %q: %w", strings.TrimSpace(line), heading, err)
		}
	}
	return nil
}
