package mounttest

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Content is what a device holds. It lies in the device's first bytes, so that whatever copies the
// device copies it.
type Content struct {
	// Type, UUID and PTType are what blkid reports.
	Type   string `json:"type,omitempty"`
	UUID   string `json:"uuid,omitempty"`
	PTType string `json:"pttype,omitempty"`
	// Size is the filesystem's size in bytes.
	Size int64 `json:"size,omitempty"`
	// Made counts the mkfs runs of the system that made it: two contents with one number are copies.
	Made int `json:"made,omitempty"`
	// Log says that a log waits for replay.
	Log bool `json:"log,omitempty"`
	// OldBackups says that backup superblocks carry another UUID (xfs).
	OldBackups bool `json:"oldBackups,omitempty"`
	// Key is what opens a LUKS2 header.
	Key string `json:"key,omitempty"`
	// Data stands for the files.
	Data string `json:"data,omitempty"`
}

const magic = "MOUNTTEST "

func readContent(d Device) (Content, error) {
	var c Content
	head := make([]byte, min(pageSize, d.Size()))
	if _, err := d.ReadAt(head, 0); err != nil {
		return c, err
	}
	text, ok := bytes.CutPrefix(head, []byte(magic))
	if !ok {
		return c, nil
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	return c, json.Unmarshal(text, &c)
}

func writeContent(d Device, c Content) error {
	head := make([]byte, pageSize)
	if c != (Content{}) {
		text, err := json.Marshal(c)
		if err != nil {
			return err
		}
		if len(magic)+len(text) >= pageSize {
			return fmt.Errorf("content of %d bytes", len(text))
		}
		copy(head[copy(head, magic):], text)
	}
	_, err := d.WriteAt(head, 0)
	return err
}
