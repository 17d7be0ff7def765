// Package auth finds out which node an agent speaks for, from the token that it
// shows on the link.
package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lamina-csi/lamina/driver/link"
)

const (
	// ServiceAccount is that of the agents.
	ServiceAccount = "lamina-node"
	// nodeKey is where the API server puts the node of the pod that a token is
	// bound to (KEP-4193).
	nodeKey = "authentication.kubernetes.io/node-name"
	// concurrent bounds the reviews under way. It is the only limit: when 5,000
	// agents return at once, the API server's own fairness sets the pace.
	concurrent = 64
)

// Reviews is the API that judges tokens: kubernetes.Interface's
// AuthenticationV1().TokenReviews(). It should have no client-side rate limit.
type Reviews interface {
	Create(context.Context, *authenticationv1.TokenReview, metav1.CreateOptions) (*authenticationv1.TokenReview, error)
}

// Authenticator judges agents' tokens.
type Authenticator struct {
	reviews Reviews
	user    string
	slots   chan struct{}
}

// New makes an Authenticator that accepts the agents' ServiceAccount in a namespace.
func New(reviews Reviews, namespace string) *Authenticator {
	return &Authenticator{
		reviews: reviews,
		user:    "system:serviceaccount:" + namespace + ":" + ServiceAccount,
		slots:   make(chan struct{}, concurrent),
	}
}

// Authenticate returns the node whose agent holds the token. No error holds the
// token. Nothing is remembered: a token of a pod that is gone ends with the pod.
func (a *Authenticator) Authenticate(ctx context.Context, token string) (node string, err error) {
	if token == "" {
		return "", errors.New("the token is empty")
	}
	select {
	case a.slots <- struct{}{}:
		defer func() { <-a.slots }()
	case <-ctx.Done():
		return "", fmt.Errorf("wait for a token review: %w", ctx.Err())
	}
	review, err := a.reviews.Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{link.Audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("review a token: %w", err)
	}
	node, err = a.judge(review.Status)
	if err != nil {
		return "", errors.New(strings.ReplaceAll(err.Error(), token, "<token>"))
	}
	return node, nil
}

// judge is the rule: an authenticated token for our audience, of the agents'
// ServiceAccount, bound to a pod on a node.
func (a *Authenticator) judge(s authenticationv1.TokenReviewStatus) (node string, err error) {
	switch {
	case !s.Authenticated:
		return "", fmt.Errorf("the API server does not accept the token: %q", s.Error)
	case !slices.Contains(s.Audiences, link.Audience):
		return "", fmt.Errorf("the token is for %q, not for %q", s.Audiences, link.Audience)
	case s.User.Username != a.user:
		return "", fmt.Errorf("the token is that of %q, not of %q", s.User.Username, a.user)
	}
	nodes := s.User.Extra[nodeKey]
	if len(nodes) != 1 || nodes[0] == "" {
		return "", fmt.Errorf("the token is bound to no node (%s is %q); it must be one that kubelet mounts into a pod, from Kubernetes 1.32 on", nodeKey, nodes)
	}
	return nodes[0], nil
}
