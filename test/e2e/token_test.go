//go:build cluster

package e2e

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// agentToken makes a token as kubelet makes it for an agent's pod.
func (s *space) agentToken() string {
	s.Helper()
	pod := s.cluster("-n", "lamina-system", "get", "pods", "-l", "app.kubernetes.io/name=lamina-node", "-o", "jsonpath={.items[0].metadata.name}")
	return s.cluster("-n", "lamina-system", "create", "token", "lamina-node", "--audience=lamina.dev", "--bound-object-kind=Pod", "--bound-object-name="+pod)
}

// claims are those of a ServiceAccount's token (KEP-1205, KEP-4193) that matter here.
type claims map[string]any

func (s *space) claims(token string) (c claims) {
	s.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		s.Fatalf("a token of %d parts", len(parts))
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		s.Fatal(err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		s.Fatal(err)
	}
	return c
}

func (s *space) with(token string, c claims) string {
	s.Helper()
	data, err := json.Marshal(c)
	if err != nil {
		s.Fatal(err)
	}
	parts := strings.Split(token, ".")
	return parts[0] + "." + base64.RawURLEncoding.EncodeToString(data) + "." + parts[2]
}

// renamed is a token in which another node's name was put; its signature is the old
// one.
func (s *space) renamed(token string) string {
	s.Helper()
	c := s.claims(token)
	node := c["kubernetes.io"].(map[string]any)["node"].(map[string]any)
	node["name"] = s.other(node["name"].(string))
	return s.with(token, c)
}

// expired is a token as the API server signed it two hours ago.
func (s *space) expired(token string) string {
	s.Helper()
	c := s.claims(token)
	for _, field := range []string{"exp", "iat", "nbf"} {
		c[field] = int64(c[field].(float64)) - int64((2*time.Hour)/time.Second)
	}
	text := s.with(token, c)
	signed := text[:strings.LastIndexByte(text, '.')]
	sum := sha256.Sum256([]byte(signed))
	r, t, err := ecdsa.Sign(rand.Reader, s.signer(), sum[:])
	if err != nil {
		s.Fatal(err)
	}
	// JWS has both numbers in 32 bytes each (RFC 7518, section 3.4).
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	t.FillBytes(signature[32:])
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// signer is the key that the API server signs tokens with.
func (s *space) signer() *ecdsa.PrivateKey {
	s.Helper()
	data, err := os.ReadFile(filepath.Join(s.c.Dir(), "pki", "sa.key"))
	if err != nil {
		s.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		s.Fatal("sa.key holds no PEM block")
	}
	key, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		s.Fatal(err)
	}
	return key
}
