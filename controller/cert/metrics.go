package cert

import "github.com/prometheus/client_golang/prometheus"

var expiryDesc = prometheus.NewDesc("lamina_controller_certificate_not_after_seconds",
	"When the certificate that is served expires, in Unix time. It is renewed 30 days before.", nil, nil)

// Describe implements prometheus.Collector.
func (k *Keeper) Describe(out chan<- *prometheus.Desc) { out <- expiryDesc }

// Collect implements prometheus.Collector. A standby serves no certificate.
func (k *Keeper) Collect(out chan<- prometheus.Metric) {
	if c := k.serving.Load(); c != nil {
		out <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, float64(c.Leaf.NotAfter.Unix()))
	}
}
