package lvm

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
)

// ends is a Runner whose commands end so.
type ends struct{ exit int }

func (e *ends) Run(context.Context, Command) (Result, error) { return Result{Exit: e.exit}, nil }

// A command that fails is followed at once by the repair of its group, before any
// other command can change it.
func TestOnFailure(t *testing.T) {
	runner := &ends{}
	c := New(runner, &flushes{}, Options{})
	var mended []string
	c.OnFailure(func(g Group) error {
		if len(c.Running()) != 1 {
			t.Error("the group is not locked")
		}
		mended = append(mended, g.Name.String())
		return errors.New("not all of it")
	})
	if err := c.LVRemove(t.Context(), groupOf("a"), LVName{"x"}); err != nil || len(mended) != 0 {
		t.Errorf("%v, mended %v", err, mended)
	}
	runner.exit = 128 + 9
	err := c.LVRemove(t.Context(), groupOf("b"), LVName{"x"})
	if err == nil || !strings.Contains(err.Error(), "signal 9") || !strings.Contains(err.Error(), "not all of it") {
		t.Errorf("error %v", err)
	}
	if !slices.Equal(mended, []string{"b"}) {
		t.Errorf("mended %v", mended)
	}
}
