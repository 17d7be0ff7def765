// Package cert keeps the controller's own CA and serving certificate: made at first
// start, kept in one Secret, renewed in time. Agents trust the CA by a ConfigMap
// that they mount. Only the leader may run a Keeper.
package cert

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
)

const (
	// SecretName is the Secret with the CA and the serving certificate.
	SecretName = "lamina-tls"
	// BundleName is the ConfigMap that agents mount.
	BundleName = "lamina-ca"
	// BundleKey is the key in BundleName whose value is the PEM bundle.
	BundleKey = "ca.crt"

	service = "lamina-controller"
	// interval is how often Run looks at both objects. Two reads a minute are
	// cheaper than two watches.
	interval = time.Minute
)

// Keeper keeps the certificates.
type Keeper struct {
	client    kubernetes.Interface
	namespace string
	names     []string
	log       *slog.Logger
	serving   atomic.Pointer[tls.Certificate]
}

// New makes a Keeper for the Secret and the ConfigMap in a namespace. Nothing is
// read or written before Ensure.
func New(client kubernetes.Interface, namespace string, log *slog.Logger) *Keeper {
	name := service + "." + namespace
	return &Keeper{
		client:    client,
		namespace: namespace,
		names:     []string{name + ".svc", name + ".svc.cluster.local", name, service},
		log:       log,
	}
}

// Run keeps the certificates until ctx ends. What goes wrong is logged and tried
// again: the certificate in memory goes on serving.
func (k *Keeper) Run(ctx context.Context) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := k.Ensure(ctx); err != nil && ctx.Err() == nil {
			k.log.Error("certificates are not kept", "error", err)
		}
	}
}

// TLS is the configuration to listen with, once Ensure has succeeded. It follows
// renewals by itself.
func (k *Keeper) TLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c := k.serving.Load(); c != nil {
				return c, nil
			}
			return nil, errors.New("there is no serving certificate yet")
		},
	}
}

// Ensure reads the Secret, or makes it; renews what is due; and writes the bundle.
// It may be called again at any time, also by two processes at once: one of them
// then takes what the other has made. A Secret that cannot be understood is an
// error and stays as it is.
func (k *Keeper) Ensure(ctx context.Context) error {
	var s *state
	err := retry.OnError(retry.DefaultBackoff, lostRace, func() (err error) {
		s, err = k.ensureSecret(ctx)
		return err
	})
	if err != nil {
		return err
	}
	err = retry.OnError(retry.DefaultBackoff, lostRace, func() error { return k.publish(ctx, s) })
	if err != nil {
		return fmt.Errorf("publish the CA in ConfigMap %s/%s: %w", k.namespace, BundleName, err)
	}
	// Agents get the bundle before they meet what it vouches for.
	k.serving.Store(&tls.Certificate{
		Certificate: [][]byte{s.serving.cert.Raw},
		PrivateKey:  s.serving.key,
		Leaf:        s.serving.cert,
	})
	return nil
}

// lostRace says that somebody else wrote first: read again.
func lostRace(err error) bool {
	return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err)
}

// ensureSecret returns the state as it stands in the Secret, after what was due.
func (k *Keeper) ensureSecret(ctx context.Context) (*state, error) {
	secrets := k.client.CoreV1().Secrets(k.namespace)
	secret, err := secrets.Get(ctx, SecretName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return k.createSecret(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("read Secret %s/%s: %w", k.namespace, SecretName, err)
	}
	s, err := parse(secret.Data)
	if err != nil {
		return nil, fmt.Errorf("Secret %[1]s/%[2]s cannot be used: %[3]w; if it cannot be mended, delete it "+
			"(kubectl -n %[1]s delete secret %[2]s): a new CA is made, and agents follow it by ConfigMap %[4]s",
			k.namespace, SecretName, err, BundleName)
	}
	changed, err := s.advance(time.Now(), k.names, k.published(ctx, s))
	if err != nil {
		return nil, fmt.Errorf("renew the certificates in Secret %s/%s: %w", k.namespace, SecretName, err)
	}
	if !changed {
		return s, nil
	}
	secret = secret.DeepCopy()
	if secret.Data, err = s.data(); err != nil {
		return nil, err
	}
	if _, err := secrets.Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
		return nil, fmt.Errorf("write Secret %s/%s: %w", k.namespace, SecretName, err)
	}
	k.logState("certificates renewed", s)
	return s, nil
}

func (k *Keeper) createSecret(ctx context.Context) (*state, error) {
	s, err := fresh(time.Now(), k.names)
	if err != nil {
		return nil, fmt.Errorf("make a CA: %w", err)
	}
	data, err := s.data()
	if err != nil {
		return nil, err
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: SecretName, Namespace: k.namespace},
		Type:       corev1.SecretTypeTLS,
		Data:       data,
	}
	if _, err := k.client.CoreV1().Secrets(k.namespace).Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		return nil, fmt.Errorf("create Secret %s/%s: %w", k.namespace, SecretName, err)
	}
	k.logState("a CA and a serving certificate were made", s)
	return s, nil
}

func (k *Keeper) logState(msg string, s *state) {
	k.log.Info(msg, "secret", k.namespace+"/"+SecretName, "ca", s.ca.cert.Subject.CommonName,
		"ca_until", s.ca.cert.NotAfter, "serving_until", s.serving.cert.NotAfter, "next_ca", s.next != nil)
}

// published says whether the ConfigMap holds all that s wants agents to trust.
// When it cannot be read, the answer is no.
func (k *Keeper) published(ctx context.Context, s *state) bool {
	cm, err := k.client.CoreV1().ConfigMaps(k.namespace).Get(ctx, BundleName, metav1.GetOptions{})
	return err == nil && cm.Data[BundleKey] == s.bundle()
}

// publish brings the ConfigMap to the state's bundle, and makes it if it is gone.
func (k *Keeper) publish(ctx context.Context, s *state) error {
	maps := k.client.CoreV1().ConfigMaps(k.namespace)
	cm, err := maps.Get(ctx, BundleName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		cm := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: BundleName, Namespace: k.namespace},
			Data:       map[string]string{BundleKey: s.bundle()},
		}
		_, err := maps.Create(ctx, cm, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	if cm.Data[BundleKey] == s.bundle() {
		return nil
	}
	cm = cm.DeepCopy()
	if cm.Data == nil {
		cm.Data = map[string]string{}
	}
	cm.Data[BundleKey] = s.bundle()
	_, err = maps.Update(ctx, cm, metav1.UpdateOptions{})
	return err
}
