package sidecar

import (
	"context"
	"errors"
	"fmt"

	resizecontroller "github.com/kubernetes-csi/external-resizer/v2/pkg/controller"
	"github.com/kubernetes-csi/external-resizer/v2/pkg/modifier"
	"github.com/kubernetes-csi/external-resizer/v2/pkg/modifycontroller"
	"github.com/kubernetes-csi/external-resizer/v2/pkg/resizer"
	storagev1 "k8s.io/api/storage/v1"
)

// resizeController expands volumes here; kubelet expands what is in them.
func (s *Sidecar) resizeController() (resizecontroller.ResizeController, error) {
	r, err := resizer.NewResizerFromClient(s.csi, callTimeout, s.config.Client, s.config.DriverName)
	if err != nil {
		return nil, fmt.Errorf("make the resizer: %w", err)
	}
	const handleVolumeInUse = false // volumes expand in use, and Pods need no watch
	return resizecontroller.NewResizeController(s.config.DriverName, r, s.config.Client, resync, s.config.Informers,
		retries(), handleVolumeInUse, s.infeasible), nil
}

// runModify applies VolumeAttributesClasses, from when they are served (Kubernetes
// 1.34), if the driver can modify volumes.
func (s *Sidecar) runModify(ctx context.Context) {
	const metadata = false // of claim and volume is not passed on: the driver has it
	m, err := modifier.NewModifierFromClient(s.csi, callTimeout, s.config.Client, s.config.Informers, metadata, s.config.DriverName)
	if errors.Is(err, modifier.ModifyNotSupportErr) {
		return
	}
	if err != nil {
		s.log.Error("volumes cannot be modified", "error", err)
		return
	}
	if !s.served(ctx, storagev1.SchemeGroupVersion.String(), "VolumeAttributesClass") {
		return
	}
	c := modifycontroller.NewModifyController(s.config.DriverName, m, s.config.Client, resync, s.infeasible, metadata,
		s.config.Informers, retries())
	s.config.Informers.Start(ctx.Done())
	s.log.Info("modify controller runs")
	c.Run(modifyWorkers, ctx, nil)
}
