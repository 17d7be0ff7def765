//go:build cluster

package e2e

import (
	"fmt"
	"strings"
)

// volume is a claim and a pod of the same name that uses it; the pod does nothing.
type volume struct {
	name, size string
	class      string // empty: lamina
	mode       string // of access; empty: ReadWriteOnce
	block      bool   // the device is /dev/data; otherwise the file system is in /data
	from       string // a JSON object: dataSource
	prefer     string // the node that the scheduler shall prefer
	noPod      bool
}

func (v volume) manifest() string {
	class, mode := v.class, v.mode
	if class == "" {
		class = "lamina"
	}
	if mode == "" {
		mode = "ReadWriteOnce"
	}
	volumeMode, use := "Filesystem", `volumeMounts: [{name: data, mountPath: /data}]`
	if v.block {
		volumeMode, use = "Block", `volumeDevices: [{name: data, devicePath: /dev/data}]`
	}
	out := fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %s}
spec:
  storageClassName: %s
  accessModes: [%s]
  volumeMode: %s
  resources: {requests: {storage: %s}}
`, v.name, class, mode, volumeMode, v.size)
	if v.from != "" {
		out += "  dataSource: " + v.from + "\n"
	}
	if v.noPod {
		return out
	}
	out += fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: app
    image: %s
    command: [sleep, infinity]
    %s
  volumes:
  - name: data
    persistentVolumeClaim: {claimName: %s}
`, v.name, busybox, use, v.name)
	if v.prefer != "" {
		out += fmt.Sprintf(`  affinity:
    nodeAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [%s]}]}
`, v.prefer)
	}
	return out
}

// volumes applies volumes.
func (s *space) volumes(volumes ...volume) {
	s.Helper()
	var all []string
	for _, v := range volumes {
		all = append(all, v.manifest())
	}
	s.apply(all...)
}

// class applies a StorageClass that differs from the base's in some lines, and
// removes it with the step.
func (s *space) class(name, parameters, rest string) {
	s.Helper()
	s.apply(fmt.Sprintf(`
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: %s}
provisioner: lamina.dev
parameters: {pool: fast%s}
allowVolumeExpansion: true
%s
`, name, parameters, strings.TrimSpace(rest)))
	s.Cleanup(func() {
		if _, err := s.c.Kubectl(s.ctx, "delete", "storageclass", name); err != nil {
			s.Error(err)
		}
	})
}

const late = "volumeBindingMode: WaitForFirstConsumer"

// placement: a volume goes where there is room, and nowhere without.
func (s *space) placement() {
	s.class("lamina-now", "", "volumeBindingMode: Immediate")
	before := s.capacities("lamina")
	most := max(before["node-0"], before["node-1"])
	s.volumes(volume{name: "huge", size: "100Ti"})
	s.event("Pod/huge", "FailedScheduling", "did not have enough free storage")
	s.equal("the claim too large for every node", s.field("pvc/huge", "{.status.phase}"), "Pending")

	// Two of these do not fit on a node.
	size := fmt.Sprint(most/2 + most/10)
	s.volumes(volume{name: "first", size: size})
	s.ready("first")
	first := s.nodeOf("first")
	s.until("the capacity of "+first+" falls", func() (bool, string) {
		now := s.capacity("lamina")
		return now[first] < before[first]-most/2, fmt.Sprint(now)
	})
	s.volumes(volume{name: "second", size: size, prefer: first})
	s.ready("second")
	s.equal("the node with room", s.nodeOf("second"), s.other(first))
	s.volumes(volume{name: "third", size: size})
	s.event("Pod/third", "FailedScheduling", "did not have enough free storage")

	s.kubectl("delete", "pod,pvc", "huge", "first", "second", "third", "--wait=false")
	s.until("the capacity comes back", func() (bool, string) {
		now := s.capacity("lamina")
		return now["node-0"] >= before["node-0"] && now["node-1"] >= before["node-1"], fmt.Sprint(now)
	})

	s.volumes(volume{name: "now", size: "1Gi", class: "lamina-now", noPod: true})
	s.bound("now")
}

// modes: raw block, ReadWriteOncePod, generic ephemeral volumes, xfs and btrfs.
func (s *space) modes() {
	s.class("lamina-xfs", ", csi.storage.k8s.io/fstype: xfs", late)
	s.class("lamina-btrfs", ", csi.storage.k8s.io/fstype: btrfs", late)
	s.example("block.yaml", "rwop.yaml", "ephemeral.yaml")
	s.volumes(
		volume{name: "xfs", size: "1Gi", class: "lamina-xfs"},
		volume{name: "btrfs", size: "1Gi", class: "lamina-btrfs"})
	s.ready("disk", "alone", "scratch", "xfs", "btrfs")
	s.equal("the block device", s.kubectl("logs", "disk"), "1073741824")
	for _, fs := range []string{"xfs", "btrfs"} {
		s.equal("the file system", s.sh(fs, "grep ' /data ' /proc/mounts | cut -d' ' -f3"), fs)
	}

	s.apply(strings.Replace(podOf(volume{name: "alone", size: "1Gi", mode: "ReadWriteOncePod"}), "{name: alone}", "{name: intruder}", 1))
	s.event("Pod/intruder", "FailedScheduling", "ReadWriteOncePod")

	claim := s.field("pvc/scratch-scratch", "{.spec.volumeName}")
	s.kubectl("delete", "pod", "scratch")
	s.cluster("wait", "--for=delete", "pv/"+claim, fmt.Sprintf("--timeout=%v", patience))
}

// podOf is a volume's pod alone.
func podOf(v volume) string {
	_, pod, _ := strings.Cut(v.manifest(), "---\n")
	return pod
}

// expansion: volumes grow while they are used.
func (s *space) expansion() {
	s.class("lamina-grow-xfs", ", csi.storage.k8s.io/fstype: xfs", late)
	s.volumes(
		volume{name: "ext4", size: "1Gi"},
		volume{name: "xfs", size: "1Gi", class: "lamina-grow-xfs"},
		volume{name: "block", size: "1Gi", block: true})
	s.ready("ext4", "xfs", "block")
	size := func(pod string) string {
		if pod == "block" {
			return s.sh(pod, "blockdev --getsize64 /dev/data")
		}
		return s.sh(pod, "df -Pm /data | awk 'END {print ($2 > 1900) ? \"large\" : \"small\"}'")
	}
	for pod, want := range map[string]string{"ext4": "small", "xfs": "small", "block": "1073741824"} {
		s.equal("the size of "+pod, size(pod), want)
		s.kubectl("patch", "pvc", pod, "-p", `{"spec": {"resources": {"requests": {"storage": "2Gi"}}}}`)
	}
	for pod, want := range map[string]string{"ext4": "large", "xfs": "large", "block": "2147483648"} {
		s.wait("jsonpath={.status.capacity.storage}=2Gi", "pvc/"+pod)
		s.equal("the new size of "+pod, size(pod), want)
		s.equal("restarts of "+pod, s.field("pod/"+pod, "{.status.containerStatuses[0].restartCount}"), "0")
	}
}
