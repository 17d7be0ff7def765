package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadBack(t *testing.T) {
	type frame struct {
		Kind Kind
		Data string
	}
	want := []frame{{Ready, ""}, {Stdout, "a line\n"}, {File, string(make([]byte, MaxPayload))}, {Exit, "3"}}
	var buf bytes.Buffer
	for _, f := range want {
		if err := Write(&buf, f.Kind, []byte(f.Data)); err != nil {
			t.Fatal(err)
		}
	}
	var got []frame
	for {
		kind, data, err := Read(&buf)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, frame{kind, string(data)})
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestBadFrames(t *testing.T) {
	if err := Write(io.Discard, Stdout, make([]byte, MaxPayload+1)); !errors.Is(err, ErrFrame) {
		t.Errorf("Write of too much = %v, want ErrFrame", err)
	}
	for name, in := range map[string]string{
		"too long": "o\xff\xff\xff\xff",
		"cut off":  "o\x00\x00\x00\x05ab",
		"no data":  "o\x00\x00\x00\x05",
	} {
		if _, _, err := Read(bytes.NewReader([]byte(in))); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: Read() = %v, want ErrFrame", name, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("o\x00\x00\x00\x02hi"))
	f.Fuzz(func(t *testing.T, in []byte) {
		kind, data, err := Read(bytes.NewReader(in))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := Write(&out, kind, data); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(in, out.Bytes()) {
			t.Errorf("read %q, wrote %q", in, out.Bytes())
		}
	})
}
