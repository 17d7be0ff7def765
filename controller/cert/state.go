package cert

import (
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// The keys of the Secret. tls.crt and tls.key are Kubernetes' names.
const (
	keyCA, keyCAKey           = "ca.crt", "ca.key"
	keyNext, keyNextKey       = "next.crt", "next.key"
	keyPrevious               = "previous.crt"
	keyServing, keyServingKey = "tls.crt", "tls.key"
)

// state is what the Secret holds. It changes as a whole: a CA and what it signed
// are always written together.
type state struct {
	ca      *pair
	serving *pair
	// next is the CA that takes over; nil most of the time. It is in the bundle
	// and has signed nothing yet.
	next *pair
	// previous is the CA before this one, until it expires; may be nil.
	previous *x509.Certificate
}

// parse reads a Secret's data. It accepts nothing that does not fit together: a
// person has changed it then, and knows better than we what was meant.
func parse(data map[string][]byte) (*state, error) {
	var s state
	var err error
	if s.ca, err = parsePair(data[keyCA], data[keyCAKey]); err != nil {
		return nil, fmt.Errorf("%s: %w", keyCA, err)
	}
	if s.serving, err = parsePair(data[keyServing], data[keyServingKey]); err != nil {
		return nil, fmt.Errorf("%s: %w", keyServing, err)
	}
	if err := s.serving.cert.CheckSignatureFrom(s.ca.cert); err != nil {
		return nil, fmt.Errorf("%s: %s has not signed it: %w", keyServing, keyCA, err)
	}
	if len(data[keyNext]) > 0 {
		if s.next, err = parsePair(data[keyNext], data[keyNextKey]); err != nil {
			return nil, fmt.Errorf("%s: %w", keyNext, err)
		}
	}
	if len(data[keyPrevious]) > 0 {
		if s.previous, err = parseCert(data[keyPrevious]); err != nil {
			return nil, fmt.Errorf("%s: %w", keyPrevious, err)
		}
	}
	return &s, nil
}

// data is the inverse of parse.
func (s *state) data() (map[string][]byte, error) {
	data := map[string][]byte{}
	for _, p := range []struct {
		cert, key string
		pair      *pair
	}{{keyCA, keyCAKey, s.ca}, {keyServing, keyServingKey, s.serving}, {keyNext, keyNextKey, s.next}} {
		if p.pair == nil {
			continue
		}
		key, err := encodeKey(p.pair.key)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", p.key, err)
		}
		data[p.cert], data[p.key] = encodeCerts(p.pair.cert), key
	}
	if s.previous != nil {
		data[keyPrevious] = encodeCerts(s.previous)
	}
	return data, nil
}

// bundle is what agents trust: every CA that signs, will sign, or has signed what
// may still be in use.
func (s *state) bundle() string {
	certs := []*x509.Certificate{s.ca.cert}
	if s.next != nil {
		certs = append(certs, s.next.cert)
	}
	if s.previous != nil {
		certs = append(certs, s.previous)
	}
	return string(encodeCerts(certs...))
}

// fresh makes the state of a first start.
func fresh(now time.Time, names []string) (*state, error) {
	ca, err := newCA(now)
	if err != nil {
		return nil, err
	}
	serving, err := newServing(now, ca, names)
	if err != nil {
		return nil, err
	}
	return &state{ca: ca, serving: serving}, nil
}

// advance does what is due now, and says whether anything was. published says that
// the bundle, next CA and all, had been published before this call.
func (s *state) advance(now time.Time, names []string, published bool) (changed bool, err error) {
	expired := !now.Before(s.ca.cert.NotAfter)
	if s.next == nil && !now.Before(s.ca.cert.NotAfter.Add(-caRenew)) {
		if s.next, err = newCA(now); err != nil {
			return false, err
		}
		published, changed = false, true
	}
	overlapped := s.next != nil && published && !now.Before(s.next.cert.NotBefore.Add(skew+caOverlap))
	// Nobody trusts an expired CA. With it there is nothing to overlap: agents come
	// back as the new bundle reaches them, within minutes.
	if overlapped || expired {
		s.previous, s.ca, s.next = s.ca.cert, s.next, nil
		changed = true
	}
	if s.previous != nil && !now.Before(s.previous.NotAfter) {
		s.previous, changed = nil, true
	}
	if s.servingDue(now, names) {
		if s.serving, err = newServing(now, s.ca, names); err != nil {
			return false, err
		}
		changed = true
	}
	return changed, nil
}

func (s *state) servingDue(now time.Time, names []string) bool {
	c := s.serving.cert
	return c.CheckSignatureFrom(s.ca.cert) != nil ||
		!now.Before(c.NotAfter.Add(-servingLife/3)) && c.NotAfter.Before(s.ca.cert.NotAfter) ||
		!slices.Equal(c.DNSNames, names)
}
