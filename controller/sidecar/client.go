package sidecar

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	resizercsi "github.com/kubernetes-csi/external-resizer/v2/pkg/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// client is external-resizer's CSI client on a connection that is there already.
// Its own dials an address and ends the process when the connection is lost. The
// driver's capabilities are asked for once: they do not change while it runs.
type client struct {
	name string
	conn *grpc.ClientConn
	csi  csi.ControllerClient
	capabilities
}

var _ resizercsi.Client = (*client)(nil)

func newClient(name string, conn *grpc.ClientConn) *client {
	return &client{name: name, conn: conn, csi: csi.NewControllerClient(conn)}
}

// learn asks the driver what it can do.
func (c *client) learn(ctx context.Context) (err error) {
	c.capabilities, err = learn(ctx, c.conn)
	return err
}

func (c *client) GetDriverName(context.Context) (string, error) { return c.name, nil }

func (c *client) SupportsPluginControllerService(context.Context) (bool, error) {
	return c.plugin[csi.PluginCapability_Service_CONTROLLER_SERVICE], nil
}

func (c *client) SupportsControllerResize(context.Context) (bool, error) {
	return c.controller[csi.ControllerServiceCapability_RPC_EXPAND_VOLUME], nil
}

// SupportsNodeResize is asked only of a driver without EXPAND_VOLUME.
func (c *client) SupportsNodeResize(context.Context) (bool, error) { return false, nil }

func (c *client) SupportsControllerModify(context.Context) (bool, error) {
	return c.controller[csi.ControllerServiceCapability_RPC_MODIFY_VOLUME], nil
}

func (c *client) SupportsControllerSingleNodeMultiWriter(context.Context) (bool, error) {
	return c.controller[csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER], nil
}

// Expand expands a volume to at least size bytes and returns its size now.
//
// A full pool's answer becomes OutOfRange. The resizer takes ResourceExhausted for
// "may still be going on" and holds the claim to the size that does not fit; after
// OutOfRange its user may ask for less (KEP-1790), and a retry each minute finds
// out when the pool has room.
func (c *client) Expand(ctx context.Context, volumeID string, size int64, secrets map[string]string, capability *csi.VolumeCapability) (int64, bool, error) {
	resp, err := c.csi.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId:         volumeID,
		CapacityRange:    &csi.CapacityRange{RequiredBytes: size},
		Secrets:          secrets,
		VolumeCapability: capability,
	})
	if err != nil {
		return 0, false, final(err, codes.OutOfRange)
	}
	return resp.GetCapacityBytes(), resp.GetNodeExpansionRequired(), nil
}

// Modify changes a volume's mutable parameters.
func (c *client) Modify(ctx context.Context, volumeID string, secrets, parameters map[string]string) error {
	_, err := c.csi.ControllerModifyVolume(ctx, &csi.ControllerModifyVolumeRequest{
		VolumeId:          volumeID,
		Secrets:           secrets,
		MutableParameters: parameters,
	})
	return err
}

// CloseConnection does nothing: the connection is the caller's.
func (c *client) CloseConnection() {}

// final gives ResourceExhausted another code. Of this driver it is a refusal that
// changed nothing, and the resizer and the snapshotter know it only as an overload
// whose outcome is open.
func final(err error, code codes.Code) error {
	if s := status.Convert(err); s.Code() == codes.ResourceExhausted {
		return status.Error(code, s.Message())
	}
	return err
}
