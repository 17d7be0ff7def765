package sidecar

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lamina-csi/lamina/driver/link"
)

func ask(size int64) func(*corev1.PersistentVolumeClaim) {
	return func(p *corev1.PersistentVolumeClaim) {
		p.Spec.Resources.Requests[corev1.ResourceStorage] = *resource.NewQuantity(size, resource.BinarySI)
	}
}

func (c *cluster) resizeStatus(claim string) corev1.ClaimResourceStatus {
	return c.claim(claim).Status.AllocatedResourceStatuses[corev1.ResourceStorage]
}

func (c *cluster) size(pv string) int64 {
	capacity := c.pv(pv).Spec.Capacity[corev1.ResourceStorage]
	return capacity.Value()
}

// The volume grows here; what is in it is kubelet's.
func TestExpansion(t *testing.T) {
	c := start(t, options{})
	pv := c.provision(newClaim(1, 100*mib))
	c.setClaim("data-1", ask(200*mib))
	c.await("kubelet's turn", func() bool { return c.resizeStatus("data-1") == corev1.PersistentVolumeClaimNodeResizePending })
	if got := c.size(pv.Name); got != 200*mib {
		t.Errorf("the PV has %d bytes", got)
	}
	list, err := c.node.ListVolumes(t.Context(), &csi.ListVolumesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got := list.GetEntries()[0].GetVolume().GetCapacityBytes(); got != 200*mib {
		t.Errorf("the volume has %d bytes", got)
	}
}

// Who asked for more than the pool has may ask for less.
func TestExpansionThatDoesNotFit(t *testing.T) {
	c := start(t, options{})
	pv := c.provision(newClaim(1, 100*mib))
	c.setClaim("data-1", ask(1<<50))
	// The resizer asks once more before it waits for infeasibleRetry. Until it has
	// noted that refusal too, it may put its own, older state of the claim over a
	// newer one in the cache.
	c.await("two refusals", func() bool { return c.occurred("VolumeResizeFailed") == 2 })
	if got := c.resizeStatus("data-1"); got != corev1.PersistentVolumeClaimControllerResizeInfeasible {
		t.Errorf("the resize status is %q", got)
	}
	c.setClaim("data-1", ask(200*mib))
	c.await("kubelet's turn", func() bool { return c.resizeStatus("data-1") == corev1.PersistentVolumeClaimNodeResizePending })
	if got := c.size(pv.Name); got != 200*mib {
		t.Errorf("the PV has %d bytes", got)
	}
}

// A full pool may have room later.
func TestRefusedExpansionIsRetried(t *testing.T) {
	var left atomic.Int32
	left.Store(2) // the third request comes after infeasibleRetry
	full := func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if _, ok := req.(*csi.ControllerExpandVolumeRequest); ok && left.Add(-1) >= 0 {
			return status.Error(codes.ResourceExhausted, "pool fast is full")
		}
		return invoke(ctx, method, req, reply, conn, opts...)
	}
	c := start(t, options{intercept: full, infeasible: 50 * time.Millisecond})
	pv := c.provision(newClaim(1, 100*mib))
	c.setClaim("data-1", ask(200*mib))
	c.await("kubelet's turn", func() bool { return c.resizeStatus("data-1") == corev1.PersistentVolumeClaimNodeResizePending })
	if got := c.size(pv.Name); got != 200*mib {
		t.Errorf("the PV has %d bytes", got)
	}
}

// modifying is a driver that can modify volumes.
type modifying struct {
	mu   sync.Mutex
	reqs []*csi.ControllerModifyVolumeRequest
}

func (m *modifying) intercept(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if r, ok := req.(*csi.ControllerModifyVolumeRequest); ok {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.reqs = append(m.reqs, r)
		return nil
	}
	err := invoke(ctx, method, req, reply, conn, opts...)
	if r, ok := reply.(*csi.ControllerGetCapabilitiesResponse); ok {
		r.Capabilities = append(r.Capabilities, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{
			Rpc: &csi.ControllerServiceCapability_RPC{Type: csi.ControllerServiceCapability_RPC_MODIFY_VOLUME},
		}})
	}
	return err
}

func TestModification(t *testing.T) {
	var m modifying
	c := start(t, options{intercept: m.intercept}, &storagev1.VolumeAttributesClass{
		ObjectMeta: metav1.ObjectMeta{Name: "slow"},
		DriverName: link.DriverName,
		Parameters: map[string]string{"readIOPS": "100"},
	})
	pv := c.provision(newClaim(1, 100*mib))
	c.setClaim("data-1", func(p *corev1.PersistentVolumeClaim) { p.Spec.VolumeAttributesClassName = new("slow") })
	c.await("the modification", func() bool {
		now := c.claim("data-1").Status.CurrentVolumeAttributesClassName
		return now != nil && *now == "slow"
	})
	if got := c.pv(pv.Name).Spec.VolumeAttributesClassName; got == nil || *got != "slow" {
		t.Errorf("the PV's class is %v", got)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.reqs) != 1 || m.reqs[0].GetVolumeId() != pv.Spec.CSI.VolumeHandle {
		t.Fatalf("requests %v", m.reqs)
	}
	if diff := cmp.Diff(map[string]string{"readIOPS": "100"}, m.reqs[0].GetMutableParameters()); diff != "" {
		t.Errorf("parameters (-want +got):\n%s", diff)
	}
}
