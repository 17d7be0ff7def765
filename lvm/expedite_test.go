package lvm

import (
	"os"
	"path/filepath"
	"testing"
)

func TestExpedite(t *testing.T) {
	for _, before := range []string{"0\n", "1\n"} {
		path := filepath.Join(t.TempDir(), "rcu_expedited")
		if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		is := func(when, want string) {
			t.Helper()
			if got, err := os.ReadFile(path); err != nil || string(got) != want {
				t.Errorf("%s: %q, want %q (%v)", when, got, want, err)
			}
		}
		var e expedite
		first, second := e.set(path), e.set(path)
		is("both", "1\n")
		first()
		first()
		is("the second", "1\n")
		second()
		is("nobody", before)
	}
}

func TestExpediteCannot(t *testing.T) {
	var e expedite
	path := filepath.Join(t.TempDir(), "missing")
	e.set(path)()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the switch was made: %v", err)
	}
}
