package lvm

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// deaf is a Kernel whose disk does not answer until it is let go.
type deaf struct {
	Kernel // nil
	let    chan struct{}
	reads  atomic.Int32
}

func (d *deaf) ReadMetadata(DevicePath, Generation) (RawMetadata, error) {
	d.reads.Add(1)
	<-d.let
	return RawMetadata{}, ErrNotFound
}

// A disk that hangs keeps nobody for long, and one read is all that hangs with it.
func TestHungDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &deaf{let: make(chan struct{})}
		c := New(hung{}, k, Options{})
		one := Group{Name: VGName{"a"}, Devices: groupOf("a").Devices[:1]}
		for i, want := range []time.Duration{diskTime, 0} {
			began := time.Now()
			_, err := c.ReadVG(one)
			if !errors.Is(err, ErrPending) || !strings.Contains(err.Error(), "the disk hangs, or its device is suspended") {
				t.Errorf("read %d: %v", i, err)
			}
			if took := time.Since(began); took != want {
				t.Errorf("read %d took %v, want %v", i, took, want)
			}
		}
		if n := k.reads.Load(); n != 1 {
			t.Errorf("%d reads were begun", n)
		}
		close(k.let)
		synctest.Wait()
		if _, err := c.ReadVG(one); !errors.Is(err, ErrNotFound) {
			t.Errorf("when it answers: %v", err)
		}
	})
}

// hung is a Runner whose commands do not end, killed or not, until they are let go.
type hung struct {
	Runner // nil
	let    chan struct{}
}

func (h hung) Run(context.Context, Command) (Result, error) {
	<-h.let
	return Result{Stdout: []byte(`{"report":[]}`)}, nil
}

// A command that does not end is told of once, and is named to whoever asks; nothing
// is started on top of it.
func TestStuck(t *testing.T) {
	for name, test := range map[string]struct {
		call    func(context.Context, *Client) error
		command string
		vg      VGName
		gives   string // what its caller is told, if it gives up by itself
	}{
		"change": {
			func(ctx context.Context, c *Client) error { return c.LVRemove(ctx, groupOf("a"), LVName{"x"}) },
			"lvremove", VGName{"a"}, "lvremove on a: command still running after 10m0s",
		},
		"read": {
			func(ctx context.Context, c *Client) error { _, err := c.FullReport(ctx); return err },
			"fullreport", VGName{}, "fullreport: command still running although it was killed: does a disk hang",
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := hung{let: make(chan struct{})}
				told := make(chan Running, 2)
				c := New(h, &flushes{}, Options{Stuck: func(r Running) { told <- r }})
				began := time.Now()
				first := make(chan error, 1)
				go func() { first <- test.call(t.Context(), c) }()
				time.Sleep(StuckAfter - time.Second)
				if _, stuck := c.Stuck(test.vg); stuck || len(told) > 0 {
					t.Error("it is stuck too early")
				}
				time.Sleep(time.Second)
				synctest.Wait()
				want := Running{test.vg, test.command, began}
				if r, stuck := c.Stuck(test.vg); !stuck || r != want {
					t.Errorf("stuck %t: %+v, want %+v", stuck, r, want)
				}
				if got := <-told; got != want {
					t.Errorf("told of %+v, want %+v", got, want)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if err := test.call(ctx, c); !errors.Is(err, ErrPending) || !strings.Contains(err.Error(), test.command+" has run for 1m1s") {
					t.Errorf("the next call: %v", err)
				}
				if err := <-first; !errors.Is(err, ErrPending) || !strings.Contains(err.Error(), test.gives) {
					t.Errorf("the first call: %v", err)
				}
				close(h.let)
				synctest.Wait()
				if err := test.call(t.Context(), c); err != nil {
					t.Errorf("after it ended: %v", err)
				}
				if r := c.Running(); len(r) > 0 || len(told) > 0 {
					t.Errorf("running %+v, told %d times more", r, len(told))
				}
			})
		})
	}
}
