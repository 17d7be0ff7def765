package link_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/driver/link/linktest"
)

// dialFrom connects from another loopback address: the controller sees another
// source.
func dialFrom(t *testing.T, source, address string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}}
	c, err := d.DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func dialTLS(t *testing.T, address string, c *tls.Config) (*tls.Conn, error) {
	t.Helper()
	c.InsecureSkipVerify = true // an attacker does not mind
	conn := tls.Client(dialFrom(t, "127.0.0.2", address), c)
	return conn, conn.HandshakeContext(t.Context())
}

// What is no request for a link gets a refusal and nothing else: no link, no
// question to the API server unless a token was shown, no token in the log.
func TestHostile(t *testing.T) {
	noGoroutines(t)
	const bearer = "Authorization: Bearer " + linktest.Secret + "a\r\n"
	const upgrade = "Connection: Upgrade\r\nUpgrade: lamina-csi\r\n"
	ca, log := linktest.NewAuthority(t), newLog()
	var asked atomic.Int32
	h := startHub(t, link.HubConfig{TLS: ca.TLS(), Log: log.logger(), Authenticate: func(ctx context.Context, token string) (string, error) {
		asked.Add(1)
		return linktest.Authenticate(ctx, token)
	}})
	startNode(t, "a", ca.DialConfig(t, h.Address, "a"), nil)
	h.Next(t, linktest.Up("a"))
	asked.Store(0)

	for name, c := range map[string]struct {
		say   string
		want  int
		asked int32
	}{
		"wrong path":         {"GET /metrics HTTP/1.1\r\nHost: x\r\n" + upgrade + bearer + "\r\n", 404, 0},
		"path with a query":  {"GET /link?a=b HTTP/1.1\r\nHost: x\r\n" + upgrade + bearer + "\r\n", 404, 0},
		"absolute URL":       {"GET http://x/link HTTP/1.1\r\nHost: x\r\n" + upgrade + bearer + "\r\n", 404, 0},
		"POST":               {"POST /link HTTP/1.1\r\nHost: x\r\n" + upgrade + bearer + "\r\n", 405, 0},
		"HTTP/1.0":           {"GET /link HTTP/1.0\r\nHost: x\r\n" + upgrade + bearer + "\r\n", 426, 0},
		"no upgrade":         {"GET /link HTTP/1.1\r\nHost: x\r\n" + bearer + "\r\n", 426, 0},
		"websocket":          {"GET /link HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + bearer + "\r\n", 426, 0},
		"HTTP/2":             {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404, 0},
		"nonsense":           {"\x00\x01\x02\r\n\r\n", 400, 0},
		"malformed header":   {"GET /link HTTP/1.1\r\nHost: x\r\n" + upgrade + "Authorization Bearer " + linktest.Secret + "\r\n\r\n", 400, 0},
		"body":               {"GET /link HTTP/1.1\r\nHost: x\r\n" + upgrade + bearer + "Content-Length: 3\r\n\r\nabc", 400, 0},
		"chunked body":       {"GET /link HTTP/1.1\r\nHost: x\r\n" + upgrade + bearer + "Transfer-Encoding: chunked\r\n\r\n", 400, 0},
		"speaks too early":   {"GET /link HTTP/1.1\r\nHost: x\r\n" + upgrade + bearer + "\r\nPRI * HTTP/2.0\r\n", 400, 0},
		"enormous header":    {"GET /link HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", link.MaxHeader) + "\r\n\r\n", 431, 0},
		"enormous line":      {"GET /" + strings.Repeat("x", 2*link.MaxHeader), 431, 0},
		"no token":           {"GET /link HTTP/1.1\r\nHost: x\r\n" + upgrade + "\r\n", 401, 0},
		"empty token":        {"GET /link HTTP/1.1\r\nHost: x\r\n" + upgrade + "Authorization: Bearer \r\n\r\n", 401, 0},
		"two tokens":         {"GET /link HTTP/1.1\r\nHost: x\r\n" + upgrade + bearer + bearer + "\r\n", 401, 0},
		"password":           {"GET /link HTTP/1.1\r\nHost: x\r\n" + upgrade + "Authorization: Basic YTpi\r\n\r\n", 401, 0},
		"wrong token":        {"GET /link HTTP/1.1\r\nHost: x\r\n" + upgrade + "Authorization: Bearer forged\r\n\r\n", 401, 1},
		"token of no node":   {"GET /link HTTP/1.1\r\nHost: x\r\n" + upgrade + "Authorization: Bearer " + linktest.Secret + "\r\n\r\n", 401, 1},
		"claims to be a":     {"GET /link HTTP/1.1\r\nHost: a\r\nX-Node: a\r\n" + upgrade + "Authorization: Bearer forged\r\n\r\n", 401, 1},
		"token is too large": {"GET /link HTTP/1.1\r\nHost: x\r\n" + upgrade + "Authorization: Bearer " + strings.Repeat("x", link.MaxToken+1) + "\r\n\r\n", 401, 0},
	} {
		t.Run(name, func(t *testing.T) {
			asked.Store(0)
			conn, err := dialTLS(t, h.Address, &tls.Config{})
			if err != nil {
				t.Fatal(err)
			}
			// The answer may come before all was said.
			go func() { _, _ = io.WriteString(conn, c.say) }()
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if resp.StatusCode != c.want {
				t.Errorf("answer %d, want %d", resp.StatusCode, c.want)
			}
			if n, err := io.Copy(io.Discard, conn); n != 0 {
				t.Errorf("%d bytes after the answer, %v", n, err)
			}
			if n := asked.Load(); n != c.asked {
				t.Errorf("%d tokens were looked at, want %d", n, c.asked)
			}
		})
	}
	if len(h.Events) > 0 || whoIs(t, h, "a") != "a" {
		t.Error("the node that is linked has come to harm")
	}
	h.Stop()
	if strings.Contains(log.String(), linktest.Secret) {
		t.Errorf("the log holds a token:\n%s", log)
	}
}

// Who does not speak TLS 1.3 and HTTP/1.1 gets no further than the handshake.
func TestNotTLS(t *testing.T) {
	noGoroutines(t)
	ca := linktest.NewAuthority(t)
	h := startHub(t, link.HubConfig{TLS: ca.TLS()})
	for name, c := range map[string]*tls.Config{
		"TLS 1.2":     {MaxVersion: tls.VersionTLS12},
		"HTTP/2 only": {NextProtos: []string{"h2"}},
	} {
		conn, err := dialTLS(t, h.Address, c)
		if err == nil {
			_, err = conn.Read(make([]byte, 1)) // a client of TLS 1.3 hears of it late
		}
		if alert, ok := errors.AsType[tls.AlertError](err); !ok && !strings.Contains(fmt.Sprint(err), "remote error") {
			t.Errorf("%s: %v, %v", name, alert, err)
		}
	}
	plain := dialFrom(t, "127.0.0.2", h.Address)
	if _, err := io.WriteString(plain, request(linktest.Secret+"a")); err != nil {
		t.Fatal(err)
	}
	if answer, _ := io.ReadAll(plain); strings.Contains(string(answer), "101") {
		t.Errorf("plain TCP: %q", answer)
	}
	if len(h.Nodes()) > 0 {
		t.Errorf("nodes: %v", h.Nodes())
	}
}

// Thousands of connections that say nothing: but for a few, they are closed at
// once, the links that are there work and a new node gets in.
func TestFlood(t *testing.T) {
	noGoroutines(t)
	ca := linktest.NewAuthority(t)
	h := startHub(t, link.HubConfig{TLS: ca.TLS(), MaxPending: 64, MaxPendingPerSource: 16})
	startNode(t, "a", ca.DialConfig(t, h.Address, "a"), nil)
	h.Next(t, linktest.Up("a"))

	const flood = 1000
	var closed atomic.Int32
	quota := make(chan struct{})
	for range flood {
		conn := dialFrom(t, "127.0.0.2", h.Address)
		go func() {
			_, _ = conn.Read(make([]byte, 1)) // ends when the hub closes it
			if closed.Add(1) == flood-16 {
				close(quota)
			}
		}()
	}
	<-quota
	startNode(t, "b", ca.DialConfig(t, h.Address, "b"), nil)
	h.Next(t, linktest.Up("b"))
	if whoIs(t, h, "a") != "a" {
		t.Error("the node that was linked has come to harm")
	}
}
