package lvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// image is a physical volume as lib/format_text/layout.h lays it out.
type image struct {
	labelSector        int
	mdaStart, mdaSize  int
	textOffset         int // within the area
	text               string
	flags              uint32
	badLabel, badMagic bool
	badHeader, badText bool
	noArea             bool
}

func (m image) build() []byte {
	le := binary.LittleEndian
	disk := make([]byte, m.mdaStart+m.mdaSize)
	label := disk[m.labelSector*sectorSize:][:sectorSize]
	copy(label, "LABELONE")
	le.PutUint64(label[8:], uint64(m.labelSector))
	le.PutUint32(label[20:], 32)
	copy(label[24:], "LVM2 001")
	pv := label[32:]
	copy(pv, "0123456789abcdefghijklmnopqrstuv")
	le.PutUint64(pv[32:], uint64(len(disk)))
	areas := pv[40:]
	le.PutUint64(areas, uint64(len(disk))) // one data area, of size 0: to the end
	if !m.noArea {
		le.PutUint64(areas[32:], uint64(m.mdaStart))
		le.PutUint64(areas[40:], uint64(m.mdaSize))
	}
	le.PutUint32(label[16:], crc(label[20:]))
	if m.badLabel {
		label[100] ^= 1
	}
	area := disk[m.mdaStart:]
	for i := range len(m.text) {
		at := m.textOffset + i
		if at >= m.mdaSize {
			at = at - m.mdaSize + mdaHeaderSize
		}
		area[at] = m.text[i]
	}
	copy(area[4:], mdaMagic)
	le.PutUint32(area[20:], 1)
	le.PutUint64(area[24:], uint64(m.mdaStart))
	le.PutUint64(area[32:], uint64(m.mdaSize))
	locn := area[rawLocnOffset:]
	le.PutUint64(locn, uint64(m.textOffset))
	le.PutUint64(locn[8:], uint64(len(m.text)))
	le.PutUint32(locn[16:], crc([]byte(m.text)))
	le.PutUint32(locn[20:], m.flags)
	if m.badMagic {
		area[5] ^= 1
	}
	le.PutUint32(area, crc(area[4:mdaHeaderSize]))
	if m.badHeader {
		area[200] ^= 1
	}
	if m.badText {
		area[m.textOffset] ^= 1
	}
	return disk
}

var sound = image{labelSector: 1, mdaStart: 4096, mdaSize: 8192, textOffset: 512, text: "vg {\nid = \"x\"\n}\n\x00"}

func TestReadMetadata(t *testing.T) {
	wrapped := sound
	wrapped.textOffset = 8190
	elsewhere := sound
	elsewhere.labelSector, elsewhere.mdaStart = 3, 65536
	for name, m := range map[string]image{"plain": sound, "wrapped": wrapped, "elsewhere": elsewhere} {
		t.Run(name, func(t *testing.T) {
			disk := bytes.NewReader(m.build())
			raw, err := readMetadata(disk, Generation{})
			want := RawMetadata{
				Generation: Generation{uint64(m.textOffset), uint64(len(m.text)), crc([]byte(m.text))},
				AreaSize:   8192,
				Text:       []byte(m.text),
			}
			if diff := cmp.Diff(want, raw); err != nil || diff != "" {
				t.Fatalf("%v %s", err, diff)
			}
			want.Text = nil
			raw, err = readMetadata(disk, raw.Generation)
			if diff := cmp.Diff(want, raw); err != nil || diff != "" {
				t.Errorf("known: %v %s", err, diff)
			}
		})
	}
}

func TestReadMetadataErrors(t *testing.T) {
	tests := []struct {
		name   string
		change func(*image)
		want   error
	}{
		{"bad label", func(m *image) { m.badLabel = true }, ErrInvalid},
		{"bad magic", func(m *image) { m.badMagic = true }, ErrInvalid},
		{"bad header", func(m *image) { m.badHeader = true }, ErrInvalid},
		{"bad text", func(m *image) { m.badText = true }, errTorn},
		{"ignored area", func(m *image) { m.flags = rawLocnIgnored }, ErrNotFound},
		{"no group", func(m *image) { m.text, m.textOffset = "", 0 }, ErrNotFound},
		{"no area", func(m *image) { m.noArea = true }, ErrNotFound},
		{"text in the header", func(m *image) { m.textOffset = 256 }, ErrInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := sound
			tt.change(&m)
			if _, err := readMetadata(bytes.NewReader(m.build()), Generation{}); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
	if _, err := readMetadata(bytes.NewReader(make([]byte, 1<<16)), Generation{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a blank disk: %v", err)
	}
	if _, err := readMetadata(bytes.NewReader(make([]byte, 100)), Generation{}); err == nil {
		t.Error("a disk of 100 bytes was read")
	}
	if _, err := readMetadata(bytes.NewReader(sound.build()[:4096]), Generation{}); err == nil {
		t.Error("a disk that ends before its metadata was read")
	}
}

// Headers with sound checksums that point elsewhere: nothing is read there, and no
// more memory is taken than the bound allows.
func TestReadMetadataHostile(t *testing.T) {
	le := binary.LittleEndian
	for name, c := range map[string]struct {
		offset, size uint64 // of the text
		area         uint64 // size of the area that the label tells
	}{
		"offset beyond":        {1 << 40, 16, 8192},
		"offset at the end":    {8192, 16, 8192},
		"size beyond":          {512, 1 << 40, 8192},
		"size overflows":       {512, 1<<64 - 1, 8192},
		"offset overflows":     {1<<64 - 1, 16, 8192},
		"huge area":            {512, 1 << 30, 1 << 61},
		"area overflows":       {512, 16, 1<<64 - 1},
		"area is its header":   {512, 16, 512},
		"text wraps to itself": {8191, 8192 - 512 + 1, 8192},
	} {
		t.Run(name, func(t *testing.T) {
			disk := sound.build()
			label := disk[sectorSize:][:sectorSize]
			le.PutUint64(label[32+40+40:], c.area)
			le.PutUint32(label[16:], crc(label[20:]))
			header := disk[sound.mdaStart:][:mdaHeaderSize]
			le.PutUint64(header[rawLocnOffset:], c.offset)
			le.PutUint64(header[rawLocnOffset+8:], c.size)
			le.PutUint32(header, crc(header[4:]))
			raw, err := readMetadata(bytes.NewReader(disk), Generation{})
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("read %d bytes, %v", len(raw.Text), err)
			}
		})
	}
	for _, list := range []uint32{1 << 31, 1<<32 - 40, 1<<32 - 1, 500} {
		disk := sound.build()
		label := disk[sectorSize:][:sectorSize]
		le.PutUint32(label[20:], list)
		le.PutUint32(label[16:], crc(label[20:]))
		if _, err := readMetadata(bytes.NewReader(disk), Generation{}); err == nil {
			t.Errorf("lists of areas at %d were read", list)
		}
	}
}
