package link

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strings"
)

const (
	upgradePath = "/link"
	// maxHeader bounds a request, and a response, in bytes. A bearer token has
	// one to two thousand.
	maxHeader = 16 << 10
	maxToken  = 12 << 10
)

// readUpgrade reads the request for a link (RFC 9112; RFC 9110 §7.8 for Upgrade,
// RFC 6750 §2.1 for the token). status is 101 or says why it is refused. What
// net/http says of a bad request is dropped, since it may quote the token.
func readUpgrade(r io.Reader) (token string, status int) {
	limited := &io.LimitedReader{R: r, N: maxHeader}
	br := bufio.NewReader(limited)
	req, err := http.ReadRequest(br)
	switch {
	case err != nil && limited.N == 0:
		return "", http.StatusRequestHeaderFieldsTooLarge
	case err != nil:
		return "", http.StatusBadRequest
	case req.RequestURI != upgradePath:
		return "", http.StatusNotFound
	case req.Method != http.MethodGet:
		return "", http.StatusMethodNotAllowed
	case req.ProtoMajor != 1 || req.ProtoMinor < 1 || !has(req.Header["Connection"], "upgrade") || !has(req.Header["Upgrade"], Protocol):
		return "", http.StatusUpgradeRequired
	// The agent says nothing more until it has the answer.
	case req.ContentLength != 0 || br.Buffered() > 0:
		return "", http.StatusBadRequest
	}
	auth := req.Header["Authorization"]
	if len(auth) != 1 {
		return "", http.StatusUnauthorized
	}
	scheme, token, _ := strings.Cut(auth[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxToken {
		return "", http.StatusUnauthorized
	}
	return token, http.StatusSwitchingProtocols
}

// has reports whether a comma-separated header has the token.
func has(values []string, token string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// answer writes the response to a request for a link.
func answer(w io.Writer, status int) error {
	text := fmt.Sprintf("HTTP/1.1 %d %s\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", status, http.StatusText(status))
	if status == http.StatusSwitchingProtocols {
		text = fmt.Sprintf("HTTP/1.1 101 %s\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", http.StatusText(status), Protocol)
	}
	_, err := io.WriteString(w, text)
	return err
}

// upgraded is a connection after the answer: bytes that came with it are first.
type upgraded struct {
	net.Conn
	r io.Reader
}

func (u *upgraded) Read(p []byte) (int, error) { return u.r.Read(p) }

// requestUpgrade asks for a link on a connection.
func requestUpgrade(conn net.Conn, host, token string) (net.Conn, error) {
	req := &http.Request{
		Method: http.MethodGet, URL: &url.URL{Path: upgradePath}, Host: host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{
			"User-Agent":    {"lamina-node"},
			"Connection":    {"Upgrade"},
			"Upgrade":       {Protocol},
			"Authorization": {"Bearer " + token},
		},
	}
	if err := req.Write(conn); err != nil {
		return nil, fmt.Errorf("ask for a link: %w", err)
	}
	r, err := readAnswer(conn)
	if err != nil {
		return nil, fmt.Errorf("ask for a link: %w", err)
	}
	return &upgraded{conn, r}, nil
}

// readAnswer reads the response and gives what follows it.
func readAnswer(r io.Reader) (io.Reader, error) {
	limited := &io.LimitedReader{R: r, N: maxHeader}
	br := bufio.NewReader(limited)
	resp, err := http.ReadResponse(br, nil)
	switch {
	case err != nil:
		return nil, err
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, fmt.Errorf("the controller does not accept this token: its log says why")
	case resp.StatusCode != http.StatusSwitchingProtocols:
		return nil, fmt.Errorf("the controller answers %.80q", resp.Status)
	case !has(resp.Header["Upgrade"], Protocol):
		return nil, fmt.Errorf("the controller switches to %.80q, not to %s", resp.Header["Upgrade"], Protocol)
	}
	limited.N = math.MaxInt64
	return br, nil
}
