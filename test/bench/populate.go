package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/lamina-csi/lamina/driver/link"
)

// writers is how many requests of the bench are under way.
const writers = 64

func nodeName(i int) string { return fmt.Sprintf("node-%05d", i) }

// populate makes the nodes and the volumes that exist.
func (b *bench) populate(ctx context.Context) (err error) {
	if b.fleet, err = newAgents(ctx, b.Nodes, b.dir, b.log); err != nil {
		return err
	}
	client := b.client()
	start := time.Now()
	if err := each(ctx, b.Nodes, writers, func(ctx context.Context, i int) error { return b.addNode(ctx, client, i) }); err != nil {
		return err
	}
	b.log.Info("nodes are in Kubernetes", "nodes", b.Nodes, "took", time.Since(start).Round(time.Second))
	if err := b.addVolumes(ctx, client); err != nil {
		return err
	}
	_, err = client.CoreV1().Pods(system).Create(ctx, pod("lamina-controller-0", "lamina-controller", nodeName(0)), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	return b.startBinder()
}

// addNode makes a node as kubelet does, its agent's pod and that pod's token.
func (b *bench) addNode(ctx context.Context, client kubernetes.Interface, i int) error {
	name := nodeName(i)
	if _, err := client.CoreV1().Nodes().Create(ctx, node(name), metav1.CreateOptions{}); err != nil {
		return err
	}
	_, err := client.StorageV1().CSINodes().Create(ctx, &storagev1.CSINode{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: link.DriverName, NodeID: name, TopologyKeys: []string{link.TopologyKey}}}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	p, err := client.CoreV1().Pods(system).Create(ctx, pod("lamina-node-"+name, "lamina-node", name), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	t, err := token(ctx, client, "lamina-node", p, link.Audience)
	if err != nil {
		return err
	}
	return os.WriteFile(b.tokenFile(i), []byte(t), 0o600)
}

func (b *bench) tokenFile(i int) string { return filepath.Join(b.dir, nodeName(i)+".token") }

func pod(name, account, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/name": account}},
		Spec: corev1.PodSpec{
			ServiceAccountName: account, NodeName: node,
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			Containers:  []corev1.Container{{Name: account, Image: "ghcr.io/lamina-csi/" + account}},
		},
	}
}

// node weighs what a kubelet's weighs: most of it is the list of images, of which
// kubelet reports 50.
func node(name string) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			"kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux",
			"node.kubernetes.io/instance-type": "bare-metal", "topology.kubernetes.io/zone": "zone-1",
			link.TopologyKey: name, link.PoolLabelPrefix + poolName: profileName,
		}},
		Status: corev1.NodeStatus{
			Capacity:  corev1.ResourceList{"cpu": resource.MustParse("64"), "memory": resource.MustParse("256Gi"), "pods": resource.MustParse("110")},
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}, {Type: corev1.NodeHostName, Address: name}},
		},
	}
	for _, c := range []corev1.NodeConditionType{"Ready", "MemoryPressure", "DiskPressure", "PIDPressure"} {
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
			Type: c, Status: "True", Reason: "KubeletHasSomeReason", Message: "kubelet has something to say of this condition",
			LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now(),
		})
	}
	for i := range 50 {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{SizeBytes: 100 << 20, Names: []string{
			fmt.Sprintf("registry.example.com/team/application-%02d@sha256:%064d", i, i),
			fmt.Sprintf("registry.example.com/team/application-%02d:v1.2.3", i),
		}})
	}
	return n
}

// selectedNode is where the scheduler says on which node a volume shall be made.
const selectedNode = "volume.kubernetes.io/selected-node"

// claim is a claim; with a node it is one that the scheduler has placed.
func claim(name, class, node string) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "bench"}, Annotations: map[string]string{}},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(volumeSize, resource.BinarySI)}},
		},
	}
	if node != "" {
		c.Annotations[selectedNode] = node
	}
	return c
}
