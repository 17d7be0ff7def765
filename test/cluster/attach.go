package cluster

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// state is what another process needs to use a cluster; it is kept in mark.
type state struct {
	Bin   string
	Nodes int
}

func (c *Cluster) saveState() error {
	data, err := json.Marshal(state{Bin: c.assets.Bin, Nodes: c.cfg.Nodes})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.dir, mark), data, 0o644)
}

// Attach returns the cluster that another process runs in a directory. It is
// good for talking to it: clients, kubectl, Exec, WaitReady. Power, the API
// server's process and Stop belong to the other process.
func Attach(dir string) (*Cluster, error) {
	data, err := os.ReadFile(filepath.Join(dir, mark))
	if err != nil {
		return nil, fmt.Errorf("attach to a cluster: %w", err)
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("attach to the cluster in %s: %w", dir, err)
	}
	c := &Cluster{cfg: Config{Nodes: s.Nodes}.withDefaults(), dir: dir, net: &network{name: networkName(dir)}}
	c.assets.Bin = s.Bin
	for i := range s.Nodes {
		c.nodes = append(c.nodes, &Node{cluster: c, index: i})
	}
	if c.rest, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig()); err != nil {
		return nil, err
	}
	c.rest.QPS = -1 // no limit
	c.client, err = kubernetes.NewForConfig(c.rest)
	return c, err
}
