// Package cluster runs a whole Kubernetes on this machine for tests: the control
// plane as host processes, and nodes that are virtual machines with a real
// kernel, device-mapper and emulated NVMe disks.
//
//	c, err := cluster.Start(ctx, cluster.Config{Images: []string{"lamina-node.tar"}})
//	defer c.Stop()
//	c.KubectlInput(ctx, manifest, "apply", "-f", "-")
//	c.Client().CoreV1().Pods("default").List(ctx, ...)
//	c.Node(0).Exec(ctx, "lvs")
//	c.Node(0).CutPower(); c.Node(0).Boot(ctx); c.Node(0).WaitReady(ctx)
//	c.StopAPIServer(); c.StartAPIServer(ctx)
//
// # What there is
//
// etcd, kube-apiserver, kube-controller-manager, kube-scheduler and CoreDNS run
// in a network namespace with a bridge. The API server is reachable from the
// host through a loopback port (Kubeconfig, RESTConfig, Client, Kubectl); Dial
// reaches nodes and pods. Several clusters can run at once.
//
// Nodes are called node-0, node-1, ... Each has 2 processors, 2 GiB, two NVMe
// disks with the serials n0-disk0, n0-disk1, ..., Debian's userland with udev,
// lvm2 and util-linux, containerd, kubelet and kube-proxy (nftables), started by
// our own init (guest). The mounts of a node are shared, as systemd has them. A
// node's disks keep their content when it reboots or loses power: kubelet and
// containerd go on where they were. Logs lie in the node's /var/log and, for the
// control plane and the consoles, in Dir.
//
// The control plane has default feature gates and admission with
// NodeRestriction, the Node and RBAC authorizers, bound service account tokens
// and privileged pods. Pods have addresses of 10.244.0.0/16, Services of
// 10.96.0.0/16, and names in cluster.local. There is no registry and no way out:
// nodes have the images of [Config], [BusyboxImage] and
// [SnapshotControllerImage].
//
// # What it costs
//
// The first start builds Kubernetes and the rest from source (a quarter of an
// hour on two cores) into .cache/cluster; later ones take a minute. A pod runs
// 10 to 20 seconds after it was created. All of it needs root.
//
// `make cluster` runs one in the background to look at; see cmd/cluster.
package cluster
