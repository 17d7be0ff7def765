//go:build vm

package main

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"os"
	"unicode/utf16"
)

// writeGPT writes a partition table with one labelled partition to a device (UEFI
// specification, chapter 5.3), as a virtual machine's disk has it.
func writeGPT(device, label string) error {
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	const sector, entries, entrySize = 512, 128, 128
	last := uint64(size/sector - 1)
	table := make([]byte, entries*entrySize)
	for i := range 32 { // type and id: any but zero
		table[i] = byte(i + 1)
	}
	binary.LittleEndian.PutUint64(table[32:], 2048)
	binary.LittleEndian.PutUint64(table[40:], last-34)
	for i, c := range utf16.Encode([]rune(label)) {
		binary.LittleEndian.PutUint16(table[56+2*i:], c)
	}
	header := func(at, other, tableAt uint64) []byte {
		b := bytes.NewBufferString("EFI PART")
		for _, v := range []any{
			uint32(0x10000), uint32(92), uint32(0), uint32(0), at, other, uint64(34), last - 33,
			[16]byte{1}, tableAt, uint32(entries), uint32(entrySize), crc32.ChecksumIEEE(table),
		} {
			_ = binary.Write(b, binary.LittleEndian, v) // fixed sizes into a buffer
		}
		out := b.Bytes()
		binary.LittleEndian.PutUint32(out[16:], crc32.ChecksumIEEE(out))
		return out
	}
	protective := make([]byte, sector)
	copy(protective[446:], []byte{0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	copy(protective[510:], []byte{0x55, 0xaa})
	for _, part := range []struct {
		at   uint64
		data []byte
	}{
		{0, protective}, {1, header(1, last, 2)}, {2, table},
		{last - 32, table}, {last, header(last, 1, last-32)},
	} {
		if _, err := f.WriteAt(part.data, int64(part.at)*sector); err != nil {
			return err
		}
	}
	return f.Sync()
}
