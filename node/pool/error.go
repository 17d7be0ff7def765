package pool

import (
	"context"
	"errors"
	"fmt"

	"github.com/lamina-csi/lamina/lvm"
)

// What an error of this package means to its caller. Test with errors.Is.
var (
	// ErrInvalid: the request contradicts itself or names what cannot be.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound: the volume, snapshot or pool is known not to exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the name is taken by something that does not fit the request.
	ErrConflict = errors.New("exists already and differs")
	// ErrOutOfRange: a size that this node can never give.
	ErrOutOfRange = errors.New("out of range")
	// ErrNoSpace: the pool has no room for it now.
	ErrNoSpace = errors.New("no space left")
	// ErrBusy: the volume is in use and cannot be changed so.
	ErrBusy = errors.New("in use")
	// ErrUnavailable: it cannot be seen now. It may well exist.
	ErrUnavailable = errors.New("not available")
	// ErrPending: an earlier command about it has not ended.
	ErrPending = errors.New("operation still pending")
	// ErrAborted: it was cut short, nobody was told of what it left, and it can be
	// asked for again.
	ErrAborted = errors.New("cut short")
	// ErrForeign: it is there, but Lamina did not make it.
	ErrForeign = errors.New("not made by Lamina")
)

// wrap says what was being done and turns an error of package lvm into one of
// this package's.
func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	kind := error(nil)
	for _, m := range []struct{ from, to error }{
		{lvm.ErrPending, ErrPending},
		{lvm.ErrNoSpace, ErrNoSpace},
		{lvm.ErrCopied, ErrUnavailable},
		{lvm.ErrDamaged, ErrUnavailable},
		{lvm.ErrInUse, ErrBusy},
		// Package pool checks what it is asked for: this is what LVM or the kernel said.
		{lvm.ErrInvalid, ErrUnavailable},
		// What lvm cannot find is not thereby known to be gone.
		{lvm.ErrNotFound, ErrUnavailable},
		{lvm.ErrExists, ErrConflict},
		{context.DeadlineExceeded, ErrPending},
		{context.Canceled, ErrPending},
	} {
		if errors.Is(err, m.from) {
			kind = m.to
			break
		}
	}
	if kind == nil {
		return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), err)
	}
	return fmt.Errorf("%s: %w: %w", fmt.Sprintf(format, args...), kind, err)
}
