package lvm

import (
	"fmt"
	"strings"
)

// volumeTexts remembers what the sections of a group's logical volumes say: a command
// changes one or two of hundreds, and parsing them all is most of what the agent adds to
// a command. It holds the sections of the last text, and none before.
type volumeTexts struct {
	extent int64 // bytes: what was read with another is worth nothing
	known  map[string]*volumeText
}

// volumeText is the section of one logical volume.
type volumeText struct {
	text    string
	section section // nil once it has been read
	nodes   int
	lv      LV
	used    map[string]int64 // extents, by the name of the physical volume
}

// volume reads a logical volume's section, behind its brace.
func (p *textParser) volume() (*volumeText, error) {
	end := p.closing()
	if end < 0 {
		return nil, fmt.Errorf("a section is not closed")
	}
	text := p.text[p.pos:end]
	v := p.known[text]
	if v == nil {
		// A copy: else each volume would keep the whole text in which it was new.
		text = strings.Clone(text)
		sub := &textParser{text: text}
		s, err := sub.section(0, "")
		if err != nil {
			p.pos += sub.pos
			return nil, err
		}
		v = &volumeText{text: text, section: s, nodes: sub.nodes}
	}
	if p.nodes += v.nodes; p.nodes > maxNodes {
		return nil, fmt.Errorf("more than %d values", maxNodes)
	}
	p.volumes[v.text] = v
	p.pos = end + 1
	return v, nil
}

// closing is where the section that was opened ends, -1 for nowhere. It knows as much of
// the grammar as can hold a brace.
func (p *textParser) closing() int {
	depth := 0
	for i := p.pos; i < len(p.text); i++ {
		switch p.text[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth < 0 {
				return i
			}
		case '#':
			end := strings.IndexByte(p.text[i:], '\n')
			if end < 0 {
				return -1
			}
			i += end
		case '"':
			for i++; i < len(p.text) && p.text[i] != '"'; i++ {
				if p.text[i] == '\\' {
					i++
				}
			}
		}
	}
	return -1
}

// read is the logical volume of that name. Names are not in the section: two may have
// the same.
func (v *volumeText) read(name string, extent int64) (LV, error) {
	if v.section != nil {
		lv, err := parseLV(name, v.section, extent)
		if err != nil {
			return LV{}, err
		}
		v.lv, v.used, v.section = lv, usedExtents(v.section), nil
	}
	if err := checkName(name); err != nil {
		return LV{}, fmt.Errorf("logical volume %s: %w", quote(name), err)
	}
	lv := v.lv
	lv.Name = LVName{name}
	return lv, nil
}
