package lvm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseText(t *testing.T) {
	const text = `# comment
vg { id = "a-b" seqno=7
  flags = [] tags = ["x=1","y\"\\"]
  stripes = [
	"pv0", 12
  ]
  empty {}
  sub{deep{n=-1}} # end
}
contents = "Text" # no newline at the end` + "\x00"
	want := section{
		"vg": section{
			"id": "a-b", "seqno": int64(7), "flags": []any{}, "tags": []any{"x=1", `y"\`},
			"stripes": []any{"pv0", int64(12)}, "empty": section{}, "sub": section{"deep": section{"n": int64(-1)}},
		},
		"contents": "Text",
	}
	got, err := parseText(text)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v %s", err, diff)
	}
}

func TestParseTextErrors(t *testing.T) {
	for _, text := range []string{
		"a", "a {", "a = ", "a = x", `a = "x`, "a = [1", "a = [1 2]", "a = [,]", "}", "{", "= 1", "a = 1 = 2", "a { } }",
		`a = "\`, "a = 99999999999999999999", "[", strings.Repeat("a {", 100_000),
	} {
		if s, err := parseText(text); err == nil {
			t.Errorf("%.20q was read as %v", text, s)
		}
	}
}

// Few bytes of text for each value, of which each takes much memory: refused long
// before all of it is read.
func TestParseTextBombs(t *testing.T) {
	const n = maxNodes + 1
	var keys strings.Builder
	for i := range n {
		fmt.Fprintf(&keys, "%x{}", i)
	}
	for name, text := range map[string]string{
		"numbers":       "a = [" + strings.Repeat("1,", n),
		"strings":       "a = [" + strings.Repeat(`"",`, n),
		"sections":      keys.String(),
		"the same key":  strings.Repeat("a{}", n),
		"deep sections": strings.Repeat("a{", n),
	} {
		if _, err := parseText(text); err == nil || len(err.Error()) > 200 {
			t.Errorf("%s: %.200v", name, err)
		}
	}
}
