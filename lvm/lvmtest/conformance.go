package lvmtest

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lamina-csi/lamina/lvm"
)

// Env is a place with LVM on which the conformance suite runs.
type Env struct {
	Client *lvm.Client
	Runner lvm.Runner // the one of Client
	// Disks are at least four blank disks of 1 GiB or more, of equal size.
	// Whoever made the Env removes what the test leaves on them.
	Disks []lvm.DevicePath
	// Write and Read access the content of a device. Write returns when the
	// content is on the device.
	Write func(path string, off int64, data []byte) error
	Read  func(path string, off int64, size int) ([]byte, error)
	// Hold keeps a device open, as a mount does, until release.
	Hold func(path string) (release func(), err error)
}

// Conformance holds an LVM to what lvm.Client promises. newEnv is called for
// each subtest and registers its own cleanup.
func Conformance(t *testing.T, newEnv func(*testing.T) Env) {
	tests := []struct {
		name string
		run  func(*suite)
	}{
		{"Version", checkVersion},
		{"VGCreate", checkVgCreate},
		{"VGExtend", checkVgExtend},
		{"VGErrors", checkVgErrors},
		{"Metadata", checkMetadata},
		{"ThinPool", checkThinPool},
		{"Thin", checkThin},
		{"ThinErrors", checkThinErrors},
		{"ThinZeroes", checkThinZeroes},
		{"Tags", checkTags},
		{"Activation", checkActivation},
		{"Remove", checkRemove},
		{"RemoveOpen", checkRemoveOpen},
		{"Discard", checkDiscard},
		{"Snapshot", checkSnapshot},
		{"Clone", checkClone},
		{"SnapshotOfInactive", checkSnapshotOfInactive},
		{"SnapshotOutlivesOrigin", checkSnapshotOutlivesOrigin},
		{"SnapshotOfSuspended", checkSnapshotOfSuspended},
		{"ExtendThin", checkExtendThin},
		{"ExtendThinInterrupted", checkExtendThinInterrupted},
		{"ExtendThinInactive", checkExtendThinInactive},
		{"ExtendPool", checkExtendPool},
		{"ExtendPoolMetadata", checkExtendPoolMetadata},
		{"ConvertPool", checkConvertPool},
		{"PoolFills", checkPoolFills},
		{"ThickLinear", func(s *suite) { checkThick(s, lvm.Layout{Type: lvm.Linear}) }},
		{"ThickStriped", func(s *suite) { checkThick(s, lvm.Layout{Type: lvm.Striped, Stripes: 2}) }},
		{"ThickRaid1", func(s *suite) { checkThick(s, lvm.Layout{Type: lvm.Raid1}) }},
		{"ThickRaid10", func(s *suite) { checkThick(s, lvm.Layout{Type: lvm.Raid10, Stripes: 2}) }},
		{"ThickNoSpace", checkThickNoSpace},
		{"ThickOldContent", checkThickOldContent},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			// A device that hangs must not hang the suite.
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			s := &suite{T: t, Env: newEnv(t), ctx: ctx}
			s.group = lvm.Group{Name: must(lvm.ParseVGName("lamina-conformance"))}
			tt.run(s)
		})
	}
}

// suite is one subtest.
type suite struct {
	*testing.T
	Env
	ctx   context.Context
	group lvm.Group
}

const metadataSize = 4 * mib

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func lvName(s string) lvm.LVName { return must(lvm.ParseLVName(s)) }

func lvTags(list ...string) []lvm.Tag {
	var out []lvm.Tag
	for _, s := range list {
		out = append(out, must(lvm.ParseTag(s)))
	}
	return out
}

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// fails wants that sentinel, and the group unchanged.
func (s *suite) fails(want error, change func() error) {
	s.Helper()
	before, _ := s.Client.ReadVG(s.group)
	err := change()
	if !errors.Is(err, want) {
		s.Fatalf("error is %v, want one that is %q", err, want)
	}
	s.Logf("as it should: %v", err)
	after, _ := s.Client.ReadVG(s.group)
	if diff := cmp.Diff(before, after, compareNames); diff != "" {
		s.Fatalf("the group changed (-before +after):\n%s", diff)
	}
}

// command runs lvm as somebody else on the host would.
func (s *suite) command(name string, args ...string) {
	s.Helper()
	res, err := s.Runner.Run(s.ctx, lvm.Command{Name: name, Args: append([]string{"--devices", s.group.Devices[0].String()}, args...)})
	s.ok(err)
	if res.Exit != 0 {
		s.Fatalf("%s: exit %d: %s", name, res.Exit, res.Stderr)
	}
}

var compareNames = cmp.Options{
	cmp.Comparer(func(a, b lvm.VGName) bool { return a == b }),
	cmp.Comparer(func(a, b lvm.LVName) bool { return a == b }),
	cmp.Comparer(func(a, b lvm.Tag) bool { return a == b }),
}

func (s *suite) equal(what string, got, want any) {
	s.Helper()
	if diff := cmp.Diff(want, got, compareNames); diff != "" {
		s.Fatalf("%s (-want +got):\n%s", what, diff)
	}
}

// makeVG makes the group on the first n disks.
func (s *suite) makeVG(n int) {
	s.Helper()
	s.group.Devices = s.Disks[:n]
	s.ok(s.Client.VGCreate(s.ctx, lvm.VGCreate{
		Group: s.group, Tags: lvTags("lamina.pool=conformance"), MetadataSize: metadataSize,
	}))
}

var pool = lvName("pool0")

// makePool makes the group and a pool of that many bytes.
func (s *suite) makePool(size int64) {
	s.Helper()
	s.makeVG(1)
	s.ok(s.Client.LVCreateThinPool(s.ctx, lvm.ThinPoolCreate{
		NewLV: s.newLV("pool0"), Size: size, MetadataSize: 4 * mib, ChunkSize: 64 << 10,
	}))
}

func (s *suite) newLV(name string, tags ...string) lvm.NewLV {
	return lvm.NewLV{Group: s.group, Name: lvName(name), Tags: lvTags(tags...)}
}

// makeThin makes a thin volume and gives the path of its device.
func (s *suite) makeThin(name string, size int64) string {
	s.Helper()
	s.ok(s.Client.LVCreateThin(s.ctx, s.newLV(name), pool, size))
	return s.path(name)
}

func (s *suite) makeSnapshot(name, origin string, readOnly bool) {
	s.Helper()
	s.ok(s.Client.LVCreateSnapshot(s.ctx, lvm.LVSnapshot{
		NewLV: s.newLV(name), Origin: lvName(origin), ReadOnly: readOnly,
	}))
}

func (s *suite) vg() *lvm.VG {
	s.Helper()
	vg, err := s.Client.ReadVG(s.group)
	s.ok(err)
	return vg
}

func (s *suite) lv(name string) lvm.LV {
	s.Helper()
	lv, found := s.vg().LV(lvName(name))
	if !found {
		s.Fatalf("no LV %s", name)
	}
	return *lv
}

func (s *suite) dm(name string) string { return lvm.DMName(s.group.Name, lvName(name), "") }

func (s *suite) info(name string) lvm.DeviceInfo {
	s.Helper()
	info, err := s.Client.Kernel().Info(s.dm(name))
	s.ok(err)
	return info
}

func (s *suite) path(name string) string {
	s.Helper()
	return s.info(name).Path()
}

func (s *suite) inactive(name string) {
	s.Helper()
	if _, err := s.Client.Kernel().Info(s.dm(name)); !errors.Is(err, lvm.ErrNotFound) {
		s.Fatalf("device of %s: %v, want none", name, err)
	}
}

// deviceSize is the size of the live table in bytes.
func (s *suite) deviceSize(name string) int64 {
	s.Helper()
	table, err := s.Client.Kernel().Table(s.dm(name))
	s.ok(err)
	var sectors uint64
	for _, t := range table {
		sectors += t.Length
	}
	return int64(sectors) * sectorSize
}

func (s *suite) mapped(name string) int64 {
	s.Helper()
	status, err := s.Client.ThinStatus(s.group.Name, lvName(name))
	s.ok(err)
	return status.MappedSectors * sectorSize
}

func pattern(text string, size int) []byte {
	return bytes.Repeat([]byte(text), size/len(text)+1)[:size]
}

func (s *suite) write(path string, off int64, data []byte) {
	s.Helper()
	s.ok(s.Write(path, off, data))
}

func (s *suite) holds(path string, off int64, want []byte) {
	s.Helper()
	got, err := s.Read(path, off, len(want))
	s.ok(err)
	if !bytes.Equal(got, want) {
		s.Fatalf("%s at %d begins with %q, want %q", path, off, got[:min(16, len(got))], want[:min(16, len(want))])
	}
}

// snapshotHolds reads a snapshot that is not active.
func (s *suite) snapshotHolds(name string, want []byte) {
	s.Helper()
	s.ok(s.Client.LVActivate(s.ctx, s.group, lvName(name)))
	s.holds(s.path(name), 0, want)
	s.ok(s.Client.LVDeactivate(s.ctx, s.group, lvName(name)))
}

// summary is what both ways of reading a group tell of an LV.
type summary struct {
	UUID, Type, Pool, Origin string
	Size                     int64
	Tags                     []string
}

// agree compares what the metadata says with what lvm reports.
func (s *suite) agree() {
	s.Helper()
	report, err := s.Client.FullReport(s.ctx, s.group.Devices...)
	s.ok(err)
	if len(report.VGs) != 1 {
		s.Fatalf("%d groups in the report", len(report.VGs))
	}
	vg, r := s.vg(), report.VGs[0]
	s.equal("name", vg.Name, r.Name)
	s.equal("UUID", vg.UUID, r.UUID)
	s.equal("free bytes", vg.Free(), r.Free)
	s.equal("tags", sorted(vg.Tags), sorted(r.Tags))
	s.equal("missing", 0, r.Missing)
	var size int64
	got, want := map[string]int64{}, map[string]int64{}
	for _, p := range vg.PVs {
		size += p.Size
		got[p.UUID] = p.Size
	}
	for _, p := range r.PVs {
		want[p.UUID] = p.Size
	}
	s.equal("PVs", got, want)
	s.equal("size", size, r.Size)
	read, told := map[string]summary{}, map[string]summary{}
	for _, l := range vg.LVs {
		m := summary{UUID: l.UUID, Type: l.Type, Size: l.Size, Tags: sorted(l.Tags)}
		if l.Thin != nil {
			m.Pool, m.Origin = l.Thin.Pool.String(), l.Thin.Origin.String()
		}
		read[l.Name.String()] = m
	}
	for _, l := range r.LVs {
		m := summary{l.UUID, l.Type, l.Pool, l.Origin, l.Size, sorted(l.Tags)}
		if m.Type == "linear" {
			m.Type = "striped" // over one device; the metadata knows no other word
		}
		told[strings.Trim(l.Name, "[]")] = m
	}
	s.equal("LVs", read, told)
}

func sorted(tags []lvm.Tag) []string {
	var out []string
	for _, t := range tags {
		out = append(out, t.String())
	}
	slices.Sort(out)
	return out
}
