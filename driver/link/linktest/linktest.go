// Package linktest is a controller's end of the link for tests: a real [link.Hub]
// on loopback, with a CA of its own and tokens that name their node.
package linktest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lamina-csi/lamina/driver/link"
)

// ServerName is what the serving certificate is for.
const ServerName = "lamina-controller.lamina-system.svc"

// Secret begins every token that [Authenticate] accepts; the name of the node
// follows it.
const Secret = "s3cr3t-token-of-"

// Authenticate is a link.HubConfig's.
func Authenticate(_ context.Context, token string) (string, error) {
	node, ok := strings.CutPrefix(token, Secret)
	if !ok {
		return "", errors.New("unknown token")
	}
	return node, nil
}

// Authority is a CA and a serving certificate that it has issued.
type Authority struct {
	PEM     []byte // certificate of the CA
	serving tls.Certificate
}

// NewAuthority makes a CA.
func NewAuthority(t testing.TB) Authority {
	t.Helper()
	ca, caKey := issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	cert, key := issue(t, &x509.Certificate{
		DNSNames: []string{ServerName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca, caKey)
	return Authority{
		PEM:     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw}),
		serving: tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key},
	}
}

func issue(t testing.TB, c, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if parent == nil {
		parent, signer = c, key
	}
	// Valid on the real clock and on that of a synctest bubble.
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(1), time.Unix(0, 0), time.Unix(1<<33, 0)
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// TLS is a link.HubConfig's.
func (a Authority) TLS() *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.serving}}
}

// DialConfig is what the agent of a node needs to link to a hub at that address,
// in files of its own.
func (a Authority) DialConfig(t testing.TB, address, node string) link.DialConfig {
	t.Helper()
	dir := t.TempDir()
	c := link.DialConfig{Address: address, ServerName: ServerName, CAFile: filepath.Join(dir, "ca.crt"), TokenFile: filepath.Join(dir, "token")}
	WriteFile(t, c.CAFile, string(a.PEM))
	WriteFile(t, c.TokenFile, Secret+node+"\n")
	return c
}

// WriteFile replaces a file at once, as kubelet does.
func WriteFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+"~", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		t.Fatal(err)
	}
}

// Event is what a subscriber of a hub is told.
type Event struct {
	Node string
	Up   bool
}

// Up is the event of a link that is up.
func Up(node string) Event { return Event{node, true} }

// Down is the event of a link that has ended.
func Down(node string) Event { return Event{node, false} }

// Hub is a hub that serves until the test, or Stop, ends it.
type Hub struct {
	*link.Hub
	Authority Authority
	Address   string
	Events    chan Event
	Stop      func()
}

// NewHub serves a hub on loopback.
func NewHub(t testing.TB) *Hub {
	t.Helper()
	a := NewAuthority(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := Serve(t, l, link.HubConfig{TLS: a.TLS()})
	h.Authority = a
	return h
}

// Serve serves a hub of that configuration; [Authenticate] is the default.
func Serve(t testing.TB, l net.Listener, c link.HubConfig) *Hub {
	t.Helper()
	if c.Authenticate == nil {
		c.Authenticate = Authenticate
	}
	h := &Hub{Hub: link.NewHub(c), Address: l.Addr().String(), Events: make(chan Event, 20000)}
	h.Subscribe(func(node string, up bool) { h.Events <- Event{node, up} })
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Serve(ctx, l) }()
	h.Stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("hub: %v", err)
		}
	})
	t.Cleanup(h.Stop)
	return h
}

// DialConfig is what the agent of a node needs to link to this hub.
func (h *Hub) DialConfig(t testing.TB, node string) link.DialConfig {
	t.Helper()
	return h.Authority.DialConfig(t, h.Address, node)
}

// Next fails unless that is what the hub tells next. It waits.
func (h *Hub) Next(t testing.TB, want ...Event) {
	t.Helper()
	for _, w := range want {
		if got := <-h.Events; got != w {
			t.Fatalf("the hub tells %v, want %v", got, w)
		}
	}
}
