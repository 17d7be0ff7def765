package link

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

func FuzzReadUpgrade(f *testing.F) {
	f.Add([]byte("GET /link HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: lamina-csi\r\nAuthorization: Bearer token\r\n\r\n"))
	f.Add([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	f.Add([]byte("GET /link HTTP/1.1\r\nHost: x\r\nConnection: a, Upgrade\r\nUpgrade: lamina-csi\r\nAuthorization: bearer t\r\nContent-Length: 1\r\n\r\nx"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		token, status := readUpgrade(r)
		if read := len(data) - r.Len(); read > maxHeader {
			t.Errorf("%d bytes were read", read)
		}
		if http.StatusText(status) == "" {
			t.Errorf("status %d", status)
		}
		if accepted := status == http.StatusSwitchingProtocols; accepted != (token != "") {
			t.Errorf("status %d with token %q", status, token)
		}
		if token != "" && (!bytes.Contains(data, []byte(token)) || !bytes.HasPrefix(bytes.TrimLeft(data, "\r\n"), []byte("GET /link HTTP/1."))) {
			t.Errorf("%q was accepted", data)
		}
	})
}

func FuzzReadAnswer(f *testing.F) {
	f.Add([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: lamina-csi\r\n\r\nPRI * HTTP/2.0"))
	f.Add([]byte("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := readAnswer(bytes.NewReader(data))
		if err != nil {
			return
		}
		// What follows the answer is gRPC's, to the byte.
		rest, err := io.ReadAll(r)
		if err != nil || !bytes.HasSuffix(data, rest) {
			t.Errorf("%q leaves %q, %v", data, rest, err)
		}
		if head := string(data[:len(data)-len(rest)]); !strings.Contains(head, " 101") {
			t.Errorf("%q was taken for a yes", head)
		}
	})
}
