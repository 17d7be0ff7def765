package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/lamina-csi/lamina/test/cluster"
)

// etcd writes objects of the core group below the API server, by the JSON form of
// etcd's API (gRPC gateway).
type etcd struct {
	http    *http.Client
	encoder runtime.Encoder
}

// put is an object and its key.
type put struct {
	key    string
	object interface {
		runtime.Object
		metav1.Object
	}
}

func newEtcd(c *cluster.Cluster) *etcd {
	return &etcd{
		http:    &http.Client{Transport: &http.Transport{DialContext: c.Dial, MaxIdleConnsPerHost: 8}},
		encoder: scheme.Codecs.EncoderForVersion(protobuf.NewSerializer(scheme.Scheme, scheme.Scheme), corev1.SchemeGroupVersion),
	}
}

// put writes in one transaction.
func (e *etcd) put(ctx context.Context, puts []put) error {
	type request struct {
		Put struct {
			Key   []byte `json:"key"`
			Value []byte `json:"value"`
		} `json:"requestPut"`
	}
	txn := struct {
		Success []request `json:"success"`
	}{}
	for _, p := range puts {
		p.object.SetResourceVersion("") // it is etcd's revision, not stored
		var r request
		r.Put.Key = []byte(p.key)
		var err error
		if r.Put.Value, err = runtime.Encode(e.encoder, p.object); err != nil {
			return err
		}
		txn.Success = append(txn.Success, r)
	}
	body, err := json.Marshal(txn)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1:2379/v3/kv/txn", bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := e.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("write to etcd: %s: %s", resp.Status, text)
	}
	return err
}
