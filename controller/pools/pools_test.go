package pools

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lamina-csi/lamina/driver/link"
)

func wantDiff(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestLabelsBecomePools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a", "fast=nvme", "big=from-os"), node("b"), configMap(map[string]string{"from-os": "adopt: data"}))
		defer func() { r.stop() }()
		wantDiff(t, "desired", r.agents.desired, map[string]string{"a": `big=from-os "adopt: data"; fast=nvme ""`, "b": ""})
		sets := r.agents.sets
		r.update("a", func(n *corev1.Node) { n.Status.Conditions[0].LastHeartbeatTime = metav1.Now() })
		r.say("a", pool("fast", 1))
		if r.agents.sets != sets {
			t.Errorf("%d sets of what is wanted already", r.agents.sets-sets)
		}
		r.setProfiles(map[string]string{"from-os": "adopt: other", "nvme": "disks: {count: 1}"})
		wantDiff(t, "other profiles", r.agents.desired["a"], `big=from-os "adopt: other"; fast=nvme "disks: {count: 1}"`)
		r.update("a", func(n *corev1.Node) { delete(n.Labels, link.PoolLabelPrefix+"big") })
		wantDiff(t, "label removed", r.agents.desired["a"], `fast=nvme "disks: {count: 1}"`)
		r.update("a", func(n *corev1.Node) { delete(n.Labels, link.PoolLabelPrefix+"fast") })
		wantDiff(t, "last label removed", r.agents.desired["a"], "")
	})
}

// The ConfigMap might redefine nvme: without it nothing is known.
func TestNothingIsSetBeforeTheProfilesAreRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a", "fast=nvme"), node("b"))
		defer func() { r.stop() }()
		r.agents.say("a", true)
		r.pass(5 * time.Minute)
		wantDiff(t, "desired", r.agents.desired, map[string]string{})
		wantDiff(t, "conditions", r.conditions("a")["pool.lamina.dev/fast"],
			"Unknown Pending: the ConfigMap lamina-profiles with the profiles has not been read")
		if _, err := r.client.CoreV1().ConfigMaps(namespace).Create(t.Context(), configMap(nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		r.settle()
		wantDiff(t, "desired with profiles", r.agents.desired, map[string]string{"a": `fast=nvme ""`, "b": ""})
	})
}

func TestDeletedProfilesStillCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a", "fast=mirror"), configMap(map[string]string{"mirror": "layout: raid1"}))
		defer func() { r.stop() }()
		if err := r.client.CoreV1().ConfigMaps(namespace).Delete(t.Context(), ProfilesConfigMap, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		r.settle()
		r.update("a", func(n *corev1.Node) { n.Labels[link.PoolLabelPrefix+"more"] = "mirror" })
		wantDiff(t, "desired", r.agents.desired["a"], `fast=mirror "layout: raid1"; more=mirror "layout: raid1"`)
	})
}

func TestUnknownProfileChangesNothing(t *testing.T) {
	for _, profile := range []string{"nmve", ""} {
		t.Run("profile "+profile, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, node("a", "fast="+profile), configMap(map[string]string{"mirror": ""}))
				defer func() { r.stop() }()
				complaint := "the label pool.lamina.dev/fast=" + profile + " names no profile; there are mirror, nvme; nothing was changed"
				// Left out, an existing pool would no longer be wanted.
				wantDiff(t, "desired", r.agents.desired["a"], `fast=`+profile+` "there is no profile \"`+profile+`\""`)
				wantDiff(t, "events", r.events.take(), []string{"a Warning UnknownProfile: pool fast: " + complaint})
				wantDiff(t, "condition", r.conditions("a")["pool.lamina.dev/fast"], "False UnknownProfile: "+complaint)

				// The agent keeps a pool that it has.
				r.say("a", pool("fast", 12, func(s *link.PoolStatus) { s.Error = "json: cannot unmarshal string" }))
				wantDiff(t, "condition", r.conditions("a")["pool.lamina.dev/fast"],
					"False UnknownProfile: "+complaint+"; 1.0 TiB on 1 disk (/dev/nvme0n1), over 10 % used, volume group lamina-fast")
				r.writes()
				r.stop()
				r.agents.say("a", false)
				r.start()
				r.say("a", pool("fast", 12))
				r.pass(time.Hour)
				wantDiff(t, "writes after a restart", r.writes(), []string(nil))
				wantDiff(t, "events after a restart", r.events.take(), []string(nil))

				r.setProfiles(map[string]string{profile + "x": "", "nvme": ""})
				r.update("a", func(n *corev1.Node) { n.Labels[link.PoolLabelPrefix+"fast"] = "nvme" })
				wantDiff(t, "condition", r.conditions("a")["pool.lamina.dev/fast"],
					"True Ok: 1.0 TiB on 1 disk (/dev/nvme0n1), over 10 % used, volume group lamina-fast")
			})
		})
	}
}

func TestConditionsOfPools(t *testing.T) {
	tests := map[string]struct {
		status *link.PoolStatus
		want   string
		events []string
	}{
		"ok": {
			status: pool("fast", 37),
			want:   "True Ok: 1.0 TiB on 1 disk (/dev/nvme0n1), over 30 % used, volume group lamina-fast",
			events: []string{"a Normal PoolOk: pool fast: 1.0 TiB on 1 disk (/dev/nvme0n1), over 30 % used, volume group lamina-fast"},
		},
		"refused disks": {
			status: pool("fast", 0, func(s *link.PoolStatus) {
				s.Refused = []*link.Refused{{Disk: "/dev/nvme1n1", Reason: "it has a partition table"}, {Disk: "/dev/nvme2n1", Reason: "pool big wants it too"}}
			}),
			want: "True Ok: 1.0 TiB on 1 disk (/dev/nvme0n1), under 10 % used, volume group lamina-fast; /dev/nvme1n1 is refused: it has a partition table; /dev/nvme2n1 is refused: pool big wants it too",
			events: []string{
				"a Normal PoolOk: pool fast: 1.0 TiB on 1 disk (/dev/nvme0n1), under 10 % used, volume group lamina-fast",
				"a Normal DiskRefused: pool fast: /dev/nvme1n1 is refused: it has a partition table",
				"a Normal DiskRefused: pool fast: /dev/nvme2n1 is refused: pool big wants it too",
			},
		},
		"full": {
			status: pool("fast", 91, func(s *link.PoolStatus) { s.Health, s.Text = "full", "the thin pool's data is 91% full" }),
			want:   "False Full: the thin pool's data is 91% full; 1.0 TiB on 1 disk (/dev/nvme0n1), over 90 % used, volume group lamina-fast",
			events: []string{"a Warning PoolFull: pool fast: the thin pool's data is 91% full"},
		},
		"missing disk": {
			status: pool("fast", 5, func(s *link.PoolStatus) { s.Health, s.Text = "missing-disk", "1 of 2 disks are missing" }),
			want:   "False MissingDisk: 1 of 2 disks are missing; 1.0 TiB on 1 disk (/dev/nvme0n1), under 10 % used, volume group lamina-fast",
			events: []string{"a Warning PoolMissingDisk: pool fast: 1 of 2 disks are missing"},
		},
		"degraded": {
			status: pool("fast", 5, func(s *link.PoolStatus) { s.Health, s.Text = "degraded", "a disk has failed" }),
			want:   "False Degraded: a disk has failed; 1.0 TiB on 1 disk (/dev/nvme0n1), under 10 % used, volume group lamina-fast",
			events: []string{"a Warning PoolDegraded: pool fast: a disk has failed"},
		},
		"read-only": {
			status: pool("fast", 5, func(s *link.PoolStatus) { s.Health, s.Text = "readonly", "mode ro" }),
			want:   "False ReadOnly: mode ro; 1.0 TiB on 1 disk (/dev/nvme0n1), under 10 % used, volume group lamina-fast",
			events: []string{"a Warning PoolReadOnly: pool fast: mode ro"},
		},
		"could not be made": {
			status: &link.PoolStatus{Name: "fast", Wanted: true, Health: "error", Text: "no disk may be claimed", Error: "no disk may be claimed"},
			want:   "False Error: no disk may be claimed",
			events: []string{"a Warning PoolError: pool fast: no disk may be claimed"},
		},
		"not as wanted": {
			status: pool("fast", 5, func(s *link.PoolStatus) { s.Error = "profile: unknown field \"disk\"" }),
			want:   "False Error: profile: unknown field \"disk\"; 1.0 TiB on 1 disk (/dev/nvme0n1), under 10 % used, volume group lamina-fast",
			events: []string{"a Warning PoolError: pool fast: profile: unknown field \"disk\""},
		},
		"a health of a later agent": {
			status: pool("fast", 5, func(s *link.PoolStatus) { s.Health, s.Text = "tired", "wants a rest" }),
			want:   "False Error: wants a rest; 1.0 TiB on 1 disk (/dev/nvme0n1), under 10 % used, volume group lamina-fast",
			events: []string{"a Warning PoolError: pool fast: wants a rest"},
		},
		// The agent has just started and was not told yet.
		"not wanted yet": {
			status: pool("fast", 5, func(s *link.PoolStatus) { s.Wanted = false }),
			want:   "True Ok: 1.0 TiB on 1 disk (/dev/nvme0n1), under 10 % used, volume group lamina-fast",
			events: []string{"a Normal PoolOk: pool fast: 1.0 TiB on 1 disk (/dev/nvme0n1), under 10 % used, volume group lamina-fast"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, node("a", "fast=nvme"), configMap(nil))
				defer func() { r.stop() }()
				r.say("a", test.status)
				wantDiff(t, "condition", r.conditions("a")["pool.lamina.dev/fast"], test.want)
				wantDiff(t, "kubelet's condition", r.conditions("a")["Ready"], "True KubeletReady: ")
				wantDiff(t, "events", r.events.take(), test.events)
				wantDiff(t, "writes", r.writes(), []string{"patch nodes/status"})
				// A new leader finds all told already.
				r.stop()
				r.start()
				r.say("a", test.status)
				r.pass(time.Hour)
				wantDiff(t, "writes after a restart", r.writes(), []string(nil))
				wantDiff(t, "events after a restart", r.events.take(), []string(nil))
			})
		})
	}
}

// The load on the API must not grow with the volumes: use is told in steps.
func TestWritesAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a", "fast=nvme"), configMap(nil))
		defer func() { r.stop() }()
		writes := 0
		say := func(used int64, volumes int32) {
			r.say("a", pool("fast", used, func(s *link.PoolStatus) {
				s.Volumes, s.Virtual = volumes, int64(volumes)<<30
				if used >= 90 {
					s.Health, s.Text = "full", "the thin pool's data is "+string(rune('0'+used/10))+string(rune('0'+used%10))+"% full"
				}
			}))
			writes += len(r.writes())
		}
		for used := range int64(100) {
			say(used, int32(used))
		}
		// One at first, one for each step of ten percent; full comes with the last.
		if writes != 10 {
			t.Errorf("%d writes while a pool filled, 10 are needed", writes)
		}
		writes = 0
		say(55, 1)
		for range 20 {
			say(49, 1)
			say(51, 1)
		}
		if writes != 1 {
			t.Errorf("%d writes while the use went to and fro, 1 is needed", writes)
		}
		r.pass(24 * time.Hour)
		wantDiff(t, "heartbeats", r.writes(), []string(nil))
	})
}

func TestManyChangesAtOnceAreOneWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a", "fast=nvme", "big=nvme"), configMap(nil))
		defer func() { r.stop() }()
		for used := range int64(100) {
			r.agents.say("a", true, pool("fast", used), pool("big", 99-used))
		}
		r.settle()
		wantDiff(t, "writes", r.writes(), []string{"patch nodes/status"})
		wantDiff(t, "conditions", keys(r.conditions("a")), []string{"Ready", "pool.lamina.dev/big", "pool.lamina.dev/fast"})
	})
}

func TestTransitionTimeIsThatOfTheStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a", "fast=nvme"), configMap(nil))
		defer func() { r.stop() }()
		at := func() (transition, heartbeat time.Time) {
			c := poolConditions(r.node("a"))["fast"]
			return c.LastTransitionTime.Time, c.LastHeartbeatTime.Time
		}
		r.say("a", pool("fast", 5))
		first, _ := at()
		r.say("a", pool("fast", 25))
		second, heartbeat := at()
		if !second.Equal(first) || !heartbeat.After(first) {
			t.Errorf("status since %v then %v, written %v", first, second, heartbeat)
		}
		r.say("a", pool("fast", 25, func(s *link.PoolStatus) { s.Health = "degraded" }))
		if third, _ := at(); !third.After(second) {
			t.Errorf("status since %v, earlier %v", third, second)
		}
	})
}

func TestPatchIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, node("a", "fast=nvme"), configMap(nil))
		defer func() { r.stop() }()
		r.failPatches(2, errors.New("the API server is away"))
		r.say("a", pool("fast", 5))
		r.pass(10 * time.Second)
		wantDiff(t, "writes", r.writes(), []string{"patch nodes/status", "patch nodes/status", "patch nodes/status"})
		// What was not written was not told either.
		if got := r.events.take(); len(got) != 1 {
			t.Errorf("events: %q", got)
		}
	})
}
