package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/lamina-csi/lamina/lvm"
	"github.com/lamina-csi/lamina/node/disk"
	"github.com/lamina-csi/lamina/node/pool"
)

// Profile says which disks a pool may claim and how it lies on them.
type Profile struct {
	Disks disk.Selector
	Adopt lvm.VGName // an existing volume group instead of blank disks
	spec  pool.Spec  // all but the name
}

// Spec is the pool of that name by this profile.
func (p Profile) Spec(name string) pool.Spec {
	s := p.spec
	s.Name, s.Adopt = name, p.Adopt
	return s
}

// builtin is the profile that needs no configuration: every blank NVMe disk of 10 GiB or more that
// nothing uses.
const (
	builtin     = "nvme"
	builtinText = `{"disks": {"transport": ["nvme"], "minSize": "10Gi"}}`
)

// UnmarshalJSON reads a profile. Every key has a default; an unknown key or a bad
// value is an error that names it.
func (p *Profile) UnmarshalJSON(data []byte) error {
	// A forgotten profile must not mean every default, and so every disk.
	if string(data) == "null" {
		return errors.New("it is empty; {} takes every default")
	}
	in := struct {
		Disks         *disk.Selector `json:"disks"`
		Adopt         string         `json:"adopt"`
		Layout        string         `json:"layout"`
		Mode          string         `json:"mode"`
		Overprovision float64        `json:"overprovision"`
		Reserve       string         `json:"reserve"`
		ThinChunk     string         `json:"thinChunk"`
		FullAt        string         `json:"fullAt"`
	}{Layout: "linear", Mode: "thin", Overprovision: 3, Reserve: "5%", ThinChunk: "auto", FullAt: "90%"}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		return err
	}
	out := Profile{spec: pool.Spec{
		Name: "x", Mode: pool.Mode(in.Mode), Layout: lvm.LayoutType(in.Layout), Overprovision: in.Overprovision,
	}}
	var err error
	if out.spec.Reserve, err = percent(in.Reserve); err != nil {
		return fmt.Errorf("reserve: %w", err)
	}
	if out.spec.FullAt, err = percent(in.FullAt); err != nil {
		return fmt.Errorf("fullAt: %w", err)
	}
	if in.ThinChunk != "auto" {
		if out.spec.ThinChunk, err = disk.ParseSize(in.ThinChunk); err != nil {
			return fmt.Errorf("thinChunk: %w", err)
		}
	}
	switch {
	case in.Adopt != "" && in.Disks != nil:
		return fmt.Errorf("adopt and disks exclude each other: the disks of an adopted volume group are its owner's")
	case in.Adopt != "":
		if out.Adopt, err = lvm.ParseVGName(in.Adopt); err != nil {
			return fmt.Errorf("adopt: %w", err)
		}
	case in.Disks != nil:
		out.Disks = *in.Disks
	}
	if err := out.spec.Validate(); err != nil {
		return err
	}
	*p = out
	return nil
}

// percent reads "5%".
func percent(s string) (int, error) {
	digits, ok := strings.CutSuffix(s, "%")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 0 || n > 100 {
		return 0, fmt.Errorf("%.20q is no percentage such as 5%%", s)
	}
	return n, nil
}

// Wanted is a pool that is wanted on this node.
type Wanted struct {
	Pool    string
	Profile Profile
	// Err says why it is not known how the pool shall be. Then what there is of the
	// pool stays as it is, and no pool takes a new disk, which this one might want.
	Err error
}

// Want reads a pool that is wanted: the profile's text, or the built-in profile
// of that name if the text is empty. What is wrong is in Wanted.Err.
func Want(name, profile, text string) Wanted {
	w := Wanted{Pool: name}
	if text == "" && profile == builtin {
		text = builtinText
	}
	if text == "" {
		w.Err = fmt.Errorf("pool %.40q: there is no profile %.40q", name, profile)
		return w
	}
	if err := yaml.UnmarshalStrict([]byte(text), &w.Profile); err != nil {
		w.Err = fmt.Errorf("pool %.40q: profile %.40q: %w", name, profile, err)
		return w
	}
	if err := w.Profile.Spec(name).Validate(); err != nil {
		w.Err = err
	}
	return w
}

// ReadPools reads a pools file: profiles by name, and under pools which profile
// makes which pool, as the node labels pool.lamina.dev/<pool>=<profile> do where
// there is a controller.
func ReadPools(path string) ([]Wanted, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read pools: %w", err)
	}
	wanted, err := ParsePools(data)
	if err != nil {
		return nil, fmt.Errorf("read pools from %s: %w", path, err)
	}
	return wanted, nil
}

// ParsePools reads the text of a pools file; the pools come sorted by name.
func ParsePools(data []byte) ([]Wanted, error) {
	var in struct {
		Profiles map[string]json.RawMessage `json:"profiles"`
		Pools    map[string]string          `json:"pools"`
	}
	if err := yaml.UnmarshalStrict(data, &in); err != nil {
		return nil, err
	}
	profiles := map[string]Profile{}
	if _, redefined := in.Profiles[builtin]; !redefined {
		in.Profiles = mapWith(in.Profiles, builtin, json.RawMessage(builtinText))
	}
	for name, text := range in.Profiles {
		var p Profile
		if err := json.Unmarshal(text, &p); err != nil {
			return nil, fmt.Errorf("profile %.40q: %w", name, err)
		}
		profiles[name] = p
	}
	var out []Wanted
	for name, profile := range in.Pools {
		p, ok := profiles[profile]
		if !ok {
			return nil, fmt.Errorf("pool %.40q: there is no profile %.40q", name, profile)
		}
		if err := p.Spec(name).Validate(); err != nil {
			return nil, err
		}
		out = append(out, Wanted{Pool: name, Profile: p})
	}
	slices.SortFunc(out, func(a, b Wanted) int { return strings.Compare(a.Pool, b.Pool) })
	return out, nil
}

func mapWith(m map[string]json.RawMessage, key string, value json.RawMessage) map[string]json.RawMessage {
	out := map[string]json.RawMessage{key: value}
	for k, v := range m {
		out[k] = v
	}
	return out
}
