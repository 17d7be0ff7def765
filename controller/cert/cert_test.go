package cert

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

const namespace = "lamina-system"

func newKeeper(client kubernetes.Interface) *Keeper {
	return New(client, namespace, slog.New(slog.DiscardHandler))
}

func ensure(t *testing.T, k *Keeper) {
	t.Helper()
	if err := k.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func bundleOf(t *testing.T, client kubernetes.Interface) string {
	t.Helper()
	cm, err := client.CoreV1().ConfigMaps(namespace).Get(t.Context(), BundleName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return cm.Data[BundleKey]
}

func secretOf(t *testing.T, client kubernetes.Interface) *corev1.Secret {
	t.Helper()
	s, err := client.CoreV1().Secrets(namespace).Get(t.Context(), SecretName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// handshake is an agent that trusts the bundle and nothing else. It returns the
// certificate that it was shown.
func handshake(t *testing.T, k *Keeper, bundle, name string) (*x509.Certificate, error) {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(bundle)) {
		t.Fatalf("no certificate in the bundle %q", bundle)
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	served := make(chan error, 1)
	go func() { served <- tls.Server(far, k.TLS()).HandshakeContext(t.Context()) }()
	conn := tls.Client(near, &tls.Config{RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS13})
	err := conn.HandshakeContext(t.Context())
	near.Close()
	<-served
	if err != nil {
		return nil, err
	}
	return conn.ConnectionState().PeerCertificates[0], nil
}

func TestFirstStart(t *testing.T) {
	client := fake.NewClientset()
	k := newKeeper(client)
	ensure(t, k)

	for _, name := range []string{
		"lamina-controller", "lamina-controller.lamina-system", "lamina-controller.lamina-system.svc",
		"lamina-controller.lamina-system.svc.cluster.local",
	} {
		if _, err := handshake(t, k, bundleOf(t, client), name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := handshake(t, k, bundleOf(t, client), "kubernetes.default.svc"); err == nil {
		t.Error("it answers for a name that is not its own")
	}
	if strings.Contains(bundleOf(t, client), "PRIVATE KEY") {
		t.Error("the bundle holds a key")
	}
	if got := secretOf(t, client).Type; got != corev1.SecretTypeTLS {
		t.Errorf("Secret of type %s", got)
	}
}

// A second process, later, takes what is there.
func TestTakesWhatExists(t *testing.T) {
	client := fake.NewClientset()
	ensure(t, newKeeper(client))
	before := secretOf(t, client)
	k := newKeeper(client)
	ensure(t, k)
	if diff := cmp.Diff(before.Data, secretOf(t, client).Data); diff != "" {
		t.Errorf("the Secret changed (-before +after):\n%s", diff)
	}
	if _, err := handshake(t, k, bundleOf(t, client), "lamina-controller"); err != nil {
		t.Error(err)
	}
}

// Whoever loses the race serves what the winner made.
func TestConcurrentStart(t *testing.T) {
	client := fake.NewClientset()
	keepers := make([]*Keeper, 8)
	var wg sync.WaitGroup
	for i := range keepers {
		keepers[i] = newKeeper(client)
		wg.Go(func() {
			if err := keepers[i].Ensure(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	bundle := bundleOf(t, client)
	first, err := handshake(t, keepers[0], bundle, "lamina-controller")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keepers[1:] {
		got, err := handshake(t, k, bundle, "lamina-controller")
		if err != nil {
			t.Fatal(err)
		}
		if !got.Equal(first) {
			t.Error("two processes serve two certificates")
		}
	}
}

func TestConflictReadsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		k := newKeeper(client)
		ensure(t, k)
		time.Sleep(servingLife)
		conflicts := 2
		client.PrependReactor("update", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
			if conflicts--; conflicts >= 0 {
				return true, nil, apierrors.NewConflict(corev1.Resource("secrets"), SecretName, errors.New("changed"))
			}
			return false, nil, nil
		})
		ensure(t, k)
		if _, err := handshake(t, k, bundleOf(t, client), "lamina-controller"); err != nil {
			t.Error(err)
		}
	})
}

// Twelve years, in steps: an agent whose bundle is 25 days old always gets in, and
// so does one that has just read it.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		k := newKeeper(client)
		ensure(t, k)
		const step = 25 * 24 * time.Hour
		old := bundleOf(t, client)
		serving, cas := map[string]bool{}, map[string]bool{}
		for end := time.Now().Add(12 * caLife / 10); time.Now().Before(end); time.Sleep(step) {
			ensure(t, k)
			now := bundleOf(t, client)
			for _, bundle := range []string{old, now} {
				leaf, err := handshake(t, k, bundle, "lamina-controller.lamina-system.svc")
				if err != nil {
					t.Fatalf("%s: %v", time.Now(), err)
				}
				serving[leaf.SerialNumber.String()] = true
				cas[leaf.Issuer.CommonName] = true
				if left := time.Until(leaf.NotAfter); left < servingLife/3-step {
					t.Fatalf("%s: the serving certificate has %s left", time.Now(), left)
				}
			}
			if n := strings.Count(now, "BEGIN"); n > 2 {
				t.Fatalf("%d certificates in the bundle", n)
			}
			old = now
		}
		if n := strings.Count(old, "BEGIN"); n != 1 {
			t.Errorf("%d certificates in the bundle at the end; the old CA has expired", n)
		}
		if len(cas) != 2 {
			t.Errorf("CAs that signed: %v, want two", cas)
		}
		// A new one after 60 days, at the next step.
		if n := len(serving); n < 12*365/85 || n > 12*365/60 {
			t.Errorf("%d serving certificates in 12 years", n)
		}
	})
}

// The next CA signs nothing before the bundle with it was seen published.
func TestNextCAIsPublishedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		k := newKeeper(client)
		ensure(t, k)
		client.PrependReactor("update", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("no")
		})
		time.Sleep(caLife - caRenew)
		for range 2 {
			if err := k.Ensure(t.Context()); err == nil || !strings.Contains(err.Error(), BundleName) {
				t.Errorf("got %v, want an error about the ConfigMap", err)
			}
			time.Sleep(2 * caOverlap)
		}
		s, err := parse(secretOf(t, client).Data)
		if err != nil {
			t.Fatal(err)
		}
		if s.next == nil || s.previous != nil {
			t.Error("the CA changed although no agent can know the next one")
		}
	})
}

// A controller that was off for eleven years starts over.
func TestExpiredCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		ensure(t, newKeeper(client))
		time.Sleep(caLife + caRenew)
		k := newKeeper(client)
		ensure(t, k)
		if _, err := handshake(t, k, bundleOf(t, client), "lamina-controller"); err != nil {
			t.Error(err)
		}
	})
}

func TestRunRestoresWhatWasDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		k := newKeeper(client)
		ensure(t, k)
		before := bundleOf(t, client)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- k.Run(ctx) }()

		if err := client.CoreV1().ConfigMaps(namespace).Delete(ctx, BundleName, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(interval + time.Second)
		if diff := cmp.Diff(before, bundleOf(t, client)); diff != "" {
			t.Errorf("the bundle is another (-before +after):\n%s", diff)
		}

		// Deleting the Secret is how a person gets a new CA.
		if err := client.CoreV1().Secrets(namespace).Delete(ctx, SecretName, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(interval)
		after := bundleOf(t, client)
		if after == before {
			t.Error("the CA is still the old one")
		}
		if _, err := handshake(t, k, after, "lamina-controller"); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
}

func TestBundleKeepsOtherKeys(t *testing.T) {
	client := fake.NewClientset(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: BundleName, Namespace: namespace},
		Data:       map[string]string{"note": "mine"},
	})
	ensure(t, newKeeper(client))
	cm, err := client.CoreV1().ConfigMaps(namespace).Get(t.Context(), BundleName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if cm.Data["note"] != "mine" || cm.Data[BundleKey] == "" {
		t.Errorf("data is %v", cm.Data)
	}
}

func TestSecretThatCannotBeUsed(t *testing.T) {
	good := func(t *testing.T) map[string][]byte {
		client := fake.NewClientset()
		ensure(t, newKeeper(client))
		return secretOf(t, client).Data
	}
	for name, spoil := range map[string]func(data, other map[string][]byte){
		"empty":             func(data, _ map[string][]byte) { clear(data) },
		"no CA key":         func(data, _ map[string][]byte) { delete(data, keyCAKey) },
		"garbage":           func(data, _ map[string][]byte) { data[keyCA] = []byte("hunter2") },
		"two CAs":           func(data, _ map[string][]byte) { data[keyCA] = bytes.Repeat(data[keyCA], 2) },
		"another CA's key":  func(data, other map[string][]byte) { data[keyCAKey] = other[keyCAKey] },
		"another CA":        func(data, other map[string][]byte) { data[keyCA], data[keyCAKey] = other[keyCA], other[keyCAKey] },
		"serving key is no": func(data, _ map[string][]byte) { data[keyServingKey] = data[keyServing] },
		"half a next CA":    func(data, other map[string][]byte) { data[keyNext] = other[keyCA] },
		"previous is no":    func(data, _ map[string][]byte) { data[keyPrevious] = []byte("x") },
	} {
		t.Run(name, func(t *testing.T) {
			data := good(t)
			spoil(data, good(t))
			client := fake.NewClientset(&corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Name: SecretName, Namespace: namespace}, Data: data,
			})
			err := newKeeper(client).Ensure(t.Context())
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range []string{"lamina-system/lamina-tls", "kubectl -n lamina-system delete secret lamina-tls"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
			for _, secret := range []string{"hunter2", "PRIVATE KEY"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%q quotes the Secret", err)
				}
			}
			if diff := cmp.Diff(data, secretOf(t, client).Data); diff != "" {
				t.Errorf("the Secret changed (-before +after):\n%s", diff)
			}
		})
	}
}

// An API server that does not answer is not one that has no Secret.
func TestUnreadableSecretIsNotReplaced(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("get", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewServiceUnavailable("etcd is away")
	})
	if err := newKeeper(client).Ensure(t.Context()); err == nil {
		t.Error("no error")
	}
	for _, a := range client.Actions() {
		if a.GetVerb() != "get" {
			t.Errorf("it did %s %s", a.GetVerb(), a.GetResource().Resource)
		}
	}
}

func TestTLSBeforeEnsure(t *testing.T) {
	if _, err := newKeeper(fake.NewClientset()).TLS().GetCertificate(nil); err == nil {
		t.Error("a certificate from nowhere")
	}
}
