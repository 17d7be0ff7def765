package main

import (
	"context"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/lamina-csi/lamina/driver/link"
)

// addVolumes makes the volumes that exist, in the agents' LVM and in Kubernetes.
// One claim and its volume go through the API server; the others are their copies,
// put into etcd as the API server would: four requests for each are ten minutes of
// work at 50,000, and what the controller sees is the same.
func (b *bench) addVolumes(ctx context.Context, client kubernetes.Interface) error {
	if b.Volumes == 0 {
		return nil
	}
	start := time.Now()
	c, pv, err := b.firstVolume(ctx, client)
	if err != nil {
		return err
	}
	store := newEtcd(b.cluster)
	const batch = 50 // two keys each; etcd takes 128 in a transaction
	err = each(ctx, (b.Volumes+batch-1)/batch, 8, func(ctx context.Context, k int) error {
		var puts []put
		for i := max(1, k*batch); i < min(b.Volumes, (k+1)*batch); i++ {
			pair, err := b.copyVolume(ctx, c, pv, i)
			if err != nil {
				return err
			}
			puts = append(puts, pair...)
		}
		return store.put(ctx, puts)
	})
	b.log.Info("volumes exist", "volumes", b.Volumes, "took", time.Since(start).Round(time.Second))
	return err
}

// volumeName has the form that the provisioner gives.
func volumeName(i int) string { return fmt.Sprintf("pvc-00000000-0000-4000-8000-%012d", i) }

func claimName(i int) string { return fmt.Sprintf("claim-%05d", i) }

// firstVolume makes a claim, the volume on its node, and the objects as they are
// when both are bound.
func (b *bench) firstVolume(ctx context.Context, client kubernetes.Interface) (*corev1.PersistentVolumeClaim, *corev1.PersistentVolume, error) {
	claims, volumes := client.CoreV1().PersistentVolumeClaims(existing), client.CoreV1().PersistentVolumes()
	node := b.fleet.all[0].name
	c := claim(claimName(0), lateClass, node)
	for _, k := range []string{"pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller"} {
		c.Annotations[k] = "yes"
	}
	for _, k := range []string{"volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"} {
		c.Annotations[k] = link.DriverName
	}
	c.Spec.VolumeName = volumeName(0)
	c, err := claims.Create(ctx, c, metav1.CreateOptions{})
	if err != nil {
		return nil, nil, err
	}
	v, err := b.addLV(ctx, 0)
	if err != nil {
		return nil, nil, err
	}
	pv, err := volumes.Create(ctx, persistentVolume(c, v), metav1.CreateOptions{})
	if err != nil {
		return nil, nil, err
	}
	pv.Status.Phase = corev1.VolumeBound
	if pv, err = volumes.UpdateStatus(ctx, pv, metav1.UpdateOptions{}); err != nil {
		return nil, nil, err
	}
	c.Status = corev1.PersistentVolumeClaimStatus{
		Phase: corev1.ClaimBound, AccessModes: c.Spec.AccessModes, Capacity: c.Spec.Resources.Requests,
		// Kubernetes would write it to each claim that no pod has.
		Conditions: []corev1.PersistentVolumeClaimCondition{{
			Type: "Unused", Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now(),
			Reason: "NoPodsUsingPVC", Message: "No pods are currently referencing this PVC",
		}},
	}
	c, err = claims.UpdateStatus(ctx, c, metav1.UpdateOptions{})
	return c, pv, err
}

// addLV makes volume i on its node.
func (b *bench) addLV(ctx context.Context, i int) (*csi.Volume, error) {
	a := b.fleet.all[i%b.Nodes]
	resp, err := a.driver.CreateVolume(ctx, request(volumeName(i), existing, claimName(i), a.name))
	if err != nil {
		return nil, fmt.Errorf("make a volume on %s: %w", a.name, err)
	}
	return resp.GetVolume(), nil
}

// copyVolume makes volume i, and its claim and volume after the model of others.
func (b *bench) copyVolume(ctx context.Context, c *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume, i int) ([]put, error) {
	v, err := b.addLV(ctx, i)
	if err != nil {
		return nil, err
	}
	node := v.GetAccessibleTopology()[0].GetSegments()[link.TopologyKey]
	c, pv = c.DeepCopy(), pv.DeepCopy()
	c.Name, c.UID, c.Spec.VolumeName = claimName(i), types.UID(uuid()), volumeName(i)
	c.Annotations[selectedNode] = node
	pv.Name, pv.UID = volumeName(i), types.UID(uuid())
	pv.Spec.ClaimRef.Name, pv.Spec.ClaimRef.UID = c.Name, c.UID
	pv.Spec.CSI.VolumeHandle = v.GetVolumeId()
	pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions[0].Values = []string{node}
	return []put{
		{"/registry/persistentvolumeclaims/" + c.Namespace + "/" + c.Name, c},
		{"/registry/persistentvolumes/" + pv.Name, pv},
	}, nil
}

// persistentVolume is what the provisioner and the binder make of it.
func persistentVolume(c *corev1.PersistentVolumeClaim, v *csi.Volume) *corev1.PersistentVolume {
	mode := corev1.PersistentVolumeFilesystem
	attributes := map[string]string{"storage.kubernetes.io/csiProvisionerIdentity": link.DriverName}
	for k, value := range v.GetVolumeContext() {
		attributes[k] = value
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: c.Spec.VolumeName,
			Annotations: map[string]string{
				"pv.kubernetes.io/provisioned-by":                            link.DriverName,
				"volume.kubernetes.io/provisioner-deletion-secret-name":      "",
				"volume.kubernetes.io/provisioner-deletion-secret-namespace": "",
			},
			Finalizers: []string{"external-provisioner.volume.kubernetes.io/finalizer"},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: c.Spec.Resources.Requests, AccessModes: c.Spec.AccessModes, StorageClassName: *c.Spec.StorageClassName,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete, VolumeMode: &mode,
			ClaimRef: &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: c.Namespace, Name: c.Name, UID: c.UID, ResourceVersion: c.ResourceVersion},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: link.DriverName, VolumeHandle: v.GetVolumeId(), FSType: "ext4", VolumeAttributes: attributes,
			}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: link.TopologyKey, Operator: corev1.NodeSelectorOpIn, Values: []string{v.GetAccessibleTopology()[0].GetSegments()[link.TopologyKey]},
				}},
			}}}},
		},
	}
}

// request is what the provisioner asks for a claim that is placed on a node.
func request(name, namespace, claim, node string) *csi.CreateVolumeRequest {
	on := []*csi.Topology{{Segments: map[string]string{link.TopologyKey: node}}}
	return &csi.CreateVolumeRequest{
		Name:          name,
		CapacityRange: &csi.CapacityRange{RequiredBytes: volumeSize},
		Parameters: map[string]string{
			"pool":                             poolName,
			"csi.storage.k8s.io/pvc/namespace": namespace,
			"csi.storage.k8s.io/pvc/name":      claim,
			"csi.storage.k8s.io/pv/name":       name,
		},
		VolumeCapabilities: []*csi.VolumeCapability{{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{FsType: "ext4"}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		}},
		AccessibilityRequirements: &csi.TopologyRequirement{Requisite: on, Preferred: on},
	}
}
