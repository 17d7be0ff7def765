package auth

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/lamina-csi/lamina/driver/link"
)

const token = "eyJhbGciOiJSUzI1NiJ9.secret"

// accepted is what the API server says of an agent's token.
func accepted() authenticationv1.TokenReviewStatus {
	return authenticationv1.TokenReviewStatus{
		Authenticated: true,
		Audiences:     []string{link.Audience},
		User: authenticationv1.UserInfo{
			Username: "system:serviceaccount:lamina-system:lamina-node",
			Extra: map[string]authenticationv1.ExtraValue{
				"authentication.kubernetes.io/node-name": {"worker-1"},
				"authentication.kubernetes.io/pod-name":  {"lamina-node-abcde"},
			},
		},
	}
}

func TestAuthenticate(t *testing.T) {
	type status = authenticationv1.TokenReviewStatus
	for _, tc := range []struct {
		name    string
		token   string
		change  func(*status)
		err     error
		want    string
		wantErr string
	}{
		{name: "an agent", want: "worker-1"},
		{name: "no token", token: "-", wantErr: "empty"},
		{name: "not accepted", change: func(s *status) { *s = status{Error: "token has expired"} }, wantErr: "token has expired"},
		{name: "the server quotes the token", change: func(s *status) { *s = status{Error: "bad " + token} }, wantErr: "bad <token>"},
		{name: "accepted with no audience", change: func(s *status) { s.Audiences = nil }, wantErr: `not for "lamina.dev"`},
		{name: "another audience", change: func(s *status) { s.Audiences = []string{"https://kubernetes.default.svc"} }, wantErr: "kubernetes.default.svc"},
		{name: "another account", change: func(s *status) { s.User.Username = "system:serviceaccount:lamina-system:default" }, wantErr: `lamina-system:default`},
		{name: "another namespace", change: func(s *status) { s.User.Username = "system:serviceaccount:evil:lamina-node" }, wantErr: "evil"},
		{name: "a person", change: func(s *status) { s.User.Username = "lamina-node" }, wantErr: `"lamina-node"`},
		{name: "bound to no node", change: func(s *status) { s.User.Extra = nil }, wantErr: "bound to no node"},
		{name: "an empty node", change: func(s *status) { s.User.Extra[nodeKey] = []string{""} }, wantErr: "bound to no node"},
		{name: "two nodes", change: func(s *status) { s.User.Extra[nodeKey] = []string{"a", "b"} }, wantErr: "bound to no node"},
		{name: "API error", err: apierrors.NewTooManyRequests("slow down", 1), wantErr: "review a token: slow down"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			client := fake.NewClientset()
			var asked []authenticationv1.TokenReviewSpec
			client.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
				review := a.(clienttesting.CreateAction).GetObject().(*authenticationv1.TokenReview).DeepCopy()
				asked = append(asked, review.Spec)
				review.Status = accepted()
				if tc.change != nil {
					tc.change(&review.Status)
				}
				return true, review, tc.err
			})
			shown := token
			if tc.token == "-" {
				shown = ""
			}
			got, err := New(client.AuthenticationV1().TokenReviews(), "lamina-system").Authenticate(t.Context(), shown)
			if got != tc.want {
				t.Errorf("got node %q, want %q", got, tc.want)
			}
			if (err == nil) != (tc.wantErr == "") || err != nil && !strings.Contains(err.Error(), tc.wantErr) {
				t.Errorf("got %v, want an error with %q", err, tc.wantErr)
			}
			if err != nil && strings.Contains(err.Error(), token) {
				t.Errorf("the error %q holds the token", err)
			}
			want := []authenticationv1.TokenReviewSpec{{Token: token, Audiences: []string{"lamina.dev"}}}
			if shown == "" {
				want = nil
			}
			if diff := cmp.Diff(want, asked); diff != "" {
				t.Errorf("reviews (-want +got):\n%s", diff)
			}
		})
	}
}

// slow answers when it is let go.
type slow struct {
	now, most atomic.Int64
	release   chan struct{}
}

func (s *slow) Create(_ context.Context, r *authenticationv1.TokenReview, _ metav1.CreateOptions) (*authenticationv1.TokenReview, error) {
	n := s.now.Add(1)
	for most := s.most.Load(); n > most && !s.most.CompareAndSwap(most, n); most = s.most.Load() {
	}
	<-s.release
	s.now.Add(-1)
	r.Status = accepted()
	return r, nil
}

// All agents of a large cluster return at once: the API server sees a bounded
// number of reviews, all agents get in, and who gives up does not wait.
func TestAllAgentsReturn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const agents = 5000
		reviews := &slow{release: make(chan struct{})}
		a := New(reviews, "lamina-system")
		results := make(chan error, agents)
		for range agents {
			go func() {
				_, err := a.Authenticate(t.Context(), token)
				results <- err
			}()
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := a.Authenticate(ctx, token); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		close(reviews.release)
		for range agents {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if most := reviews.most.Load(); most != concurrent {
			t.Errorf("%d reviews at once, want %d", most, concurrent)
		}
	})
}
