//go:build vm

package lvm_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/lamina-csi/lamina/lvm"
)

var captureDir = flag.String("capture", "", "write what LVM says into this directory, for testdata")

// said is one command and how it ended.
type said struct {
	Name           string
	Args           []string
	Exit           int
	Stdout, Stderr string
}

// recorder is a Runner that keeps what the commands said.
type recorder struct {
	lvm.Exec
	all []said
}

func (r *recorder) Run(ctx context.Context, cmd lvm.Command) (lvm.Result, error) {
	res, err := r.Exec.Run(ctx, cmd)
	r.all = append(r.all, said{cmd.Name, cmd.Args, res.Exit, string(res.Stdout), string(res.Stderr)})
	return res, err
}

// TestCapture makes one of everything and every error, and writes down what LVM
// said and what metadata it wrote. The unit tests read that.
func TestCapture(t *testing.T) {
	if *captureDir == "" {
		t.Log("nothing to write: no -capture")
		return
	}
	r := &recorder{Exec: realLVM(t)}
	disks := realDisks(t)
	t.Cleanup(func() { clearDisks(t, r.Exec, disks) })
	k := &lvm.LinuxKernel{}
	c := captor{T: t, r: r, c: lvm.New(r, k, lvm.Options{}), k: k, disks: disks}
	c.everything()
	c.errors()
}

type captor struct {
	*testing.T
	r     *recorder
	c     *lvm.Client
	k     *lvm.LinuxKernel
	disks []lvm.DevicePath
	g     lvm.Group
}

func (c *captor) ok(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *captor) write(name string, data []byte) {
	c.Helper()
	c.ok(os.WriteFile(filepath.Join(*captureDir, name), data, 0o644))
}

func name(s string) lvm.LVName {
	n, err := lvm.ParseLVName(s)
	if err != nil {
		panic(err)
	}
	return n
}

func tag(s string) lvm.Tag {
	n, err := lvm.ParseTag(s)
	if err != nil {
		panic(err)
	}
	return n
}

func (c *captor) new(s string, tags ...lvm.Tag) lvm.NewLV {
	return lvm.NewLV{Group: c.g, Name: name(s), Tags: tags}
}

// snapshotOf keeps the metadata and the report of the group.
func (c *captor) snapshotOf(what string) {
	raw, err := c.k.ReadMetadata(c.g.Devices[0], lvm.Generation{})
	c.ok(err)
	c.write(what+".metadata", raw.Text)
	_, err = c.c.FullReport(c.Context(), c.g.Devices...)
	c.ok(err)
	c.write(what+".json", []byte(c.r.all[len(c.r.all)-1].Stdout))
}

func (c *captor) everything() {
	ctx := c.Context()
	vg, err := lvm.ParseVGName("lamina-capture")
	c.ok(err)
	c.g = lvm.Group{Name: vg, Devices: c.disks[:3]}
	c.ok(c.c.VGCreate(ctx, lvm.VGCreate{Group: c.g, Tags: []lvm.Tag{tag("lamina.pool=fast"), tag("lamina.schema=1")}, MetadataSize: 4 << 20}))
	c.snapshotOf("empty")
	_, err = c.c.FullReport(ctx, c.disks[3])
	c.ok(err)
	c.ok(c.c.LVCreateThinPool(ctx, lvm.ThinPoolCreate{NewLV: c.new("pool0"), Size: 64 << 20, MetadataSize: 4 << 20, ChunkSize: 64 << 10}))
	c.ok(c.c.LVCreateThin(ctx, c.new("pvc-1", tag("lamina.kind=volume"), tag("lamina.name=a/b:c")), name("pool0"), 100<<20))
	c.ok(c.c.LVCreateSnapshot(ctx, lvm.LVSnapshot{NewLV: c.new("snap-1", tag("lamina.kind=snapshot")), Origin: name("pvc-1"), ReadOnly: true}))
	c.ok(c.c.LVCreateSnapshot(ctx, lvm.LVSnapshot{NewLV: c.new("clone-1"), Origin: name("snap-1")}))
	for layout, l := range map[string]lvm.Layout{
		"linear": {Type: lvm.Linear}, "striped": {Type: lvm.Striped, Stripes: 2}, "raid1": {Type: lvm.Raid1},
	} {
		c.ok(c.c.LVCreateThick(ctx, c.new(layout), 16<<20, l))
	}
	c.ok(c.c.LVCreateThick(ctx, c.new("rpool"), 16<<20, lvm.Layout{Type: lvm.Raid1}))
	c.ok(c.c.LVCreateThick(ctx, c.new("rmetadata"), 4<<20, lvm.Layout{Type: lvm.Raid1}))
	c.ok(c.c.LVConvertThinPool(ctx, c.g, name("rpool"), name("rmetadata"), 128<<10))
	c.ok(c.c.LVExtend(ctx, c.g, name("linear"), 64<<20))
	c.snapshotOf("full")
	_, err = c.c.Version(ctx)
	c.ok(err)
	c.write("version.txt", []byte(c.r.all[len(c.r.all)-1].Stdout))
}

// failure is an error of LVM and what the package makes of it.
type failure struct {
	What string
	Want string // the text of the sentinel
	said
}

func (c *captor) errors() {
	ctx, g := c.Context(), c.g
	nowhere, err := lvm.ParseVGName("nowhere")
	c.ok(err)
	gone := lvm.Group{Name: nowhere, Devices: g.Devices}
	small := lvm.Group{Name: nowhere, Devices: g.Devices[:1]}
	info, err := c.k.Info(lvm.DMName(g.Name, name("clone-1"), ""))
	c.ok(err)
	open, err := os.OpenFile(info.Path(), os.O_RDONLY|os.O_EXCL, 0)
	c.ok(err)
	defer open.Close()
	info, err = c.k.Info(lvm.DMName(g.Name, name("pvc-1"), ""))
	c.ok(err)
	c.ok(writeDevice(info.Path(), 0, make([]byte, 62<<20)))
	var out []failure
	for _, tt := range []struct {
		what string
		want error
		run  func() error
	}{
		{"group exists", lvm.ErrExists, func() error {
			return c.c.VGCreate(ctx, lvm.VGCreate{Group: lvm.Group{Name: g.Name, Devices: c.disks}, MetadataSize: 4 << 20})
		}},
		{"disk of another group", nil, func() error { return c.c.VGCreate(ctx, lvm.VGCreate{Group: small, MetadataSize: 4 << 20}) }},
		{"disk twice", nil, func() error { return c.c.VGExtend(ctx, g, g.Devices[:1], 4<<20) }},
		{"volume exists", lvm.ErrExists, func() error { return c.c.LVCreateThin(ctx, c.new("pvc-1"), name("pool0"), 1<<20) }},
		{"no group", lvm.ErrNotFound, func() error { return c.c.VGAddTag(ctx, gone, tag("a")) }},
		{"no volume to remove", lvm.ErrNotFound, func() error { return c.c.LVRemove(ctx, g, name("none")) }},
		{"no group to remove from", lvm.ErrNotFound, func() error { return c.c.LVRemove(ctx, gone, name("none")) }},
		{"no volume to extend", lvm.ErrNotFound, func() error { return c.c.LVExtend(ctx, g, name("none"), 1<<20) }},
		{"no volume to tag", lvm.ErrNotFound, func() error { return c.c.LVChangeTags(ctx, g, name("none"), []lvm.Tag{tag("a")}, nil) }},
		{"no volume to activate", lvm.ErrNotFound, func() error { return c.c.LVActivate(ctx, g, name("none")) }},
		{"no origin", lvm.ErrNotFound, func() error {
			return c.c.LVCreateSnapshot(ctx, lvm.LVSnapshot{NewLV: c.new("s"), Origin: name("none")})
		}},
		{"no pool", lvm.ErrNotFound, func() error { return c.c.LVCreateThin(ctx, c.new("x"), name("none"), 1<<20) }},
		{"no room", lvm.ErrNoSpace, func() error { return c.c.LVCreateThick(ctx, c.new("x"), 1<<40, lvm.Layout{Type: lvm.Linear}) }},
		{"more stripes than disks", nil, func() error {
			return c.c.LVCreateThick(ctx, c.new("x"), 16<<20, lvm.Layout{Type: lvm.Striped, Stripes: 4})
		}},
		{"no room for a mirror", lvm.ErrNoSpace, func() error { return c.c.LVCreateThick(ctx, c.new("x"), 1<<40, lvm.Layout{Type: lvm.Raid1}) }},
		{"no room for a pool", lvm.ErrNoSpace, func() error {
			return c.c.LVCreateThinPool(ctx, lvm.ThinPoolCreate{NewLV: c.new("x"), Size: 1 << 40, MetadataSize: 4 << 20, ChunkSize: 64 << 10})
		}},
		{"no room to extend", lvm.ErrNoSpace, func() error { return c.c.LVExtend(ctx, g, name("linear"), 1<<40) }},
		{"no room to extend a pool", lvm.ErrNoSpace, func() error { return c.c.LVExtend(ctx, g, name("pool0"), 1<<40) }},
		{"no room for pool metadata", lvm.ErrNoSpace, func() error { return c.c.LVExtendPoolMetadata(ctx, g, name("pool0"), 15<<30) }},
		{"extend to the same size", nil, func() error { return c.c.LVExtend(ctx, g, name("linear"), 64<<20) }},
		{"extend to less", nil, func() error { return c.c.LVExtend(ctx, g, name("linear"), 32<<20) }},
		{"remove an open volume", lvm.ErrInUse, func() error { return c.c.LVRemove(ctx, g, name("clone-1")) }},
		{"deactivate an open volume", lvm.ErrInUse, func() error { return c.c.LVDeactivate(ctx, g, name("clone-1")) }},
		{"volume in a full pool", lvm.ErrNoSpace, func() error { return c.c.LVCreateThin(ctx, c.new("x"), name("pool0"), 1<<20) }},
		{"snapshot in a full pool", lvm.ErrNoSpace, func() error {
			return c.c.LVCreateSnapshot(ctx, lvm.LVSnapshot{NewLV: c.new("x"), Origin: name("pvc-1"), ReadOnly: true})
		}},
	} {
		err := tt.run()
		last := c.r.all[len(c.r.all)-1]
		c.Logf("%s: %v", tt.what, err)
		switch {
		case err == nil:
			c.Errorf("%s: no error", tt.what)
		case tt.want != nil && !errors.Is(err, tt.want):
			c.Errorf("%s: %v, want %v", tt.what, err, tt.want)
		}
		want := ""
		if tt.want != nil {
			want = tt.want.Error()
		}
		out = append(out, failure{tt.what, want, last})
	}
	text, err := json.MarshalIndent(out, "", "\t")
	c.ok(err)
	c.write("errors.txt", text)
}
