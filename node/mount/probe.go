package mount

import (
	"context"
	"fmt"
	"strings"
)

// Signature is what blkid found on a device. The zero value means that it found nothing.
type Signature struct {
	Type, UUID, Usage, Label, PTType string
}

// Found tells whether the device holds anything that blkid knows.
func (s Signature) Found() bool { return s != Signature{} }

// String names the content for a person.
func (s Signature) String() string {
	switch {
	case !s.Found():
		return "nothing"
	case s.Type == "" && s.PTType != "":
		return "a " + s.PTType + " partition table"
	case s.Type == "":
		return "something that blkid does not name"
	case s.UUID == "":
		return s.Type
	default:
		return s.Type + " with UUID " + s.UUID
	}
}

// Exit codes of blkid(8).
const (
	blkidNotFound  = 2
	blkidAmbiguous = 8
)

// Probe reads the signature on a device itself, past blkid's cache. Several signatures that
// contradict each other are an error, and so is a device that cannot be read.
func (m *Mounter) Probe(ctx context.Context, device string) (Signature, error) {
	if err := validateDevice(device); err != nil {
		return Signature{}, err
	}
	result, err := m.read(ctx, "blkid", "-p", "-o", "export", "--", device)
	switch exitCode(err) {
	case blkidNotFound:
		// blkid exits with 2, and in silence, also when it cannot open or read the device.
		if err := m.kernel.CheckReadable(device); err != nil {
			return Signature{}, fmt.Errorf("probe %s: %w", device, err)
		}
		return Signature{}, nil
	case blkidAmbiguous:
		return Signature{}, fmt.Errorf("probe %s: %w: several signatures that contradict each other", device, ErrForeign)
	}
	if err != nil {
		return Signature{}, fmt.Errorf("probe %s: %w", device, err)
	}
	found, err := parseSignature(result.Stdout)
	if err != nil {
		return Signature{}, fmt.Errorf("probe %s: %w", device, err)
	}
	return found, nil
}

// parseSignature reads "blkid -o export". Success without a known line is an error: it must never
// pass for an empty device.
func parseSignature(text []byte) (Signature, error) {
	var s Signature
	fields := map[string]*string{
		"TYPE": &s.Type, "UUID": &s.UUID, "USAGE": &s.Usage, "LABEL": &s.Label, "PTTYPE": &s.PTType,
	}
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(strings.TrimRight(line, "\n"), "=")
		if field := fields[key]; ok && field != nil {
			*field = value
		}
	}
	if s.Type == "" && s.PTType == "" {
		return Signature{}, fmt.Errorf("blkid found something and names neither type nor partition table: %.200q", text)
	}
	return s, nil
}

// validateDevice accepts an absolute path below /dev without tricks. It reaches command lines.
func validateDevice(device string) error {
	if !strings.HasPrefix(device, "/dev/") || strings.Contains(device, "..") || !plainPath(device) {
		return invalidf("device path %q", device)
	}
	return nil
}
