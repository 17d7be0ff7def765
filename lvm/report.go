package lvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Report is what lvm sees on the devices of this host.
type Report struct {
	VGs []VGReport
	// Loose are physical volumes without a volume group.
	Loose []PVReport
	// Incomplete says why something could not be read. What is not in the report
	// may then well be there. nil: all of it is in the report.
	Incomplete error
}

// VGReport is a volume group in a report.
type VGReport struct {
	Name    VGName
	UUID    string
	Size    int64 // bytes
	Free    int64 // bytes
	Missing int   // physical volumes that are not there
	Tags    []Tag
	PVs     []PVReport
	LVs     []LVReport
}

// PVReport is a physical volume in a report.
type PVReport struct {
	Device  string // "[unknown]" for a missing one
	UUID    string
	Size    int64
	Missing bool
	Copies  []string // other devices that carry the same UUID; LVM has chosen Device
}

// LVReport is a logical volume in a report, hidden ones included.
type LVReport struct {
	Name   string // as lvm prints it: hidden ones in brackets
	UUID   string
	Size   int64  // bytes
	Type   string // of its first segment: linear, striped, raid1, thin, thin-pool …
	Pool   string
	Origin string
	Tags   []Tag
	Active bool
}

// FullReport runs fullreport over the given devices, or over every device that
// is no logical volume when there are none. It is for start, reconciliation and
// tests; per request use [Client.ReadVG].
func (c *Client) FullReport(ctx context.Context, devices ...DevicePath) (Report, error) {
	var args []string
	if len(devices) > 0 {
		args = Group{Devices: devices}.devices()
	}
	args = append(args, "--reportformat", "json", "--units", "b", "--nosuffix", "--all",
		"--config", "log/report_command_log=1",
		"--configreport", "vg", "-o", "vg_name,vg_uuid,vg_size,vg_free,vg_missing_pv_count,vg_tags",
		"--configreport", "pv", "-o", "pv_name,pv_uuid,pv_size,pv_missing",
		"--configreport", "lv", "-o", "lv_name,lv_uuid,lv_size,pool_lv,origin,lv_tags,lv_active",
		"--configreport", "pvseg", "-o", "pv_name", "--configreport", "seg", "-o", "lv_uuid,segtype")
	res, err := c.read(ctx, Command{"fullreport", args})
	// Exit 5 with a report: some device or group could not be read. What could
	// be read is used; what could not is not in it, and absence is no evidence.
	var failed *Error
	if err != nil && !errors.As(err, &failed) {
		return Report{}, err
	}
	report, perr := parseFullReport(res.Stdout)
	if perr != nil {
		return Report{}, errors.Join(err, perr)
	}
	report.Incomplete = errors.Join(err, report.Incomplete)
	report.addCopies(copies(res.Stdout))
	return report, err
}

type row map[string]string

// parseFullReport reads the JSON of fullreport (lib/report/report.c): one object
// per group, one without a name for physical volumes that belong to none. A group
// that cannot be understood makes the report incomplete and hides no other one: it
// may come from a disk that somebody has made for that, since LVM reads names and
// tags that it would not write.
func parseFullReport(text []byte) (Report, error) {
	var doc struct {
		Report []struct{ VG, PV, LV, Seg []row }
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return Report{}, fmt.Errorf("fullreport: %w", err)
	}
	var out Report
	var errs []error
	for _, r := range doc.Report {
		if err := out.add(r.VG, r.PV, r.LV, r.Seg); err != nil {
			errs = append(errs, fmt.Errorf("fullreport: %w", err))
		}
	}
	out.Incomplete = errors.Join(errs...)
	return out, nil
}

// add takes over one object of the report, or nothing of it.
func (r *Report) add(vgs, pvRows, lvRows, segs []row) error {
	pvs, err := parsePVRows(pvRows)
	if err != nil {
		return err
	}
	if len(vgs) == 0 || vgs[0]["vg_name"] == "" {
		r.Loose = append(r.Loose, pvs...)
		return nil
	}
	vg, err := parseVGRow(vgs[0])
	if err != nil {
		return err
	}
	vg.PVs = pvs
	types := firstSegments(segs)
	for _, l := range lvRows {
		lv, err := parseLVRow(l)
		if err != nil {
			return fmt.Errorf("volume group %s: %w", vg.Name, err)
		}
		lv.Type = types[lv.UUID]
		vg.LVs = append(vg.LVs, lv)
	}
	r.VGs = append(r.VGs, vg)
	return nil
}

// firstSegments finds the type of each LV's first segment by the LV's UUID. It is
// no column of the LV itself: LVM refuses it there.
func firstSegments(segs []row) map[string]string {
	types := map[string]string{}
	for _, s := range segs {
		if _, have := types[s["lv_uuid"]]; !have {
			types[s["lv_uuid"]] = s["segtype"]
		}
	}
	return types
}

func parseVGRow(r row) (VGReport, error) {
	name, err := ParseVGName(r["vg_name"])
	if err != nil {
		return VGReport{}, err
	}
	n, err := r.numbers("vg_size", "vg_free", "vg_missing_pv_count")
	if err != nil {
		return VGReport{}, err
	}
	tags, err := r.tags("vg_tags")
	return VGReport{Name: name, UUID: r["vg_uuid"], Size: n[0], Free: n[1], Missing: int(n[2]), Tags: tags}, err
}

func parsePVRows(rows []row) ([]PVReport, error) {
	var out []PVReport
	for _, r := range rows {
		n, err := r.numbers("pv_size")
		if err != nil {
			return nil, err
		}
		out = append(out, PVReport{Device: r["pv_name"], UUID: r["pv_uuid"], Size: n[0], Missing: r["pv_missing"] != ""})
	}
	return out, nil
}

func parseLVRow(r row) (LVReport, error) {
	n, err := r.numbers("lv_size")
	if err != nil {
		return LVReport{}, err
	}
	tags, err := r.tags("lv_tags")
	return LVReport{
		Name: r["lv_name"], UUID: r["lv_uuid"], Size: n[0],
		Pool: r["pool_lv"], Origin: r["origin"], Tags: tags, Active: r["lv_active"] == "active",
	}, err
}

func (r row) numbers(keys ...string) ([]int64, error) {
	out := make([]int64, len(keys))
	for i, k := range keys {
		n, err := strconv.ParseInt(r[k], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %s", k, ErrInvalid, quote(r[k]))
		}
		out[i] = n
	}
	return out, nil
}

// tags splits a tag list; that of an untagged object is "".
func (r row) tags(key string) ([]Tag, error) {
	if r[key] == "" {
		return nil, nil
	}
	var out []Tag
	for _, s := range strings.Split(r[key], ",") {
		t, err := ParseTag(s)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// reportErrors finds the messages in the "log" array of a JSON report.
func reportErrors(stdout []byte) []string {
	var doc struct {
		Log []map[string]string
	}
	if json.Unmarshal(stdout, &doc) != nil {
		return nil
	}
	var out []string
	for _, l := range doc.Log {
		if l["log_type"] == "error" && l["log_message"] != "" {
			out = append(out, l["log_message"])
		}
	}
	return out
}

// copies finds the devices that LVM passed over because another one carries the same
// UUID: "WARNING: Not using device %s for PV %s." (lib/cache/lvmcache.c,
// _warn_unused_duplicates). No column tells of them but in pvs --all.
func copies(stdout []byte) map[string][]string {
	var doc struct {
		Log []map[string]string
	}
	if json.Unmarshal(stdout, &doc) != nil {
		return nil
	}
	out := map[string][]string{}
	for _, l := range doc.Log {
		rest, ok := strings.CutPrefix(l["log_message"], "WARNING: Not using device ")
		device, uuid, ok2 := strings.Cut(strings.TrimSuffix(rest, "."), " for PV ")
		if ok && ok2 {
			out[uuid] = append(out[uuid], device)
		}
	}
	return out
}

func (r *Report) addCopies(byUUID map[string][]string) {
	for i := range r.VGs {
		for j := range r.VGs[i].PVs {
			pv := &r.VGs[i].PVs[j]
			pv.Copies = byUUID[pv.UUID]
		}
	}
}

// Version runs lvm version and returns the version of the tools, as
// {major, minor, patch}: "LVM version: 2.03.31(2) (2025-02-27)".
func (c *Client) Version(ctx context.Context) ([3]int, error) {
	res, err := c.read(ctx, Command{"version", nil})
	if err != nil {
		return [3]int{}, err
	}
	return parseVersion(string(res.Stdout))
}

func parseVersion(text string) ([3]int, error) {
	var v [3]int
	for _, line := range strings.Split(text, "\n") {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "LVM version:"); ok {
			if _, err := fmt.Sscanf(strings.TrimSpace(rest), "%d.%d.%d", &v[0], &v[1], &v[2]); err == nil {
				return v, nil
			}
		}
	}
	return v, fmt.Errorf("lvm version: %w: %s", ErrInvalid, quote(text))
}
