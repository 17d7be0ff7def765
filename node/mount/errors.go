package mount

import (
	"errors"
	"fmt"
)

var (
	// ErrInvalid is a bad argument: an option, a path, a size, a filesystem type.
	ErrInvalid = errors.New("invalid argument")
	// ErrKey is a LUKS key that opens no key slot.
	ErrKey = errors.New("wrong encryption key")
	// ErrBusy is a mount or a mapping that something still uses.
	ErrBusy = errors.New("in use")
	// ErrConflict is a path on which something else is mounted.
	ErrConflict = errors.New("conflict")
	// ErrForeign is a device that holds something other than what this volume must hold.
	ErrForeign = errors.New("unexpected content")
	// ErrCorrupted is a mount point that is there but whose filesystem does not answer.
	ErrCorrupted = errors.New("corrupted mount point")
	// ErrNotMounted is a path on which nothing is mounted.
	ErrNotMounted = errors.New("not mounted")
	// ErrUnclean is a filesystem that its checker could not repair by itself.
	ErrUnclean = errors.New("damaged filesystem")
)

// ForeignError says what a device holds and what this volume must hold. It wraps [ErrForeign].
// A person must look; nothing was changed.
type ForeignError struct {
	Device   string
	Found    Signature
	Expected string
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%s holds %s, expected %s: left untouched", e.Device, e.Found, e.Expected)
}

func (e *ForeignError) Unwrap() error { return ErrForeign }

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}
