package mount

import (
	"context"
	"fmt"
	"slices"
)

// StageRequest brings a volume's device to its staging path.
type StageRequest struct {
	// Device is the volume's active device, /dev/dm-N.
	Device string
	// StagingPath is a directory below the kubelet directory. Its last component is made if missing.
	StagingPath string
	// FSType is the filesystem that the volume must carry. StageBlock ignores it.
	FSType      FSType
	MountFlags  []string
	MkfsOptions []string
	// ReadOnly mounts read-only. A volume that was never formatted is then refused.
	ReadOnly bool
	// State is the volume's own record.
	State State
	// WantUUID is the UUID that belongs to this volume's filesystem: lower case, always the same.
	WantUUID string
	// Copied says that the volume is a clone or a restore, so its content may still carry the UUID
	// of its source.
	Copied bool
	// Prezeroed tells whether every sector of Device reads as zeros and stays zero around partial
	// writes: no mapped sector in a thin pool that zeroes. It is asked right before mkfs, and never for an
	// encrypted volume, whose zeros do not decrypt to zeros. Nil means false.
	Prezeroed func(context.Context) (bool, error)
	// MarkFormatted changes the volume's record. It is called after mkfs and before the first mount.
	MarkFormatted func(context.Context, State) error
	// Encryption is nil for a volume in the clear.
	Encryption *Encryption
}

func (r *StageRequest) validate() error {
	if err := validateDevice(r.Device); err != nil {
		return err
	}
	if err := validateUUID(r.WantUUID); err != nil {
		return err
	}
	if r.State == StateNew && r.MarkFormatted == nil {
		return invalidf("a new volume needs MarkFormatted")
	}
	if r.Encryption != nil {
		return r.Encryption.validate()
	}
	return nil
}

func (r *StageRequest) validateFilesystem() error {
	if err := r.validate(); err != nil {
		return err
	}
	if err := ValidateMkfsOptions(r.FSType, r.MkfsOptions); err != nil {
		return err
	}
	switch r.State {
	case StateNew, Formatted(r.FSType):
	case Formatted(Ext4), Formatted(XFS), Formatted(Btrfs), StateRaw:
		return invalidf("the volume was formatted as %s, asked for %s", r.State, r.FSType)
	default:
		return invalidf("volume state %q", r.State)
	}
	if r.ReadOnly && slices.Contains(r.MountFlags, "rw") {
		return invalidf("mount flag rw on a read-only volume")
	}
	return ValidateMountFlags(r.MountFlags)
}

// Stage mounts a volume's filesystem at its staging path. It formats a volume that was never
// formatted, gives a copy its own UUID, and grows a filesystem that is smaller than its device. A volume
// that is staged there already is left as it is.
//
// Errors: ErrInvalid, ErrKey, ErrConflict, ErrForeign, ErrCorrupted, ErrUnclean, ErrBusy, *CommandError.
func (m *Mounter) Stage(ctx context.Context, r StageRequest) error {
	if err := r.validateFilesystem(); err != nil {
		return fmt.Errorf("stage %s: %w", r.Device, err)
	}
	path, err := m.resolve(r.StagingPath)
	if err != nil {
		return fmt.Errorf("stage %s: %w", r.Device, err)
	}
	if err := m.stage(ctx, r, path); err != nil {
		return fmt.Errorf("stage %s at %s: %w", r.Device, r.StagingPath, err)
	}
	return nil
}

func (m *Mounter) stage(ctx context.Context, r StageRequest, path string) error {
	device := r.Device
	staged, err := m.alreadyStaged(ctx, r, path)
	if err != nil {
		return err
	}
	if staged && r.Encryption != nil {
		device = MappedDevice(r.Encryption.Name)
	}
	if !staged {
		if device, err = m.prepare(ctx, r, path); err != nil {
			return err
		}
		if err = m.mountStaged(ctx, r, device, path); err != nil {
			return err
		}
	}
	if r.ReadOnly || slices.Contains(r.MountFlags, "ro") {
		return nil
	}
	return m.growIfSmaller(ctx, device, path, r.FSType)
}

func (m *Mounter) mountStaged(ctx context.Context, r StageRequest, device, path string) error {
	super, err := m.kernel.Superblock(device, r.FSType)
	if err != nil {
		return err
	}
	if super.Errors {
		if err := m.fsckExt4(ctx, device); err != nil {
			return err
		}
	}
	if err := ensureDir(path); err != nil {
		return err
	}
	flags := slices.Clone(r.MountFlags)
	if r.ReadOnly && !slices.Contains(flags, "ro") {
		flags = append(flags, "ro")
	}
	return m.mounts.Mount(device, path, string(r.FSType), flags)
}

// alreadyStaged tells whether this volume is mounted at path, ready for use.
func (m *Mounter) alreadyStaged(ctx context.Context, r StageRequest, path string) (bool, error) {
	device := r.Device
	if r.Encryption != nil {
		device = MappedDevice(r.Encryption.Name)
	}
	at, mounted, err := m.mountedFrom(device, path)
	if err != nil || !mounted {
		return false, err
	}
	if r.Encryption != nil {
		if _, err := m.mapped(ctx, r.Encryption.Name, r.Device); err != nil {
			return false, err
		}
	}
	if r.ReadOnly && !slices.Contains(at.Opts, "ro") {
		return false, fmt.Errorf("%w: it is mounted read-write", ErrConflict)
	}
	if !r.Copied {
		return true, nil
	}
	// A copy is mounted here for a moment to replay its log before it gets its UUID. Such a mount,
	// left by a crash, was never handed out.
	found, err := m.Probe(ctx, device)
	if err != nil {
		return false, err
	}
	if found.UUID == r.WantUUID {
		return true, nil
	}
	return false, m.unmount(path)
}

// prepare returns the device that holds the volume's filesystem, ready to be mounted.
func (m *Mounter) prepare(ctx context.Context, r StageRequest, path string) (string, error) {
	if r.State == StateNew && r.ReadOnly {
		return "", invalidf("the volume was never formatted and is to be mounted read-only")
	}
	device := r.Device
	if r.Encryption != nil {
		var err error
		if device, err = m.openLUKS(ctx, r); err != nil {
			return "", err
		}
	}
	plan := mkfsPlan{device: device, fsType: r.FSType, uuid: r.WantUUID, options: r.MkfsOptions, prezeroed: r.Prezeroed}
	if r.Encryption != nil && r.State == StateNew {
		// The LUKS2 header was made in this very call, so what lies inside is noise, and noise may look
		// like a signature. Zeros of the volume do not decrypt to zeros.
		plan.force, plan.prezeroed = true, nil
		return device, m.format(ctx, r, plan)
	}
	found, err := m.Probe(ctx, device)
	if err != nil {
		return "", err
	}
	action, err := decide(r, device, found)
	if err != nil {
		return "", err
	}
	switch action {
	case actFormat, actFormatAgain:
		plan.force = action == actFormatAgain
		return device, m.format(ctx, r, plan)
	case actNewUUID:
		// Programs work on a copy before it is mounted, and e2fsck opens what it names.
		if _, err := m.kernel.Superblock(device, r.FSType); err != nil {
			return "", err
		}
		return device, m.ensureUUID(ctx, uuidPlan{device: device, path: path, fsType: r.FSType, found: found.UUID, want: r.WantUUID})
	}
	return device, nil
}

func (m *Mounter) format(ctx context.Context, r StageRequest, plan mkfsPlan) error {
	if err := m.mkfs(ctx, plan); err != nil {
		return err
	}
	if err := r.MarkFormatted(context.WithoutCancel(ctx), Formatted(r.FSType)); err != nil {
		return fmt.Errorf("record %s: %w", r.FSType, err)
	}
	return nil
}

type action int

const (
	actMount action = iota
	actFormat
	actFormatAgain
	actNewUUID
)

// decide is the rule of the package: what may be done to a device on which found was found.
func decide(r StageRequest, device string, found Signature) (action, error) {
	ours := found.Type == string(r.FSType) && found.UUID == r.WantUUID && found.PTType == ""
	switch {
	case r.State == StateNew && !found.Found():
		return actFormat, nil
	case r.State == StateNew && ours:
		return actFormatAgain, nil
	case r.State == StateNew:
		return 0, &ForeignError{Device: device, Found: found, Expected: "nothing, because the volume was never formatted"}
	case found.Type == string(r.FSType) && r.Copied:
		return actNewUUID, nil
	case ours:
		return actMount, nil
	default:
		return 0, &ForeignError{Device: device, Found: found, Expected: string(r.FSType) + " with UUID " + r.WantUUID}
	}
}
