package pool

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/lamina-csi/lamina/lvm/lvmtest"
)

// What a volume has written is discarded when it is deleted; one that has written
// nothing is not opened for that.
func TestDiscardOnDelete(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	discards := 0
	n.host.OnStep(func(s lvmtest.Step) error {
		if s.Call == "discard" && s.Point == lvmtest.Before {
			discards++
		}
		return nil
	})
	for _, tt := range []struct {
		name  string
		write bool
		want  int
	}{{"untouched", false, 0}, {"written", true, 1}} {
		discards = 0
		v := n.create(t, CreateVolume{Name: tt.name, Required: 64 * mib})
		if tt.write {
			write(t, n.device(t, v.ID), "data")
		}
		if err := n.DeleteVolume(t.Context(), v.ID); err != nil {
			t.Fatal(err)
		}
		if discards != tt.want {
			t.Errorf("%s volume: %d discards, want %d", tt.name, discards, tt.want)
		}
	}
}

// A delete whose caller gave up goes on, and the next one, which has seen the volume
// before it went, succeeds too.
func TestDeleteBehindAnAbandonedOne(t *testing.T) {
	n := newNode(t, spec(), "/dev/nvme0n1")
	v := n.create(t, CreateVolume{Name: "a", Required: 64 * mib})
	write(t, n.device(t, v.ID), "data")
	started, goOn := make(chan struct{}), make(chan struct{})
	var removals, discards atomic.Int32
	n.host.OnStep(func(s lvmtest.Step) error {
		switch {
		case s.Command.Name == "lvremove" && s.Point == lvmtest.Before && removals.Add(1) == 1:
			close(started)
			<-goOn
		case s.Call == "discard" && s.Point == lvmtest.After && discards.Add(1) == 2:
			close(goOn) // the second call has found the volume
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- n.DeleteVolume(ctx, v.ID) }()
	<-started
	cancel()
	if err := <-first; !errors.Is(err, ErrPending) {
		t.Fatalf("the abandoned call: %v, want %v", err, ErrPending)
	}
	write(t, n.device(t, v.ID), "more") // so that the second call has something to discard
	if err := n.DeleteVolume(t.Context(), v.ID); err != nil {
		t.Fatal(err)
	}
	if removals.Load() != 2 {
		t.Errorf("%d removals, want two: the second call did not see the volume", removals.Load())
	}
}
