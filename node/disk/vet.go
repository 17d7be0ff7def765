package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Refusal says why a disk may not be claimed.
type Refusal struct {
	Disk   Disk
	Reason string // what is wrong, without the disk's name: "is mounted at /data"
	Err    error  // what a check ran into, if that is the reason
}

func (r *Refusal) Error() string { return r.Disk.Name + " " + r.Reason }
func (r *Refusal) Unwrap() error { return r.Err }

// Vet returns nil only if d, as List returned it, is proved to be blank and unused. Otherwise it returns a
// *Refusal; or ctx's error if ctx ended. It writes nothing. It holds the disk open exclusively while it
// looks, so two calls for one disk at once may refuse each other.
//
// Blank means that the disk has no partition, blkid knows nothing on it, and its first and last MiB read
// as zeros. Unused means that the kernel let us claim it and that neither it nor anything stacked on it is
// mounted or in use as swap.
func (s *System) Vet(ctx context.Context, d Disk) error {
	if err := s.takeable(d); err != nil {
		return refusal(d, err)
	}
	err := s.vet(ctx, d)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("vet %s: %w", d.Name, ctx.Err())
	}
	// A disk that went away makes every other check fail in its own way: name the cause.
	if gone := s.unchanged(d); errors.As(gone, new(finding)) {
		return &Refusal{Disk: d, Reason: gone.Error(), Err: errors.Join(gone, err)}
	}
	return refusal(d, err)
}

// finding is an error whose text says what a disk is or has. All other errors of a check mean that the
// check could not be made.
type finding string

func (f finding) Error() string { return string(f) }

func found(format string, args ...any) error { return finding(fmt.Sprintf(format, args...)) }

func refusal(d Disk, err error) *Refusal {
	if errors.As(err, new(finding)) {
		return &Refusal{Disk: d, Reason: err.Error(), Err: err}
	}
	return &Refusal{Disk: d, Reason: "cannot be proved to be blank: " + err.Error(), Err: err}
}

func (s *System) vet(ctx context.Context, d Disk) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.unchanged(d); err != nil {
		return err
	}
	if err := s.usable(d); err != nil {
		return err
	}
	if err := s.unused(d); err != nil {
		return err
	}
	if err := s.blank(ctx, d); err != nil {
		return err
	}
	return s.unchanged(d)
}

// takeable refuses what is not a disk of the kinds that List returns.
func (s *System) takeable(d Disk) error {
	if _, err := os.Stat(s.sys("class", "block", d.Name, "partition")); err == nil {
		return found("is a partition: only whole disks are taken")
	}
	if !candidate(d.Name) || s.hidden(d.Name) {
		return found("is not a kind of device that pools are made of")
	}
	return nil
}

// usable refuses a disk that no pool could be built on, whatever it holds.
func (s *System) usable(d Disk) error {
	now, err := s.load(d.Name)
	if err != nil {
		return err
	}
	switch {
	case now.Size == 0:
		return found("has no size: there is no medium in it, or its driver has given up on it")
	case now.ReadOnly:
		return found("is read-only")
	case now.Removable:
		return found("is removable")
	}
	return nil
}

// unchanged refuses a disk that is gone, or whose name now belongs to another one.
func (s *System) unchanged(d Disk) error {
	const gone = "vanished while it was looked at"
	now, err := s.load(d.Name)
	if vanished(err) {
		return fmt.Errorf("%w: %w", finding(gone), err)
	}
	if err != nil {
		return err
	}
	for _, id := range []struct {
		name     string
		was, now any
	}{
		{"serial", d.Serial, now.Serial},
		{"WWN", d.WWN, now.WWN},
		{"model", d.Model, now.Model},
		{"size in bytes", d.Size, now.Size},
		{"device number", devNumber(d.Major, d.Minor), devNumber(now.Major, now.Minor)},
		{"diskseq", d.Seq, now.Seq},
	} {
		if id.was != id.now {
			return found("%s: its %s was %v and is %v now", gone, id.name, id.was, id.now)
		}
	}
	return nil
}

// unused refuses a disk that something works with: mounts and swap first, since they say most to a person.
func (s *System) unused(d Disk) error {
	stack, err := s.stack(d)
	if err != nil {
		return fmt.Errorf("read what is stacked on it: %w", err)
	}
	if err := s.notMounted(stack); err != nil {
		return err
	}
	if err := s.notSwap(stack); err != nil {
		return err
	}
	if len(stack) > 1 && stack[1].partition {
		return found("has a partition: %s exists", stack[1])
	}
	if len(stack) > 1 {
		return found("is held by %s", stack[1])
	}
	below, err := os.ReadDir(s.sys("block", d.Name, "slaves"))
	if err != nil {
		return fmt.Errorf("read what it is built on: %w", err)
	}
	if len(below) > 0 {
		return found("is built on %s", below[0].Name())
	}
	return nil
}

// blank opens the disk exclusively, so that nothing can claim it meanwhile, and looks at what it holds.
func (s *System) blank(ctx context.Context, d Disk) error {
	open := s.open
	if open == nil {
		open = openBlock
	}
	f, err := open(d)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: %w", finding("is claimed by something in the kernel (a mount in another namespace, a RAID, btrfs or ZFS member)"), err)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if s.Prober == nil {
		return errors.New("no prober is configured")
	}
	sig, err := s.Prober.Probe(ctx, d.Path)
	if err != nil {
		return fmt.Errorf("probe its signatures: %w", err)
	}
	if sig != (Signature{}) {
		return finding(sig.describe())
	}
	return readsZero(ctx, f, d)
}

// openBlock opens the block device itself. O_EXCL without O_CREAT asks the kernel for an exclusive claim,
// which fails with EBUSY while anything else holds one (open(2)).
func openBlock(d Disk) (*os.File, error) {
	fd, err := unix.Open(d.Path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: d.Path, Err: err}
	}
	f := os.NewFile(uintptr(fd), d.Path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, &os.PathError{Op: "stat", Path: d.Path, Err: err}
	}
	// A container with a stale copy of /dev may have any file under that name.
	rdev := st.Rdev
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || unix.Major(rdev) != d.Major || unix.Minor(rdev) != d.Minor {
		f.Close()
		return nil, fmt.Errorf("%s is not block device %s", d.Path, devNumber(d.Major, d.Minor))
	}
	return f, nil
}

// describe says what a signature is. The label is left out: who wrote the disk chose it freely.
func (sig Signature) describe() string {
	if sig.Type == "" && sig.PTType != "" {
		return fmt.Sprintf("has a partition table (%s)", sig.PTType)
	}
	if sig.Type == "" {
		return "holds something that blkid knows but does not name"
	}
	tags := "TYPE=" + sig.Type
	if sig.PTType != "" {
		tags += ", PTTYPE=" + sig.PTType
	}
	if sig.UUID != "" {
		tags += ", UUID=" + sig.UUID
	}
	if sig.Usage == "filesystem" {
		return fmt.Sprintf("holds a filesystem, %s (blkid: %s)", sig.Type, tags)
	}
	return fmt.Sprintf("holds %s (blkid: %s)", sig.Type, tags)
}

// deviceName returns the kernel's name of a path under /dev, with "!" for "/" as sysfs has it. A path that
// leads nowhere from here, as one of another mount namespace may, stays as it is.
func (s *System) deviceName(path string) string {
	rest, ok := strings.CutPrefix(path, "/dev/")
	if !ok {
		return ""
	}
	root, err := filepath.EvalSymlinks(s.dev())
	if err == nil {
		if real, err := filepath.EvalSymlinks(filepath.Join(root, rest)); err == nil {
			if in, ok := strings.CutPrefix(real, root+"/"); ok {
				rest = in
			}
		}
	}
	return strings.ReplaceAll(rest, "/", "!")
}
