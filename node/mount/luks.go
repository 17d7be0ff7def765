package mount

import (
	"context"
	"crypto/sha1"
	"fmt"
	"regexp"
	"strings"
)

// luksOverhead is what a LUKS2 header takes, and room to spare for the smallest content.
const luksOverhead = 32 * mib

// Key is a LUKS passphrase. It prints as a placeholder and reaches cryptsetup on standard input alone.
type Key []byte

// String hides the key.
func (Key) String() string { return "[redacted]" }

// GoString hides the key from %#v.
func (Key) GoString() string { return "[redacted]" }

// Format hides the key from every verb, %x too.
func (Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[redacted]")) }

// MarshalText hides the key from structured logs.
func (Key) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// Encryption opens a volume with LUKS2. Name comes from [LUKSName].
type Encryption struct {
	Name string
	Key  Key
}

const maxKey = 8 << 20 // cryptsetup's limit for a key file

func (e *Encryption) validate() error {
	if len(e.Key) == 0 || len(e.Key) > maxKey {
		return invalidf("encryption key of %d bytes", len(e.Key))
	}
	return validateLUKSName(e.Name)
}

// luksName stays below device-mapper's 127 characters.
var luksName = regexp.MustCompile(`^luks-[A-Za-z0-9_][A-Za-z0-9_.+-]{0,119}$`)

// LUKSName returns the name of the mapping that belongs to a logical volume.
func LUKSName(lvName string) (string, error) {
	name := "luks-" + lvName
	return name, validateLUKSName(name)
}

func validateLUKSName(name string) error {
	if !luksName.MatchString(name) || strings.Contains(name, "..") {
		return invalidf("encryption mapping name %q", name)
	}
	return nil
}

// MappedDevice returns the device of an open mapping.
func MappedDevice(name string) string { return "/dev/mapper/" + name }

// luksUUID derives the header's UUID from that of the filesystem inside (RFC 9562 version 5): the two
// must differ, or /dev/disk/by-uuid names either of them.
func luksUUID(want string) string {
	sum := sha1.Sum([]byte("lamina luks2 " + want))
	sum[6], sum[8] = sum[6]&0x0f|0x50, sum[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// StageBlock prepares a raw block volume and returns the device to publish. Without encryption that is
// the volume's own device, and nothing is touched.
func (m *Mounter) StageBlock(ctx context.Context, r StageRequest) (string, error) {
	device, err := m.stageBlock(ctx, r)
	if err != nil {
		return "", fmt.Errorf("stage %s: %w", r.Device, err)
	}
	return device, nil
}

func (m *Mounter) stageBlock(ctx context.Context, r StageRequest) (string, error) {
	if r.Encryption == nil {
		return r.Device, validateDevice(r.Device)
	}
	if err := r.validate(); err != nil {
		return "", err
	}
	if r.State != StateNew && r.State != StateRaw {
		return "", invalidf("the volume was formatted as %s, asked for a block volume", r.State)
	}
	device, err := m.openLUKS(ctx, r)
	if err != nil || r.State == StateRaw {
		return device, err
	}
	if err := r.MarkFormatted(context.WithoutCancel(ctx), StateRaw); err != nil {
		return "", fmt.Errorf("record %s: %w", StateRaw, err)
	}
	return device, nil
}

// openLUKS opens the volume's mapping and returns its device. A volume that was never formatted gets a
// new header first, under the same rule as mkfs: the header's UUID tells an unfinished one of ours.
func (m *Mounter) openLUKS(ctx context.Context, r StageRequest) (string, error) {
	name, uuid := r.Encryption.Name, luksUUID(r.WantUUID)
	open, err := m.mapped(ctx, name, r.Device)
	if err != nil {
		return "", err
	}
	if open && r.State != StateNew {
		return MappedDevice(name), nil
	}
	if open {
		// Opened and never used: mkfs did not complete. The key may be another one by now.
		if err := m.closeLUKS(ctx, name); err != nil {
			return "", err
		}
	}
	found, err := m.Probe(ctx, r.Device)
	if err != nil {
		return "", err
	}
	ours := found.Type == "crypto_LUKS" && found.UUID == uuid
	switch {
	case r.State == StateNew && (ours || !found.Found()):
		err = m.formatLUKS(ctx, r, uuid)
	case r.State == StateNew:
		err = &ForeignError{Device: r.Device, Found: found, Expected: "nothing, because the volume was never formatted"}
	case found.Type == "crypto_LUKS" && r.Copied && !ours:
		_, err = m.mutate(ctx, Command{Name: "cryptsetup", Args: []string{"luksUUID", "--batch-mode", "--uuid", uuid, "--", r.Device}})
	case !ours:
		err = &ForeignError{Device: r.Device, Found: found, Expected: "crypto_LUKS with UUID " + uuid}
	}
	if err != nil {
		return "", err
	}
	return MappedDevice(name), m.unlock(ctx, r)
}

// formatLUKS makes a LUKS2 header. The key derivation is argon2id with 64 MiB, four passes, one lane:
// more than OWASP's minimum (46 MiB, one pass), fixed instead of measured, because a measurement on a
// busy node gives a weak header and one on a strong node (up to 1 GiB) cannot be opened on a small one.
func (m *Mounter) formatLUKS(ctx context.Context, r StageRequest, uuid string) error {
	size, err := m.kernel.DeviceSize(r.Device)
	if err != nil {
		return fmt.Errorf("size of %s: %w", r.Device, err)
	}
	if size < luksOverhead {
		return invalidf("%s has %d bytes, encryption needs at least %d", r.Device, size, luksOverhead)
	}
	_, err = m.mutate(ctx, Command{Name: "cryptsetup", Stdin: r.Encryption.Key, Args: []string{
		"luksFormat", "--batch-mode", "--type", "luks2", "--uuid", uuid,
		"--cipher", "aes-xts-plain64", "--key-size", "512",
		"--pbkdf", "argon2id", "--pbkdf-memory", "65536", "--pbkdf-parallel", "1", "--pbkdf-force-iterations", "4",
		"--key-file", "-", "--", r.Device,
	}})
	if err != nil {
		return fmt.Errorf("make LUKS2 header: %w", err)
	}
	return nil
}

// Exit codes of cryptsetup(8).
const (
	cryptsetupNoPermission = 2 // wrong passphrase
	cryptsetupNoDevice     = 4
	cryptsetupBusy         = 5
)

// unlock opens the mapping. Discards pass through, so that a thin pool gets its space back; the price
// is that someone who holds the disk sees which blocks are in use, which the pool's own metadata tells
// anyway. The volume key stays in the kernel's table and not in a keyring, so that growing needs no key.
func (m *Mounter) unlock(ctx context.Context, r StageRequest) error {
	_, err := m.mutate(ctx, Command{Name: "cryptsetup", Stdin: r.Encryption.Key, Args: []string{
		"open", "--batch-mode", "--type", "luks2", "--key-file", "-", "--disable-keyring", "--allow-discards",
		"--", r.Device, r.Encryption.Name,
	}})
	if exitCode(err) == cryptsetupNoPermission {
		return fmt.Errorf("%w: %s does not open with it", ErrKey, r.Device)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", r.Device, err)
	}
	return nil
}

// mapped tells whether the mapping is open over device. Over another device it is ErrConflict.
func (m *Mounter) mapped(ctx context.Context, name, device string) (bool, error) {
	_, err := m.read(ctx, "cryptsetup", "status", "--", name)
	if exitCode(err) == cryptsetupNoDevice {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("status of %s: %w", name, err)
	}
	// The status names the device under it only where udev keeps links: the kernel knows for certain.
	ours, err := m.kernel.LiesOn(MappedDevice(name), device)
	if err != nil {
		return false, fmt.Errorf("find what is under %s: %w", name, err)
	}
	if !ours {
		return false, fmt.Errorf("%w: mapping %s does not lie on %s", ErrConflict, name, device)
	}
	return true, nil
}

// closeLUKS closes a mapping; one that is not open is fine, one in use is ErrBusy.
func (m *Mounter) closeLUKS(ctx context.Context, name string) error {
	if err := validateLUKSName(name); err != nil {
		return err
	}
	_, err := m.mutate(ctx, Command{Name: "cryptsetup", Args: []string{"close", "--", name}})
	switch exitCode(err) {
	case cryptsetupNoDevice:
		return nil
	case cryptsetupBusy:
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return err
}

// resizeLUKS grows the mapping. cryptsetup looks for the device under it in /dev/mapper, where lvm or udev
// keeps every active volume, and fails without a word of why if it is not there.
func (m *Mounter) resizeLUKS(ctx context.Context, name, device string) error {
	if err := validateLUKSName(name); err != nil {
		return err
	}
	open, err := m.mapped(ctx, name, device)
	if err != nil {
		return err
	}
	if !open {
		return fmt.Errorf("%w: mapping %s is not open", ErrNotMounted, name)
	}
	if _, err := m.mutate(ctx, Command{Name: "cryptsetup", Args: []string{"resize", "--batch-mode", "--", name}}); err != nil {
		return fmt.Errorf("resize %s: %w", name, err)
	}
	return nil
}
