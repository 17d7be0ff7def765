package disk

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Selector says which disks a profile may claim: the `disks` of a profile. A criterion that is left out
// does not restrict, except that a selector with neither Transport nor ByID means local NVMe disks only.
type Selector struct {
	Transport []string // any of these; see Transports
	Model     string   // glob, as path.Match, where * also matches a slash
	Serial    string   // glob
	MinSize   int64    // bytes; 0 is no bound
	MaxSize   int64    // bytes; 0 is no bound
	ByID      []string // names under /dev/disk/by-id, serials or WWNs: any of these
	Count     int      // how many disks to take at most; 0 is all. The caller applies it.
}

// UnmarshalJSON reads and checks a selector. An unknown key is an error that names it, whatever the
// caller's decoder does: a misspelt restriction must not be ignored.
func (s *Selector) UnmarshalJSON(data []byte) error {
	var in struct {
		Transport []string `json:"transport"`
		Model     string   `json:"model"`
		Serial    string   `json:"serial"`
		MinSize   size     `json:"minSize"`
		MaxSize   size     `json:"maxSize"`
		ByID      []string `json:"byID"`
		Count     int      `json:"count"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return fmt.Errorf("disks: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("disks: more than one value")
	}
	sel := Selector{
		Transport: in.Transport, Model: in.Model, Serial: in.Serial,
		MinSize: int64(in.MinSize), MaxSize: int64(in.MaxSize), Count: in.Count,
	}
	for _, id := range in.ByID {
		sel.ByID = append(sel.ByID, strings.TrimPrefix(id, "/dev/disk/by-id/"))
	}
	if err := sel.check(); err != nil {
		return fmt.Errorf("disks: %w", err)
	}
	*s = sel
	return nil
}

func (s *Selector) check() error {
	for _, t := range s.Transport {
		if !slices.Contains(Transports, t) {
			return fmt.Errorf("transport %q is unknown: use %s", t, strings.Join(Transports, ", "))
		}
	}
	if _, err := path.Match(s.Model, ""); err != nil {
		return fmt.Errorf("model %q: %w", s.Model, err)
	}
	if _, err := path.Match(s.Serial, ""); err != nil {
		return fmt.Errorf("serial %q: %w", s.Serial, err)
	}
	if s.MaxSize != 0 && s.MinSize > s.MaxSize {
		return fmt.Errorf("minSize %s is above maxSize %s", formatSize(s.MinSize), formatSize(s.MaxSize))
	}
	for _, id := range s.ByID {
		if id == "" || strings.Contains(id, "/") {
			return fmt.Errorf("byID %q is not a name under /dev/disk/by-id", id)
		}
	}
	if s.Count < 0 {
		return fmt.Errorf("count %d is negative", s.Count)
	}
	return nil
}

// size takes "10Gi", "" (no bound) and a bare number of bytes.
type size int64

func (s *size) UnmarshalJSON(data []byte) error {
	text := string(data)
	if data[0] == '"' {
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
	}
	if text == "" || text == "null" {
		*s = 0
		return nil
	}
	n, err := ParseSize(text)
	*s = size(n)
	return err
}

// Match tells whether the selector takes d, and otherwise names the criterion that does not fit.
func (s Selector) Match(d Disk) (ok bool, why string) {
	transports := s.Transport
	if len(transports) == 0 && len(s.ByID) == 0 {
		transports = []string{"nvme"}
	}
	switch {
	case len(transports) > 0 && !slices.Contains(transports, d.Transport):
		return false, fmt.Sprintf("transport %q is not %s", d.Transport, strings.Join(transports, ", "))
	case !glob(s.Model, d.Model):
		return false, fmt.Sprintf("model %q does not match %q", d.Model, s.Model)
	case !glob(s.Serial, d.Serial):
		return false, fmt.Sprintf("serial %q does not match %q", d.Serial, s.Serial)
	case d.Size < s.MinSize:
		return false, fmt.Sprintf("size %s is below minSize %s", formatSize(d.Size), formatSize(s.MinSize))
	case s.MaxSize != 0 && d.Size > s.MaxSize:
		return false, fmt.Sprintf("size %s is above maxSize %s", formatSize(d.Size), formatSize(s.MaxSize))
	case len(s.ByID) > 0 && !slices.ContainsFunc(s.ByID, d.hasID):
		return false, fmt.Sprintf("none of its ids (%s) is in byID", strings.Join(d.ids(), ", "))
	}
	return true, ""
}

func (d Disk) ids() []string {
	return slices.DeleteFunc(append(slices.Clone(d.Links), d.Serial, d.WWN), func(id string) bool { return id == "" })
}

func (d Disk) hasID(id string) bool { return slices.Contains(d.ids(), id) }

// glob matches as path.Match does, but models and serials are no paths: a slash is an ordinary character.
// An empty pattern takes everything; one that is malformed takes nothing.
func glob(pattern, value string) bool {
	if pattern == "" {
		return true
	}
	ok, err := path.Match(strings.ReplaceAll(pattern, "/", "\x00"), strings.ReplaceAll(value, "/", "\x00"))
	return ok && err == nil
}
