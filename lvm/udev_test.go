package lvm

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The socket of a udevd that was killed is there and nobody listens.
func TestAnswers(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control")
	if answers(socket) {
		t.Error("a missing socket answers")
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	for range 3 { // nobody accepts: the queue fills
		if !answers(socket) {
			t.Error("it does not answer")
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if answers(socket) {
		t.Error("the socket that a dead process left answers")
	}
}

// A cookie waits until it is counted down, as dmsetup udevcomplete does it.
func TestCookie(t *testing.T) {
	c, err := newCookie()
	if err != nil {
		t.Fatal(err)
	}
	defer c.remove()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := c.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("unanswered it ends with %v", err)
	}
	down := struct { // struct sembuf
		num     uint16
		op, flg int16
	}{op: -1}
	if _, _, errno := unix.Syscall(unix.SYS_SEMOP, c.id, uintptr(unsafe.Pointer(&down)), 1); errno != 0 {
		t.Fatal(errno)
	}
	if err := c.wait(t.Context()); err != nil {
		t.Error(err)
	}
}
