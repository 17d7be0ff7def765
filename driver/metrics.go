package driver

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lamina-csi/lamina/node/pool"
)

// durations fits what is measured here: an ioctl takes microseconds, an lvm
// command tenths of a second, one behind a busy disk minutes.
var durations = []float64{0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 120, 600}

// rpcMetrics counts and times the RPCs.
type rpcMetrics struct {
	requests *prometheus.HistogramVec
}

func newRPCMetrics() *rpcMetrics {
	return &rpcMetrics{requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "lamina_csi_request_duration_seconds",
		Help:    "Duration of CSI calls, by method and gRPC code.",
		Buckets: durations,
	}, []string{"method", "code"})}
}

// CommandMetrics counts and times lvm commands. It exists apart from the Driver
// because the lvm client is made first.
type CommandMetrics struct {
	*prometheus.HistogramVec
}

// NewCommandMetrics makes the collector; register it where the driver's are.
func NewCommandMetrics() *CommandMetrics {
	return &CommandMetrics{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "lamina_lvm_command_duration_seconds",
		Help:    "Duration of lvm commands, by command and exit status.",
		Buckets: durations,
	}, []string{"command", "exit"})}
}

// Observe records a command that ended. Give it to lvm.Options.
func (m *CommandMetrics) Observe(command string, took time.Duration, exit int) {
	m.WithLabelValues(command, strconv.Itoa(exit)).Observe(took.Seconds())
}

// poolCollector reads the pools when it is scraped, without a process.
type poolCollector struct {
	pools   Pools
	running func() []RunningCommand
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("lamina_"+name, help, labels, nil)
}

// The gauges of a pool, each with its value.
var poolGauges = []struct {
	desc  *prometheus.Desc
	value func(pool.Status) int64
}{
	{describe("pool_size_bytes", "Size of the pool's data.", "pool", "vg"), func(s pool.Status) int64 { return s.Size }},
	{describe("pool_used_bytes", "Data in use.", "pool", "vg"), func(s pool.Status) int64 { return s.Used }},
	{describe("pool_metadata_size_bytes", "Size of the thin pool's metadata.", "pool", "vg"), func(s pool.Status) int64 { return s.MetadataSize }},
	{describe("pool_metadata_used_bytes", "Thin metadata in use.", "pool", "vg"), func(s pool.Status) int64 { return s.MetadataUsed }},
	{describe("pool_vg_metadata_free_bytes", "Free bytes of the volume group's metadata area.", "pool", "vg"), func(s pool.Status) int64 { return s.TextMetadataFree }},
	{describe("pool_virtual_bytes", "Bytes promised to volumes.", "pool", "vg"), func(s pool.Status) int64 { return s.Virtual }},
	{describe("pool_free_bytes", "Bytes that may still be promised.", "pool", "vg"), func(s pool.Status) int64 { return s.Free }},
	{describe("pool_volumes", "Number of volumes.", "pool", "vg"), func(s pool.Status) int64 { return int64(s.Volumes) }},
	{describe("pool_snapshots", "Number of snapshots.", "pool", "vg"), func(s pool.Status) int64 { return int64(s.Snapshots) }},
}

var (
	healthGauge  = describe("pool_health", "1 for the state that the pool is in.", "pool", "vg", "health")
	runningGauge = describe("lvm_command_running_seconds", "Age of an lvm command that has not ended and changes a volume group, or reads all.", "vg", "command")
)

var healths = []pool.Health{
	pool.HealthOK, pool.HealthDegraded, pool.HealthFull, pool.HealthStuck, pool.HealthReadOnly, pool.HealthMissingDisk, pool.HealthError,
}

// Describe implements prometheus.Collector.
func (c *poolCollector) Describe(out chan<- *prometheus.Desc) {
	for _, g := range poolGauges {
		out <- g.desc
	}
	out <- healthGauge
	out <- runningGauge
}

// Collect implements prometheus.Collector.
func (c *poolCollector) Collect(out chan<- prometheus.Metric) {
	for _, s := range c.pools.Statuses() {
		for _, g := range poolGauges {
			out <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, float64(g.value(s)), s.Name, s.VG)
		}
		for _, h := range healths {
			value := 0.0
			if h == s.Health {
				value = 1
			}
			out <- prometheus.MustNewConstMetric(healthGauge, prometheus.GaugeValue, value, s.Name, s.VG, string(h))
		}
	}
	for _, r := range c.running() {
		out <- prometheus.MustNewConstMetric(runningGauge, prometheus.GaugeValue, time.Since(r.Since).Seconds(), r.VG, r.Command)
	}
}
