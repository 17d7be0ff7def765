//go:build cluster

package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// forgedLinks: who is no agent gets nothing from the controller, and hurts nobody.
func (s *space) forgedLinks() {
	const leader = "lamina.dev/leader=true"
	s.cluster("-n", "lamina-system", "wait", "pod", "-l", leader, "--for=condition=Ready", fmt.Sprintf("--timeout=%v", patience))
	address := s.cluster("-n", "lamina-system", "get", "pods", "-l", leader, "-o", "jsonpath={.items[0].status.podIP}") + ":9443"
	ca := x509.NewCertPool()
	if !ca.AppendCertsFromPEM([]byte(s.cluster("-n", "lamina-system", "get", "configmap", "lamina-ca", "-o", `jsonpath={.data.ca\.crt}`))) {
		s.Fatal("lamina-ca holds no certificate")
	}
	before := s.linked()

	s.kubectl("create", "serviceaccount", "stranger")
	bound := s.agentToken()
	for who, token := range map[string]string{
		"nobody":                               "",
		"another ServiceAccount":               s.kubectl("create", "token", "stranger", "--audience=lamina.dev"),
		"an agent's token for the API server":  s.cluster("-n", "lamina-system", "create", "token", "lamina-node"),
		"the agents' account without a pod":    s.cluster("-n", "lamina-system", "create", "token", "lamina-node", "--audience=lamina.dev"),
		"an agent's token with another's name": s.renamed(bound),
		"an agent's token that has expired":    s.expired(bound),
	} {
		if status := s.link(address, ca, token); status == http.StatusSwitchingProtocols || status == http.StatusOK {
			s.Errorf("%s was let in", who)
		}
	}

	// Plain TCP, a slow writer, and 10,000 connections that say nothing.
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	plain := s.dial(address)
	if _, err := io.WriteString(plain, "GET /link HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		s.Fatal(err)
	}
	slow := tls.Client(s.dial(address), &tls.Config{RootCAs: ca, ServerName: serverName})
	if _, err := io.WriteString(slow, "GET /link HTTP/1.1\r\nX: "); err != nil {
		s.Fatal(err)
	}
	conns = append(conns, plain, slow)
	conns = append(conns, s.flood(address, 10_000)...)
	s.volumes(volume{name: "meanwhile", size: "1Gi"})
	s.ready("meanwhile")
	for what, c := range map[string]net.Conn{"plain TCP": plain, "the slow writer": slow} {
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			s.Fatal(err)
		}
		answer, err := io.ReadAll(c)
		if strings.Contains(string(answer), "101") || (err != nil && strings.Contains(err.Error(), "timeout")) {
			s.Errorf("%s was kept: %q, %v", what, answer, err)
		}
	}
	s.equal("how often agents linked", s.linked(), before)
}

const serverName = "lamina-controller.lamina-system.svc"

// linked tells how often an agent linked to the controller that runs.
func (s *space) linked() string {
	s.Helper()
	log := s.cluster("-n", "lamina-system", "logs", "deploy/lamina-controller")
	return fmt.Sprint(strings.Count(log, `"node is linked"`))
}

func (s *space) dial(address string) net.Conn {
	s.Helper()
	c, err := s.c.Dial(s.ctx, "tcp", address)
	if err != nil {
		s.Fatal(err)
	}
	return c
}

// link asks for a link and returns the status of the answer, or 0 for none.
func (s *space) link(address string, ca *x509.CertPool, token string) int {
	s.Helper()
	c := tls.Client(s.dial(address), &tls.Config{RootCAs: ca, ServerName: serverName})
	defer c.Close()
	req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, "https://"+serverName+"/link", nil)
	if err != nil {
		s.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "lamina-csi")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if err := req.Write(c); err != nil {
		s.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), req)
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// flood opens connections, as many as it gets.
func (s *space) flood(address string, n int) []net.Conn {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	var mu sync.Mutex
	var conns []net.Conn
	var running sync.WaitGroup
	for range 100 {
		running.Go(func() {
			for range n / 100 {
				c, err := s.c.Dial(ctx, "tcp", address)
				if err != nil {
					continue // a full backlog is the controller's right
				}
				mu.Lock()
				conns = append(conns, c)
				mu.Unlock()
			}
		})
	}
	running.Wait()
	s.Logf("%d of %d connections were accepted", len(conns), n)
	if len(conns) < n/2 {
		s.Errorf("only %d connections: this tests nothing", len(conns))
	}
	return conns
}
