package lvm

import (
	"net"
	"path/filepath"
	"testing"
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
