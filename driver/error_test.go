package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/node/mount"
	"github.com/lamina-csi/lamina/node/pool"
)

func TestErrorCodes(t *testing.T) {
	wrap := func(errs ...error) error { return fmt.Errorf("create x: %w", errors.Join(errs...)) }
	for _, tt := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{wrap(pool.ErrNotFound), codes.NotFound},
		{wrap(pool.ErrNoSpace), codes.ResourceExhausted},
		{wrap(pool.ErrBusy), codes.FailedPrecondition},
		{wrap(mount.ErrKey), codes.InvalidArgument},
		{wrap(mount.ErrUnclean), codes.Internal},
		{wrap(context.DeadlineExceeded), codes.DeadlineExceeded},
		{&fs.PathError{Op: "open", Path: "x", Err: fs.ErrNotExist}, codes.FailedPrecondition},
		{errors.New("lvcreate: exit 5: it said nothing"), codes.Internal},
		{invalid("x"), codes.InvalidArgument},
		// What is pending or cannot be seen is never taken for an absence or a want
		// of space, whatever else the error says.
		{wrap(pool.ErrNotFound, pool.ErrUnavailable), codes.Unavailable},
		{wrap(pool.ErrNoSpace, pool.ErrUnavailable), codes.Unavailable},
		{wrap(pool.ErrPending, context.DeadlineExceeded), codes.Aborted},
		{wrap(pool.ErrUnavailable, lvm.ErrNotFound), codes.Unavailable},
		{wrap(lvm.ErrNotFound), codes.Unavailable},
	} {
		if got := status.Code(toStatus(tt.err)); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.err, got, tt.want)
		}
	}
}

// A call that waits for an earlier one about its volume ends with its context.
func TestPendingVolume(t *testing.T) {
	id, err := pool.ParseID("AAAAAA-BBBB-CCCC-DDDD-EEEE-FFFF-GGGGGG/v-1")
	if err != nil {
		t.Fatal(err)
	}
	var k keyLock
	unlock, err := k.lock(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.lock(ctx, id); status.Code(toStatus(err)) != codes.Aborted {
		t.Errorf("while it is held: %v", err)
	}
	unlock()
	if unlock, err = k.lock(ctx, id); err != nil {
		t.Fatal(err)
	}
	unlock()
}
