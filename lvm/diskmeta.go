package lvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Generation identifies one committed state of the metadata on a physical
// volume. LVM writes a new one with each commit.
type Generation struct {
	Offset, Size uint64
	Checksum     uint32
}

// RawMetadata is the committed metadata text of a volume group as one physical
// volume holds it.
type RawMetadata struct {
	Generation Generation
	AreaSize   int64  // bytes of the metadata area
	Text       []byte // nil when the generation is the one that the caller knows
}

// On-disk format: lib/format_text/layout.h and lib/label/label.c.
const (
	sectorSize     = 512
	labelSectors   = 4 // LABEL_SCAN_SECTORS
	mdaHeaderSize  = 512
	mdaMagic       = "\x20LVM2\x20x[5A%r0N*>"
	mdaMagicOffset = 4
	rawLocnOffset  = 40
	rawLocnIgnored = 1
	initialCRC     = 0xf597a6cf // INITIAL_CRC, lib/misc/crc.h
	// maxMetadata bounds the text that is read into memory: twice what fits the
	// areas of 16 MiB that our groups have (two copies must fit).
	maxMetadata = 1 << 24
)

// readMetadata reads the committed metadata from a physical volume. The text is
// not read again when its generation is known. ErrNotFound: the device carries
// no LVM label or no metadata.
func readMetadata(r io.ReaderAt, known Generation) (RawMetadata, error) {
	start, size, err := findMetadataArea(r)
	if err != nil {
		return RawMetadata{}, err
	}
	header := make([]byte, mdaHeaderSize)
	if _, err := r.ReadAt(header, int64(start)); err != nil {
		return RawMetadata{}, fmt.Errorf("read metadata area header: %w", err)
	}
	if string(header[mdaMagicOffset:mdaMagicOffset+len(mdaMagic)]) != mdaMagic {
		return RawMetadata{}, fmt.Errorf("metadata area header: %w: wrong magic", ErrInvalid)
	}
	if crc(header[4:]) != binary.LittleEndian.Uint32(header) {
		return RawMetadata{}, fmt.Errorf("metadata area header: %w: wrong checksum", ErrInvalid)
	}
	locn := header[rawLocnOffset:]
	gen := Generation{
		Offset:   binary.LittleEndian.Uint64(locn),
		Size:     binary.LittleEndian.Uint64(locn[8:]),
		Checksum: binary.LittleEndian.Uint32(locn[16:]),
	}
	raw := RawMetadata{Generation: gen, AreaSize: int64(size)}
	switch ignored := binary.LittleEndian.Uint32(locn[20:])&rawLocnIgnored != 0; {
	case gen.Offset == 0 || ignored:
		return RawMetadata{}, fmt.Errorf("metadata area: %w: it holds no volume group", ErrNotFound)
	case gen == known:
		return raw, nil
	case gen.Offset < mdaHeaderSize || gen.Offset >= size || gen.Size > size-mdaHeaderSize || gen.Size > maxMetadata:
		return RawMetadata{}, fmt.Errorf("metadata area: %w: text of %d bytes at %d of %d", ErrInvalid, gen.Size, gen.Offset, size)
	}
	raw.Text, err = readCircular(r, start, size, gen)
	return raw, err
}

// readCircular reads the text, which wraps to the byte after the header at the
// end of the area.
func readCircular(r io.ReaderAt, start, size uint64, gen Generation) ([]byte, error) {
	text := make([]byte, gen.Size)
	first := min(gen.Size, size-gen.Offset)
	if _, err := r.ReadAt(text[:first], int64(start+gen.Offset)); err != nil {
		return nil, fmt.Errorf("read metadata text: %w", err)
	}
	if first < gen.Size {
		if _, err := r.ReadAt(text[first:], int64(start+mdaHeaderSize)); err != nil {
			return nil, fmt.Errorf("read metadata text: %w", err)
		}
	}
	if crc(text) != gen.Checksum {
		return nil, errTorn
	}
	return text, nil
}

// errTorn: the text changed while it was read, or is damaged. The caller reads
// again and gives up when it stays so.
var errTorn = errors.New("metadata text: wrong checksum")

// findMetadataArea follows the label to the first metadata area.
func findMetadataArea(r io.ReaderAt) (start, size uint64, err error) {
	buf := make([]byte, labelSectors*sectorSize)
	if _, err := r.ReadAt(buf, 0); err != nil {
		return 0, 0, fmt.Errorf("read LVM label: %w", err)
	}
	for s := range labelSectors {
		label := buf[s*sectorSize : (s+1)*sectorSize]
		if string(label[:8]) != "LABELONE" || string(label[24:32]) != "LVM2 001" {
			continue
		}
		if crc(label[20:]) != binary.LittleEndian.Uint32(label[16:]) {
			return 0, 0, fmt.Errorf("LVM label: %w: wrong checksum", ErrInvalid)
		}
		return metadataAreaOf(label)
	}
	return 0, 0, fmt.Errorf("LVM label: %w", ErrNotFound)
}

// metadataAreaOf reads struct pv_header: the list of data areas, then that of
// metadata areas, each ended by a zero entry.
func metadataAreaOf(label []byte) (start, size uint64, err error) {
	off := int(binary.LittleEndian.Uint32(label[20:])) + 40 // after pv_uuid and device_size
	for lists := 0; off >= 0 && off+16 <= len(label); off += 16 {
		start, size = binary.LittleEndian.Uint64(label[off:]), binary.LittleEndian.Uint64(label[off+8:])
		switch {
		case start == 0 && lists == 1:
			return 0, 0, fmt.Errorf("metadata area: %w: the physical volume has none", ErrNotFound)
		case start == 0:
			lists++
		case lists == 1 && size > mdaHeaderSize && start < 1<<62 && size < 1<<62:
			return start, size, nil
		case lists == 1:
			return 0, 0, fmt.Errorf("metadata area: %w: %d bytes at %d", ErrInvalid, size, start)
		}
	}
	return 0, 0, fmt.Errorf("physical volume header: %w: it does not end", ErrInvalid)
}

// crc is LVM's calc_crc(): CRC-32 with a start value of its own and no final
// inversion, so both inversions of hash/crc32 are undone.
func crc(b []byte) uint32 {
	return ^crc32.Update(^uint32(initialCRC), crc32.IEEETable, b)
}
