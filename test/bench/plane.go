package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/lamina-csi/lamina/deploy/image/bundle"
	"github.com/lamina-csi/lamina/driver/link"
	"github.com/lamina-csi/lamina/test/cluster"
)

const (
	system    = "lamina-system"
	existing  = "existing" // namespace of the claims that exist
	measured  = "measured" // and of those that are made
	lateClass = "lamina"   // of deploy/kustomize/base
	soonClass = "immediate-binding"

	controllerUser = "system:serviceaccount:" + system + ":lamina-controller"
	binderUser     = "system:serviceaccount:kube-system:persistent-volume-binder"
)

// auditPolicy records what the controller asks, and what Kubernetes' own
// controllers write to volumes.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- level: Metadata
  users: ["` + controllerUser + `"]
- level: Metadata
  users: ["` + binderUser + `", "system:serviceaccount:kube-system:pvc-protection-controller", "system:serviceaccount:kube-system:pv-protection-controller"]
  verbs: [create, update, patch, delete]
- level: None
`

// startPlane starts the API server and installs what a user installs, but for the
// pods: nothing runs them.
func (b *bench) startPlane(ctx context.Context) error {
	policy := filepath.Join(b.dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return err
	}
	b.audit = &audit{path: filepath.Join(b.dir, "audit.log")}
	var err error
	b.cluster, err = cluster.Start(ctx, cluster.Config{Bare: true, Dir: filepath.Join(b.dir, "cluster"), Log: b.log, APIServerFlags: []string{
		"--audit-policy-file", policy, "--audit-log-path", b.audit.path,
	}})
	if err != nil {
		return err
	}
	b.api = b.cluster.RESTConfig()
	if b.api.Host, err = b.cluster.Join(ctx); err != nil {
		return err
	}
	root, err := bundle.ModuleRoot()
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"apply", "-f", filepath.Join(root, "deploy/kustomize/snapshot-controller/crd")},
		{"apply", "-k", filepath.Join(root, "deploy/kustomize/base")},
		{"create", "namespace", existing},
		{"create", "namespace", measured},
	} {
		if _, err := b.cluster.Kubectl(ctx, args...); err != nil {
			return err
		}
	}
	soon := storagev1.VolumeBindingImmediate
	_, err = b.client().StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: soonClass}, Provisioner: link.DriverName,
		Parameters: map[string]string{"pool": poolName}, VolumeBindingMode: &soon,
	}, metav1.CreateOptions{})
	return err
}

// client is an administrator's, in protobuf and without limits.
func (b *bench) client() kubernetes.Interface {
	c := rest.CopyConfig(b.api)
	c.ContentType = "application/vnd.kubernetes.protobuf"
	c.AcceptContentTypes = c.ContentType + ",application/json"
	return kubernetes.NewForConfigOrDie(c)
}

// startBinder starts the part of Kubernetes that binds claims. It starts when the
// existing volumes are bound already. Its limit of 20 requests a second, and its
// looking at everything each 15 seconds, are not what is measured.
func (b *bench) startBinder() error {
	return b.cluster.StartControllerManager(
		"--controllers=persistentvolume-binder-controller,persistentvolumeclaim-protection-controller,persistentvolume-protection-controller",
		"--kube-api-qps=5000", "--kube-api-burst=5000", "--pvclaimbinder-sync-period=1h")
}

// token is a token of a ServiceAccount, bound to a pod if there is one.
func token(ctx context.Context, client kubernetes.Interface, account string, pod *corev1.Pod, audiences ...string) (string, error) {
	hours := int64(6 * 3600)
	r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, ExpirationSeconds: &hours}}
	if pod != nil {
		r.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}
	}
	r, err := client.CoreV1().ServiceAccounts(system).CreateToken(ctx, account, r, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("get a token of %s: %w", account, err)
	}
	return r.Status.Token, nil
}

// kubeconfig writes one that is the controller's ServiceAccount.
func (b *bench) kubeconfig(ctx context.Context) (string, error) {
	t, err := token(ctx, b.client(), "lamina-controller", nil)
	if err != nil {
		return "", err
	}
	c := api.NewConfig()
	c.Clusters["bench"] = &api.Cluster{Server: b.api.Host, CertificateAuthorityData: b.api.CAData}
	c.AuthInfos["controller"] = &api.AuthInfo{Token: t}
	c.Contexts["bench"] = &api.Context{Cluster: "bench", AuthInfo: "controller"}
	c.CurrentContext = "bench"
	path := filepath.Join(b.dir, "kubeconfig")
	return path, clientcmd.WriteToFile(*c, path)
}
