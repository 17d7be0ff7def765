package bundle

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var sum = strings.Repeat("0f", 32)

func TestParseLock(t *testing.T) {
	good := "bundle lvm2 2.03.31-2 " + sum + " 17 pool/l/lvm2.deb\n"
	for name, tc := range map[string]struct{ in, wantErr string }{
		"good":         {good, ""},
		"comment":      {"# a\n\n" + good, ""},
		"twice":        {good + good, "line 2: lvm2 is pinned twice"},
		"fields":       {"bundle lvm2\n", "2 fields, want 6"},
		"set":          {strings.Replace(good, "bundle", "other", 1), `unknown set "other"`},
		"digest":       {strings.Replace(good, sum, "0f", 1), "is no SHA-256"},
		"upper case":   {strings.Replace(good, sum, strings.ToUpper(sum), 1), "is no SHA-256"},
		"size":         {strings.Replace(good, " 17 ", " -1 ", 1), `bad size "-1"`},
		"outside pool": {strings.Replace(good, "pool/", "pool/../", 1), "is not below pool/"},
	} {
		t.Run(name, func(t *testing.T) {
			lock, err := ParseLock([]byte(tc.in))
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("ParseLock() = %v, want %q", err, tc.wantErr)
				}
				return
			}
			want := Lock{{Set: "bundle", Name: "lvm2", Version: "2.03.31-2", SHA256: sum, Size: 17, Path: "pool/l/lvm2.deb"}}
			if diff := cmp.Diff(want, lock); diff != "" || err != nil {
				t.Error(err, diff)
			}
		})
	}
}

func FuzzParseLock(f *testing.F) {
	f.Add([]byte("kernel linux 6.12 " + sum + " 1 pool/k.deb\nbundle a 1 " + sum + " 2 pool/a.deb\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		lock, err := ParseLock(in)
		if err != nil {
			return
		}
		text := lock.Format()
		again, err := ParseLock(text)
		if err != nil || len(again) != len(lock) || !bytes.Equal(again.Format(), text) {
			t.Errorf("format of %q reads back as %v, %v", text, again, err)
		}
	})
}

func TestMirrorOf(t *testing.T) {
	const debian = "PRETTY_NAME=\"x\"\nID=debian\nVERSION_CODENAME=bookworm\n"
	targets := `DEP-11 bookworm main http://a/
Packages bookworm-updates main http://b/
Packages bookworm contrib http://c/
Packages bookworm main http://d/
Packages tools main http://e/
`
	for name, tc := range map[string]struct{ release, want string }{
		"debian": {debian, "http://d/"},
		"other":  {"ID=ubuntu\nVERSION_CODENAME=bookworm\n", ""},
		"newer":  {strings.Replace(debian, "bookworm", "forky", 1), ""},
	} {
		if got := mirrorOf(tc.release, targets); got != tc.want {
			t.Errorf("%s: mirrorOf() = %q, want %q", name, got, tc.want)
		}
	}
}

func TestParseStanzas(t *testing.T) {
	text := "Package: a\nVersion: 1:2\nDescription: x\n Package: b\nSize: 5\nSHA256: " + sum +
		"\nFilename: pool/a.deb\n\nPackage: b\nVersion: 3\nSize: 6\nSHA256: " + sum + "\nFilename: pool/b.deb\n"
	got, err := parseStanzas(SetBundle, text)
	want := Lock{{SetBundle, "a", "1:2", sum, 5, "pool/a.deb"}, {SetBundle, "b", "3", sum, 6, "pool/b.deb"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
}
