package sidecar

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller/metrics"
)

// register registers what sig-storage-lib counts.
func register(r prometheus.Registerer, m metrics.Metrics) error {
	var errs []error
	for _, c := range []prometheus.Collector{
		m.PersistentVolumeClaimProvisionTotal,
		m.PersistentVolumeClaimProvisionFailedTotal,
		m.PersistentVolumeClaimProvisionDurationSeconds,
		m.PersistentVolumeDeleteTotal,
		m.PersistentVolumeDeleteFailedTotal,
		m.PersistentVolumeDeleteDurationSeconds,
	} {
		errs = append(errs, r.Register(c))
	}
	return errors.Join(errs...)
}
