package driver_test

import (
	"errors"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lamina-csi/lamina/driver"
)

// Before the agent has looked at its disks it does not say that there is no room.
func TestNotReady(t *testing.T) {
	n := thin(t)
	n.Endpoint += "2" // the first driver serves until the test ends
	n.Serve(t, func(c *driver.Config) {
		c.Endpoint, c.Ready = n.Endpoint, func() error { return errors.New("looking at disks") }
	})
	_, err := n.GetCapacity(t.Context(), &csi.GetCapacityRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("GetCapacity: %v", err)
	}
	if _, err := n.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{}); err != nil {
		t.Errorf("NodeGetInfo: %v", err)
	}
}
