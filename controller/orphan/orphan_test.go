package orphan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lamina-csi/lamina/driver/link"
)

func wantDiff(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// uid is a claim's: only such a name becomes an LV's as it is.
const uid = "00000000-0000-4000-8000-000000000001"

// claim has that UID; volume is the PV that it is bound to, if any.
func claim(volume string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "claim", UID: uid},
		Spec:       corev1.PersistentVolumeClaimSpec{VolumeName: volume},
	}
}

func TestVolumesWithoutPV(t *testing.T) {
	r := newRig(t)
	id := r.create(r.a, "pvc-"+uid)
	other := r.create(r.a, "other")
	wantDiff(t, "nobody tells of them", sorted("volume "+id, "volume "+other), r.orphans())

	r.setPV(pv("other", "b", other)) // its node is wrong, but it tells of the volume
	r.setClaim(claim(""))
	wantDiff(t, "being made", []string(nil), r.orphans())

	r.setClaim(claim("pv-elsewhere"))
	wantDiff(t, "the claim got another volume", []string{"volume " + id}, r.orphans())

	r.setPV(pv("pv", "a", id))
	wantDiff(t, "made", []string(nil), r.orphans())

	gone := pv("pv", "a", id)
	if err := r.volumes.GetStore().Delete(gone); err != nil {
		t.Fatal(err)
	}
	if _, err := r.a.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: id}); err != nil {
		t.Fatal(err)
	}
	wantDiff(t, "removed", []string(nil), r.orphans())
}

func sorted(s ...string) []string {
	slices.Sort(s)
	return s
}

func TestPVsWithoutVolume(t *testing.T) {
	r := newRig(t)
	vg := r.a.VolumeGroup()
	id := r.create(r.a, "pvc-1")
	elsewhere := r.add("b").VolumeGroup()
	now := metav1.Now()
	r.setPV(
		pv("there", "a", id),
		pv("lost", "a", vg+"/pvc-lost"),
		pv("kept", "a", vg+"/pvc-kept", func(p *corev1.PersistentVolume) {
			p.Status.Phase, p.Spec.PersistentVolumeReclaimPolicy = corev1.VolumeReleased, corev1.PersistentVolumeReclaimRetain
		}),
		pv("released", "a", vg+"/pvc-released", func(p *corev1.PersistentVolume) { p.Status.Phase = corev1.VolumeReleased }),
		pv("deleted", "a", vg+"/pvc-deleted", func(p *corev1.PersistentVolume) { p.DeletionTimestamp = &now }),
		pv("others", "a", vg+"/pvc-others", func(p *corev1.PersistentVolume) { p.Spec.CSI.Driver = "example.com/csi" }),
		pv("carried", "a", elsewhere+"/pvc-carried"),
		pv("no-group", "a", "no-such-group/pvc-1"),
		pv("not-linked", "c", "group-of-c/pvc-1"),
		pv("of-b", "b", elsewhere+"/pvc-of-b"), // b has lost it; a is asked
	)
	wantDiff(t, "orphans", sorted("persistentvolume "+vg+"/pvc-kept", "persistentvolume "+vg+"/pvc-lost", "persistentvolume no-such-group/pvc-1"), r.orphans())
}

// A pool that is not whole proves nothing.
func TestWhole(t *testing.T) {
	got := map[string]bool{}
	for _, health := range []string{"ok", "full", "readonly", "degraded", "missing-disk", "error", ""} {
		got[health] = whole(&link.PoolStatus{Health: health, Disks: []string{"/dev/nvme0n1"}})
	}
	got["no disks"] = whole(&link.PoolStatus{Health: "ok"})
	wantDiff(t, "whole", map[string]bool{
		"ok": true, "full": true, "readonly": true, "degraded": true, "missing-disk": false, "error": false, "": false, "no disks": false,
	}, got)
}

// A volume that comes or goes while the node is asked is no orphan.
func TestRace(t *testing.T) {
	r := newRig(t)
	leaving := r.create(r.a, "leaving")
	r.setPV(pv("leaving", "a", leaving))
	r.a.Around(func(_ context.Context, method string, call func() error) error {
		if method != "ListVolumes" {
			return call()
		}
		coming := r.create(r.a, "coming")
		if _, err := r.a.DeleteVolume(t.Context(), &csi.DeleteVolumeRequest{VolumeId: leaving}); err != nil {
			return err
		}
		err := call()
		r.setPV(pv("coming", "a", coming))
		return errors.Join(err, r.volumes.GetStore().Delete(pv("leaving", "a", leaving)))
	})
	wantDiff(t, "orphans", []string(nil), r.orphans())
}

// Two looks a minute apart make an orphan, once.
func TestTake(t *testing.T) {
	r := newRig(t)
	r.changed("a")
	v := r.views["a"]
	began := time.Now()
	o := orphan{kind: kindVolume, id: "vg/pvc-1"}
	for _, step := range []struct {
		at      time.Duration
		orphans []orphan
		found   int
		again   time.Duration
	}{
		{0, []orphan{o}, 0, r.apart},
		{59 * time.Second, []orphan{o}, 0, r.apart},
		{2 * time.Minute, nil, 0, r.cycle}, // it was none
		{3 * time.Minute, []orphan{o}, 0, r.apart},
		{4 * time.Minute, []orphan{o, {kind: kindPV, id: "vg/pvc-1"}}, 1, r.apart},
		{14 * time.Minute, []orphan{o}, 0, r.cycle},
		{24 * time.Minute, nil, 0, r.cycle},
	} {
		found, again := r.take("a", v, look{began: began.Add(step.at), orphans: step.orphans})
		if len(found) != step.found || again < step.again || again > step.again+step.again/4 {
			t.Errorf("after %s: %d new orphans, again in %s; want %d, %s", step.at, len(found), again, step.found, step.again)
		}
	}
}

// metric is the gauge's values by "kind node".
func (r *rig) metric() map[string]float64 {
	r.t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(r.Finder)
	families, err := registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			out[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = m.GetGauge().GetValue()
		}
	}
	return out
}

func TestMetric(t *testing.T) {
	r := newRig(t)
	r.changed("a")
	wantDiff(t, "before the first look", map[string]float64{}, r.metric())
	v, began := r.views["a"], time.Now()
	seen := look{began: began, orphans: []orphan{{kind: kindVolume, id: "1"}, {kind: kindVolume, id: "2"}, {kind: kindPV, id: "3"}}}
	r.take("a", v, seen)
	wantDiff(t, "suspects", map[string]float64{"persistentvolume a": 0, "volume a": 0}, r.metric())
	seen.began = began.Add(time.Minute)
	r.take("a", v, seen)
	wantDiff(t, "orphans", map[string]float64{"persistentvolume a": 1, "volume a": 2}, r.metric())
	r.a.Unlink()
	r.changed("a")
	wantDiff(t, "away", map[string]float64{}, r.metric())
	// A look that ends after the link is no news.
	if found, _ := r.take("a", v, look{began: began.Add(time.Hour), orphans: []orphan{{kind: kindVolume, id: "4"}}}); found != nil {
		t.Errorf("found %v on a node that is away", found)
	}
	wantDiff(t, "still away", map[string]float64{}, r.metric())
}

func TestEvents(t *testing.T) {
	r := newRig(t)
	var found []orphan
	for i := range 7 {
		found = append(found, orphan{kind: kindVolume, text: fmt.Sprintf("lamina-fast/pvc-%d", i)})
	}
	lost := pv("lost", "a", "vg/pvc-lost")
	r.tell("a", append(found, orphan{kind: kindPV, pv: lost, text: "node a has no volume pvc-lost in volume group lamina-fast"}))
	wantDiff(t, "events", []string{
		"a Warning OrphanedVolume: no PersistentVolume tells of lamina-fast/pvc-0, lamina-fast/pvc-1, lamina-fast/pvc-2, lamina-fast/pvc-3, lamina-fast/pvc-4, and 2 more; they take room and are never removed by themselves",
		"lost Warning VolumeMissing: node a has no volume pvc-lost in volume group lamina-fast",
	}, r.events.take())
	// A Node that is not in the cluster gets none.
	r.tell("gone", found)
	wantDiff(t, "events", []string(nil), r.events.take())
}

// unsettled is an agent that has not looked at its disks yet.
type unsettled struct{ link.UnimplementedPoolsServer }

func (unsettled) Watch(_ *link.WatchRequest, s grpc.ServerStreamingServer[link.WatchResponse]) error {
	return s.Send(&link.WatchResponse{})
}

func TestUnsettled(t *testing.T) {
	r := newRig(t)
	r.setPV(pv("lost", "c", "vg/pvc-1"))
	s := grpc.NewServer()
	link.RegisterPoolsServer(s, unsettled{})
	r.cluster.Up(t, "c", s)
	if _, err := r.look(t.Context(), "c"); !errors.Is(err, errUnsettled) {
		t.Errorf("got %v, want %v", err, errUnsettled)
	}
	if seen, err := r.look(t.Context(), "not-linked"); err == nil {
		t.Errorf("a node without link has orphans: %v", seen)
	}
}

// Nothing is removed, and all is told, by the loop as it runs.
func TestRun(t *testing.T) {
	r := newRig(t)
	r.soon, r.apart, r.cycle = time.Millisecond, time.Millisecond, time.Millisecond
	id := r.create(r.a, "pvc-1")
	lost := r.a.VolumeGroup() + "/pvc-lost"
	r.setPV(pv("lost", "a", lost))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	got := []string{<-r.events, <-r.events}
	for _, want := range []string{id, "no volume pvc-lost"} {
		if !strings.Contains(got[0]+got[1], want) {
			t.Errorf("events %q say nothing of %q", got, want)
		}
	}
	// A node whose link comes later is found too.
	b := r.add("b")
	onB := r.create(b, "pvc-2")
	if got := <-r.events; !strings.HasPrefix(got, "b ") || !strings.Contains(got, onB) {
		t.Errorf("event %q, want one on b about %s", got, onB)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	list, err := r.a.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	if err != nil || len(list.GetEntries()) != 1 {
		t.Errorf("node a lists %v, %v", list, err)
	}
	for _, a := range r.kube.Actions() {
		if verb := a.GetVerb(); verb != "list" && verb != "watch" {
			t.Errorf("the API server was asked to %s %s", verb, a.GetResource().Resource)
		}
	}
}
