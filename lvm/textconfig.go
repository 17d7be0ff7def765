package lvm

import (
	"fmt"
	"strconv"
	"strings"
)

// section is a node of LVM's configuration text: a value is an int64, a string,
// a []any of those, or a section. The grammar is that of lib/config/config.c,
// "file: section | assignment", as the text metadata uses it (no escapes but \"
// and \\, "#" comments).
type section map[string]any

// Bounds of what a text may ask of memory: it may come from a disk that somebody
// else has written.
const (
	// maxDepth bounds recursion; metadata nests four deep (vg, list, lv, segment).
	maxDepth = 16
	// maxNodes bounds values, sections and list elements, of which each takes many
	// times its text. The full metadata area of 16 MiB that our groups have holds
	// 700,000.
	maxNodes = 1 << 20
)

// parseText reads LVM's configuration text.
func parseText(text string) (section, error) {
	p := &textParser{text: text}
	s, err := p.section(0, "")
	if err != nil {
		return nil, fmt.Errorf("LVM text, byte %d: %w", p.pos, err)
	}
	return s, nil
}

type textParser struct {
	text  string
	pos   int
	nodes int
	// volumes, if not nil, gets each logical volume's section; known are those of the
	// text before. See volumeTexts.
	volumes, known map[string]*volumeText
}

// count counts a value, a section or an element of a list.
func (p *textParser) count() error {
	if p.nodes++; p.nodes > maxNodes {
		return fmt.Errorf("more than %d values", maxNodes)
	}
	return nil
}

// section reads what is between two braces, or all of the text; name is its key.
func (p *textParser) section(depth int, name string) (section, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	s := section{}
	for {
		p.space()
		switch {
		case p.pos == len(p.text):
			if depth > 0 {
				return nil, fmt.Errorf("a section is not closed")
			}
			return s, nil
		case p.text[p.pos] == '}':
			if depth == 0 {
				return nil, fmt.Errorf("unexpected }")
			}
			p.pos++
			return s, nil
		}
		key := p.word()
		if key == "" {
			return nil, fmt.Errorf("unexpected %q", p.text[p.pos])
		}
		if err := p.count(); err != nil {
			return nil, err
		}
		p.space()
		switch {
		case p.eat('{'):
			var sub any
			var err error
			if p.volumes != nil && depth == 2 && name == "logical_volumes" {
				sub, err = p.volume()
			} else {
				sub, err = p.section(depth+1, key)
			}
			if err != nil {
				return nil, err
			}
			s[key] = sub
		case p.eat('='):
			v, err := p.value()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", key, err)
			}
			s[key] = v
		default:
			return nil, fmt.Errorf("%s: neither a value nor a section", key)
		}
	}
}

func (p *textParser) value() (any, error) {
	p.space()
	if !p.eat('[') {
		return p.scalar()
	}
	list := []any{}
	for {
		p.space()
		if p.eat(']') {
			return list, nil
		}
		v, err := p.scalar()
		if err == nil {
			err = p.count()
		}
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		p.space()
		if !p.eat(',') && (p.pos == len(p.text) || p.text[p.pos] != ']') {
			return nil, fmt.Errorf("a list is not closed")
		}
	}
}

func (p *textParser) scalar() (any, error) {
	if p.eat('"') {
		return p.quoted()
	}
	w := p.word()
	n, err := strconv.ParseInt(w, 10, 64)
	if err != nil {
		return nil, fmt.Errorf("%s is not a number", quote(w))
	}
	return n, nil
}

func (p *textParser) quoted() (any, error) {
	// Nearly every string has no escape, and is then a part of the text.
	rest := p.text[p.pos:]
	if end := strings.IndexByte(rest, '"'); end >= 0 && strings.IndexByte(rest[:end], '\\') < 0 {
		p.pos += end + 1
		return rest[:end], nil
	}
	var b strings.Builder
	for p.pos < len(p.text) {
		c := p.text[p.pos]
		p.pos++
		switch {
		case c == '"':
			return b.String(), nil
		case c == '\\' && p.pos < len(p.text):
			c = p.text[p.pos]
			p.pos++
		}
		b.WriteByte(c)
	}
	return nil, fmt.Errorf("a string is not closed")
}

func (p *textParser) word() string {
	start := p.pos
	for p.pos < len(p.text) && !endsWord[p.text[p.pos]] {
		p.pos++
	}
	return p.text[start:p.pos]
}

// endsWord holds the bytes that no word has: a table, because this is asked of each byte
// of the text of a whole group, after each change.
var endsWord = func() (t [256]bool) {
	for _, c := range []byte(" \t\n\r{}[]=\",#\x00") {
		t[c] = true
	}
	return t
}()

// space skips blanks, comments and the NUL that ends metadata on disk.
func (p *textParser) space() {
	for p.pos < len(p.text) {
		switch p.text[p.pos] {
		case ' ', '\t', '\n', '\r', 0:
			p.pos++
		case '#':
			end := strings.IndexByte(p.text[p.pos:], '\n')
			if end < 0 {
				end = len(p.text) - p.pos
			}
			p.pos += end
		default:
			return
		}
	}
}

func (p *textParser) eat(c byte) bool {
	if p.pos < len(p.text) && p.text[p.pos] == c {
		p.pos++
		return true
	}
	return false
}

// The getters return the zero value for a key that is missing or of another
// kind: metadata from other versions may lack what we ask for, and the callers
// check what they cannot do without.

func (s section) str(key string) string  { v, _ := s[key].(string); return v }
func (s section) num(key string) int64   { v, _ := s[key].(int64); return v }
func (s section) sub(key string) section { v, _ := s[key].(section); return v }

func (s section) strs(key string) []string {
	list, _ := s[key].([]any)
	var out []string
	for _, v := range list {
		if t, ok := v.(string); ok {
			out = append(out, t)
		}
	}
	return out
}
