package fleet

import "github.com/prometheus/client_golang/prometheus"

var (
	nodesGauge  = prometheus.NewDesc("lamina_controller_nodes", "Number of nodes with a link (linked), and without one that had it or shall have pools (away).", []string{"state"}, nil)
	doubleGauge = prometheus.NewDesc("lamina_controller_duplicate_volume_groups", "Number of volume groups that several linked nodes show at once.", nil, nil)
)

// Describe implements prometheus.Collector.
func (f *Fleet) Describe(out chan<- *prometheus.Desc) {
	out <- nodesGauge
	out <- doubleGauge
}

// Collect implements prometheus.Collector.
func (f *Fleet) Collect(out chan<- prometheus.Metric) {
	f.mu.Lock()
	linked, away, double := 0, 0, 0
	for _, n := range f.nodes {
		switch {
		case n.session != nil:
			linked++
		case n.away():
			away++
		}
	}
	for vg, list := range f.owners {
		if len(list) > 1 && len(f.shownBy(vg)) > 1 {
			double++
		}
	}
	f.mu.Unlock()
	out <- prometheus.MustNewConstMetric(nodesGauge, prometheus.GaugeValue, float64(linked), "linked")
	out <- prometheus.MustNewConstMetric(nodesGauge, prometheus.GaugeValue, float64(away), "away")
	out <- prometheus.MustNewConstMetric(doubleGauge, prometheus.GaugeValue, float64(double))
}
