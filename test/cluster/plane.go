package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
)

// apiTime is how long the API server may take to answer after its start.
const apiTime = 3 * time.Minute

// internalAPI is the API server's address inside the cluster's network.
var internalAPI = fmt.Sprintf("https://%s:%d", hostAddress, apiPort)

// admin may do everything.
var admin = identity{name: "admin", groups: []string{"system:masters"}}

// makeCredentials issues the control plane's certificates and kubeconfigs.
func (c *Cluster) makeCredentials() error {
	certs := map[string]identity{
		"apiserver": {name: "kube-apiserver", hosts: []string{
			hostAddress, "127.0.0.1", apiServiceIP, "localhost", "kubernetes", "kubernetes.default",
			"kubernetes.default.svc", "kubernetes.default.svc." + clusterDomain,
		}},
		"kubelet-client": {name: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}},
		"front-proxy":    {name: "front-proxy-client"},
		"sa":             {name: "service-accounts"}, // only its key is used
	}
	for name, id := range certs {
		p, err := c.ca.issue(id)
		if err != nil {
			return err
		}
		if err := c.ca.save(name, p); err != nil {
			return err
		}
	}
	for name, id := range map[string]identity{
		"controller-manager.conf": {name: "system:kube-controller-manager"},
		"scheduler.conf":          {name: "system:kube-scheduler"},
		"internal.conf":           admin,
	} {
		if _, err := c.ca.saveKubeconfig(name, internalAPI, id); err != nil {
			return err
		}
	}
	return nil
}

func (c *Cluster) startEtcd() error {
	p, err := c.host("etcd", filepath.Join(c.assets.Bin, "server"),
		"--data-dir", filepath.Join(c.dir, "etcd"),
		"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
		"--listen-peer-urls", "http://127.0.0.1:2380",
		"--unsafe-no-fsync")
	c.etcd = p
	return err
}

// host starts a program of the control plane.
func (c *Cluster) host(name string, args ...string) (*process, error) {
	return startProcess(c.net, filepath.Join(c.dir, name+".log"), nil, args...)
}

// StartAPIServer starts the API server and waits until it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) error {
	if c.api != nil {
		return errors.New("start the API server: it runs")
	}
	pki := c.ca.path
	p, err := c.host("kube-apiserver", append([]string{filepath.Join(c.assets.Bin, "kube-apiserver"),
		"--etcd-servers", "http://127.0.0.1:2379",
		"--bind-address", "0.0.0.0", "--advertise-address", hostAddress, fmt.Sprint("--secure-port=", apiPort),
		"--tls-cert-file", pki("apiserver.crt"), "--tls-private-key-file", pki("apiserver.key"),
		"--client-ca-file", pki("ca.crt"),
		"--kubelet-client-certificate", pki("kubelet-client.crt"), "--kubelet-client-key", pki("kubelet-client.key"),
		"--kubelet-preferred-address-types", "InternalIP", // nothing resolves the nodes' names
		"--requestheader-client-ca-file", pki("ca.crt"), "--requestheader-allowed-names", "front-proxy-client",
		"--requestheader-username-headers", "X-Remote-User", "--requestheader-group-headers", "X-Remote-Group",
		"--requestheader-extra-headers-prefix", "X-Remote-Extra-",
		"--proxy-client-cert-file", pki("front-proxy.crt"), "--proxy-client-key-file", pki("front-proxy.key"),
		"--service-account-issuer", "https://kubernetes.default.svc." + clusterDomain,
		"--service-account-key-file", pki("sa.key"), "--service-account-signing-key-file", pki("sa.key"),
		"--service-cluster-ip-range", serviceCIDR,
		"--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
		"--allow-privileged"}, c.cfg.APIServerFlags...)...)
	if err != nil {
		return err
	}
	c.api = p
	return c.awaitAPI(ctx)
}

// StopAPIServer kills the API server: clients see their connections break, and
// everything else runs on.
func (c *Cluster) StopAPIServer() error {
	if c.api == nil {
		return errors.New("stop the API server: it does not run")
	}
	c.api.kill()
	c.api = nil
	return nil
}

func (c *Cluster) awaitAPI(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, apiTime)
	defer cancel()
	client, err := rest.HTTPClientFor(c.rest)
	if err != nil {
		return err
	}
	for {
		last := probe(ctx, client, c.rest.Host+"/readyz")
		if last == nil {
			return nil
		}
		select {
		case <-c.api.gone:
			return fmt.Errorf("the API server ended:\n%s", c.api.tail())
		case <-ctx.Done():
			return fmt.Errorf("wait for the API server: %w: %w", ctx.Err(), last)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// probe returns nil when a URL answers 200.
func probe(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s: %s", url, res.Status, body)
	}
	return nil
}

// startControllers starts what needs the API server.
func (c *Cluster) startControllers() error {
	if err := c.StartControllerManager(); err != nil {
		return err
	}
	conf := c.ca.path("scheduler.conf")
	p, err := c.host("kube-scheduler", filepath.Join(c.assets.Bin, "kube-scheduler"),
		"--kubeconfig", conf, "--authentication-kubeconfig", conf, "--authorization-kubeconfig", conf,
		"--bind-address", "127.0.0.1", "--leader-elect=false")
	if err != nil {
		return err
	}
	c.others = append(c.others, p)
	return c.startDNS()
}

// StartControllerManager starts the controller manager of a bare cluster, with
// more flags than it has.
func (c *Cluster) StartControllerManager(flags ...string) error {
	pki, conf := c.ca.path, c.ca.path("controller-manager.conf")
	p, err := c.host("kube-controller-manager", append([]string{filepath.Join(c.assets.Bin, "kube-controller-manager"),
		"--kubeconfig", conf, "--authentication-kubeconfig", conf, "--authorization-kubeconfig", conf,
		"--bind-address", "127.0.0.1", "--leader-elect=false", "--use-service-account-credentials",
		"--service-account-private-key-file", pki("sa.key"), "--root-ca-file", pki("ca.crt"),
		"--cluster-signing-cert-file", pki("ca.crt"), "--cluster-signing-key-file", pki("ca.key")}, flags...)...)
	if err == nil {
		c.others = append(c.others, p)
	}
	return err
}

// corefile serves the cluster's names. The server runs on the host: an emulated
// pod would cost a minute of every start.
const corefile = `.:53 {
	errors
	cache 5
	kubernetes %s in-addr.arpa {
		kubeconfig %s
	}
}
`

// checkHost returns an error if a program of the control plane has ended.
func (c *Cluster) checkHost() error {
	for _, p := range append(c.others, c.etcd, c.api) {
		select {
		case <-p.gone:
			return fmt.Errorf("%s ended:\n%s", p.cmd.Path, p.tail())
		default:
		}
	}
	return nil
}

func (c *Cluster) startDNS() error {
	file := filepath.Join(c.dir, "Corefile")
	text := fmt.Sprintf(corefile, clusterDomain, c.ca.path("internal.conf"))
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	p, err := c.host("coredns", filepath.Join(c.assets.Bin, "coredns"), "-conf", file)
	if err != nil {
		return err
	}
	c.others = append(c.others, p)
	return nil
}
