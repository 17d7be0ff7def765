package invariant

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"github.com/lamina-csi/lamina/lvm"
)

// known are the tags of a logical volume and the values that they may have.
var known = map[string]*regexp.Regexp{
	"schema":    regexp.MustCompile(`^1$`),
	"kind":      regexp.MustCompile(`^(volume|snapshot|pool)$`),
	"name":      regexp.MustCompile(`.`),
	"pvc":       regexp.MustCompile(`.`),
	"source":    regexp.MustCompile(`^[a-zA-Z0-9+_.-]+$`),
	"mode":      regexp.MustCompile(`^block$`),
	"fs":        regexp.MustCompile(`^(new|raw|ext4|xfs|btrfs)$`),
	"size":      regexp.MustCompile(`^[1-9][0-9]*$`),
	"state":     regexp.MustCompile(`^(creating|growing|ready)$`),
	"group":     regexp.MustCompile(`^[A-Za-z0-9-]{38}/g-[0-9a-f]{32}$`),
	"groupname": regexp.MustCompile(`.`),
	"groupsize": regexp.MustCompile(`^[1-9][0-9]*$`),
	"instant":   regexp.MustCompile(`.`),
	"limits":    regexp.MustCompile(`^[rw](bps|iops):[0-9]+(/[rw](bps|iops):[0-9]+)*$`),
}

var contextKeys = regexp.MustCompile(`^context\.(fsType|mkfsOptions|encryption)$`)

// tagsOf holds the tags of one logical volume to docs/pools.md. One without a tag of
// ours is somebody else's, or a part of another.
func tagsOf(vg *lvm.VG, lv *lvm.LV) error {
	tags := map[string]string{}
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s/%s: %s", vg.Name, lv.Name, fmt.Sprintf(format, args...)))
	}
	for _, t := range lv.Tags {
		text, ours := strings.CutPrefix(t.String(), "lamina.")
		key, value, _ := strings.Cut(text, "=")
		if !ours {
			continue
		}
		if _, twice := tags[key]; twice {
			wrong("it has two tags lamina.%s", key)
		}
		tags[key] = unescape(value)
		switch form := known[key]; {
		case form == nil && !contextKeys.MatchString(key):
			wrong("unknown tag %s", t)
		case form != nil && !form.MatchString(tags[key]):
			wrong("tag %s", t)
		}
	}
	if len(tags) == 0 {
		return nil
	}
	need := map[string][]string{
		"volume":   {"schema", "name", "fs", "size", "state"},
		"snapshot": {"schema", "source", "fs", "size", "state"},
		"pool":     {"schema"},
	}[tags["kind"]]
	if need == nil {
		wrong("it has tags of ours and no kind: %v", lv.Tags)
	}
	for _, key := range need {
		if tags[key] == "" {
			wrong("a %s without the tag lamina.%s", tags["kind"], key)
		}
	}
	if tags["kind"] == "volume" || tags["kind"] == "snapshot" {
		errs = append(errs, nameOf(vg, lv, tags), sizeOf(vg, lv, tags))
	}
	return errors.Join(errs...)
}

// unescape reads "#" and two hex digits, as url.PathUnescape does "%".
func unescape(s string) string {
	out, err := url.PathUnescape(strings.ReplaceAll(strings.ReplaceAll(s, "%", "%25"), "#", "%"))
	if err != nil {
		return s
	}
	return out
}

var (
	provisioned = regexp.MustCompile(`^pvc-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	snapshotted = regexp.MustCompile(`^snapshot-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

// nameOf holds an LV's name to the CSI name in its tags.
func nameOf(vg *lvm.VG, lv *lvm.LV, tags map[string]string) error {
	want := ""
	switch name := tags["name"]; {
	case tags["group"] != "":
		if tags["groupname"] == "" || tags["groupsize"] == "" || tags["instant"] == "" || name != "" {
			return fmt.Errorf("%s/%s: a member of a group with the tags %v", vg.Name, lv.Name, lv.Tags)
		}
		_, group, _ := strings.Cut(tags["group"], "/")
		want = "s-" + hash(group+"/"+vg.UUID+"/"+tags["source"])
	case name == "":
		return fmt.Errorf("%s/%s: neither a name nor a group: %v", vg.Name, lv.Name, lv.Tags)
	case tags["kind"] == "volume" && provisioned.MatchString(name):
		want = name
	case tags["kind"] == "volume":
		want = "v-" + hash(name)
	case snapshotted.MatchString(name):
		want = strings.Replace(name, "snapshot-", "snap-", 1)
	default:
		want = "s-" + hash(name)
	}
	if lv.Name.String() != want {
		return fmt.Errorf("%s/%s: by its tags it would be named %s", vg.Name, lv.Name, want)
	}
	return nil
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return fmt.Sprintf("%x", sum[:16])
}

// sizeOf: a thick volume that is ready is zeroed, or its tenant's, to its end.
func sizeOf(vg *lvm.VG, lv *lvm.LV, tags map[string]string) error {
	if size, err := strconv.ParseInt(tags["size"], 10, 64); lv.Thin == nil && tags["state"] == "ready" && (err != nil || size != lv.Size) {
		return fmt.Errorf("%s/%s: ready, of %d bytes, and its tag lamina.size says %q", vg.Name, lv.Name, lv.Size, tags["size"])
	}
	return nil
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
