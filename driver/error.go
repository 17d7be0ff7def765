package driver

import (
	"context"
	"errors"
	"io/fs"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/node/cgroup"
	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/pool"
)

// errorCodes is the one place where an error of the domain gets a gRPC code. The
// first row that fits counts: what cannot be known now stands before what is
// known, so that an error that is both is never taken for an absence.
var errorCodes = []struct {
	err  error
	code codes.Code
}{
	{pool.ErrPending, codes.Aborted},
	{pool.ErrAborted, codes.Aborted},
	{pool.ErrUnavailable, codes.Unavailable},

	{pool.ErrNoSpace, codes.ResourceExhausted},
	{pool.ErrOutOfRange, codes.OutOfRange},
	{pool.ErrInvalid, codes.InvalidArgument},
	{pool.ErrForeign, codes.FailedPrecondition},
	{pool.ErrBusy, codes.FailedPrecondition},
	{pool.ErrConflict, codes.AlreadyExists},
	{pool.ErrNotFound, codes.NotFound},

	// Package pool translates these; whatever slips through keeps its meaning. What
	// lvm cannot find is not thereby known to be gone.
	{lvm.ErrPending, codes.Aborted},
	{lvm.ErrNotFound, codes.Unavailable},
	{lvm.ErrCopied, codes.Unavailable},
	{lvm.ErrDamaged, codes.Unavailable},
	{lvm.ErrNoSpace, codes.ResourceExhausted},
	{lvm.ErrInUse, codes.FailedPrecondition},
	{lvm.ErrExists, codes.AlreadyExists},
	{lvm.ErrInvalid, codes.InvalidArgument},

	{mount.ErrKey, codes.InvalidArgument},
	{mount.ErrInvalid, codes.InvalidArgument},
	{mount.ErrForeign, codes.FailedPrecondition}, // a person must look
	{mount.ErrCorrupted, codes.Internal},
	{mount.ErrUnclean, codes.Internal},
	{mount.ErrBusy, codes.FailedPrecondition},
	{mount.ErrConflict, codes.AlreadyExists},
	{mount.ErrNotMounted, codes.FailedPrecondition},

	{cgroup.ErrInvalid, codes.FailedPrecondition}, // kubelet's path, not the request
	{cgroup.ErrNoLimit, codes.FailedPrecondition},

	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	// A path of kubelet's, or a device, that should be there and is not.
	{fs.ErrNotExist, codes.FailedPrecondition},
}

// toStatus gives an error its code. One that the table does not know is Internal.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, done := err.(interface{ GRPCStatus() *status.Status }); done {
		return err
	}
	for _, row := range errorCodes {
		if errors.Is(err, row.err) {
			return status.Error(row.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}

// invalid is an error about the request itself.
func invalid(format string, args ...any) error {
	return status.Errorf(codes.InvalidArgument, format, args...)
}

// absentFrom turns the errors that mean "this volume is not at that path" into
// the code that the specification wants for it (NodeGetVolumeStats errors,
// NodeExpandVolume errors).
func absentFrom(err error, id pool.ID, path string) error {
	for _, e := range []error{mount.ErrNotMounted, mount.ErrConflict, mount.ErrInvalid, fs.ErrNotExist} {
		if errors.Is(err, e) {
			return status.Errorf(codes.NotFound, "volume %s is not at path %.200q: %v", id, path, err)
		}
	}
	return err
}
