package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/lamina-csi/lamina/test/cluster/wire"
	"github.com/lamina-csi/lamina/test/vm"
)

// makeNodes makes the nodes' disks.
func (c *Cluster) makeNodes(ctx context.Context) error {
	for i := range c.cfg.Nodes {
		n := &Node{cluster: c, index: i}
		for d := range c.cfg.Disks {
			n.disks = append(n.disks, n.file(fmt.Sprintf("disk%d.raw", d)))
		}
		if err := n.makeDisks(ctx); err != nil {
			return fmt.Errorf("make %s: %w", n.Name(), err)
		}
		c.nodes = append(c.nodes, n)
	}
	return nil
}

// makeDisks puts a layer of the node's own over the shared images.
func (n *Node) makeDisks(ctx context.Context) error {
	a := n.cluster.assets
	for name, base := range map[string]string{"root": a.Root, "images": a.Images} {
		out, err := exec.CommandContext(ctx, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base,
			n.file(name+".qcow2")).CombinedOutput()
		if err != nil {
			return fmt.Errorf("qemu-img: %w: %s", err, out)
		}
	}
	files, err := n.configFiles()
	if err != nil {
		return err
	}
	var disk bytes.Buffer
	w := tar.NewWriter(&disk)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{Name: name, Mode: 0o600, Size: int64(len(files[name])), Typeflag: tar.TypeReg}
		if strings.HasPrefix(name, "etc/cni") || !strings.HasPrefix(name, "etc/kubernetes") {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(files[name]); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(n.file("config.tar"), disk.Bytes(), 0o600)
}

// configFiles are the files that this node alone has.
func (n *Node) configFiles() (map[string][]byte, error) {
	c := n.cluster
	node := wire.Node{
		Name: n.Name(), Gateway: hostAddress,
		Address: fmt.Sprintf("%s/%d", n.Address(), prefixLength),
	}
	for i := range c.cfg.Nodes {
		if i != n.index {
			node.Routes = append(node.Routes, wire.Route{CIDR: nodePods(i), Via: nodeAddress(i)})
		}
	}
	data, err := json.Marshal(node)
	if err != nil {
		return nil, err
	}
	kubelet, err := c.ca.kubeconfig(internalAPI, identity{name: "system:node:" + n.Name(), groups: []string{"system:nodes"}})
	if err != nil {
		return nil, err
	}
	proxy, err := c.ca.kubeconfig(internalAPI, identity{name: "system:kube-proxy"})
	if err != nil {
		return nil, err
	}
	id := make([]byte, 16)
	rand.Read(id)
	return map[string][]byte{
		wire.ConfigPath:                    data,
		"etc/hostname":                     []byte(n.Name() + "\n"),
		"etc/machine-id":                   fmt.Appendf(nil, "%x\n", id),
		"etc/resolv.conf":                  []byte("nameserver " + hostAddress + "\n"),
		"etc/kubernetes/ca.crt":            c.ca.caPEM,
		"etc/kubernetes/kubelet.conf":      kubelet,
		"etc/kubernetes/kubelet.yaml":      []byte(kubeletConfig),
		"etc/kubernetes/proxy.conf":        proxy,
		"etc/kubernetes/proxy.yaml":        []byte(proxyConfig),
		"etc/cni/net.d/10-bridge.conflist": []byte(fmt.Sprintf(cniConfig, nodePods(n.index))),
	}, nil
}

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /etc/kubernetes/ca.crt}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
clusterDNS: [` + dnsServiceIP + `]
clusterDomain: ` + clusterDomain + `
resolvConf: /etc/resolv.conf
makeIPTablesUtilChains: false
failSwapOn: false
registerNode: true
# Small disks: absolute limits, not shares.
evictionHard: {memory.available: 64Mi, nodefs.available: 128Mi, imagefs.available: 128Mi}
imageGCHighThresholdPercent: 100
`

const proxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: /etc/kubernetes/proxy.conf}
mode: nftables
clusterCIDR: ` + podCIDR + `
conntrack: {maxPerCore: 0}
`

// The addresses live in /run: what a power cut leaves behind is forgotten.
const cniConfig = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [{
    "type": "bridge", "bridge": "cni0",
    "isGateway": true, "isDefaultGateway": true, "hairpinMode": true,
    "ipam": {"type": "host-local", "dataDir": "/run/cni", "ranges": [[{"subnet": "%s"}]]}
  }]
}
`

// kernelParams are added to those of all machines. udev would rename eth0.
var kernelParams = []string{"net.ifnames=0"}

func (n *Node) qemuArgs() ([]string, error) {
	cfg, a := n.cluster.cfg, n.cluster.assets
	args := append([]string{"qemu-system-x86_64"}, vm.BaseArgs(cfg.CPUs, cfg.Memory)...)
	args = append(args,
		"-kernel", a.Kernel, "-initrd", a.Initrd,
		"-append", strings.Join(append(vm.KernelParams(), kernelParams...), " "),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-netdev", fmt.Sprintf("tap,id=net,ifname=%s,script=no,downscript=no", nodeTap(n.index)),
		"-device", fmt.Sprintf("virtio-net-pci,netdev=net,romfile=,mac=52:54:00:4d:00:%02x", n.index))
	// A flush writes qcow2's tables to the file and need go no further: the host
	// stays up, only the machine's process is killed.
	for _, name := range []string{"root", "images"} {
		args = append(args,
			"-blockdev", fmt.Sprintf("driver=file,node-name=%s-file,filename=%s,cache.no-flush=on", name, escape(n.file(name+".qcow2"))),
			"-blockdev", fmt.Sprintf("driver=qcow2,node-name=%s,file=%s-file", name, name),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=%s", name))
	}
	readOnly := []struct{ name, file string }{{"config", n.file("config.tar")}}
	if n.extension != "" {
		readOnly = append(readOnly, struct{ name, file string }{"extension", n.extension})
	}
	for _, d := range readOnly { // in the order of package wire's names
		args = append(args,
			"-blockdev", fmt.Sprintf("driver=file,node-name=%s-file,filename=%s,read-only=on", d.name, escape(d.file)),
			"-blockdev", fmt.Sprintf("driver=raw,node-name=%s,file=%s-file,read-only=on", d.name, d.name),
			"-device", "virtio-blk-pci,drive="+d.name)
	}
	for i, path := range n.disks {
		disk, err := vm.DiskArgs(i, vm.Disk{Serial: n.DiskSerial(i), Path: path, Size: cfg.DiskSize})
		if err != nil {
			return nil, fmt.Errorf("disk %d of %s: %w", i, n.Name(), err)
		}
		args = append(args, disk...)
	}
	return args, nil
}

// escape doubles commas, which separate QEMU's options.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }
