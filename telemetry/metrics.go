package telemetry

import (
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tidemark/mutlog"
	"tidemark/server"
	"tidemark/store"
)

// Metrics are the figures of one server. Its methods are quick, and safe to call
// from several goroutines.
type Metrics struct {
	registry   *prometheus.Registry
	collectors []prometheus.Collector // that are registered

	requests   *prometheus.HistogramVec
	pushes     *prometheus.CounterVec
	mutations  prometheus.Counter
	outOfSync  *prometheus.CounterVec
	limited    *prometheus.CounterVec
	pulled     prometheus.Counter
	cut        prometheus.Counter
	newestHead atomic.Int64 // the latest timestamp that was given, in milliseconds

	group, commit, sync prometheus.Histogram

	retentionRead, retentionDropped, retentionFailures prometheus.Counter
}

// seconds are the bounds of durations: from what a poll takes to what a client
// has the patience for.
var seconds = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// New returns the figures of a server of a version, all zero.
func New(version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.requests = histograms("http_server_request_duration_seconds", "How long requests took.", seconds,
		"http_request_method", "http_route", "http_response_status_code")
	m.pushes = counters("tidemark_pushes_total", "Pushes, by what became of them.", "outcome")
	m.mutations = counter("tidemark_mutations_total", "Mutations that were applied.")
	m.outOfSync = counters("tidemark_out_of_sync_total", "Requests refused for their cursor (409), by reason.", "operation", "reason")
	m.limited = counters("tidemark_rate_limited_requests_total", "Requests refused for their rate (429), by the bucket that was empty.", "limit")
	m.pulled = counter("tidemark_pulled_bytes_total", "Bytes of the answers to pulls before they are compressed.")
	m.cut = counter("tidemark_cut_answers_total", "Answers that were cut short, because the client or the store was gone.")
	m.group = histogram("tidemark_store_commit_batches", "Batches that share a commit.", []float64{0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024})
	m.commit = histogram("tidemark_store_commit_duration_seconds", "How long commits took.", seconds)
	m.sync = histogram("tidemark_store_sync_duration_seconds", "How long of a commit it took to write it and wait for the disk.", seconds)
	m.retentionRead = counter("tidemark_retention_read_mutations_total", "Mutations that retention has looked at.")
	m.retentionDropped = counter("tidemark_retention_dropped_mutations_total", "Mutations that retention has dropped.")
	m.retentionFailures = counter("tidemark_retention_failures_total", "Logs that retention could not prune, and rounds that could not go on.")
	m.register(m.retentionRead, m.retentionDropped, m.retentionFailures, m.requests, m.pushes, m.mutations, m.outOfSync, m.limited, m.pulled, m.cut,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	look(m, func() (float64, bool) { return m.headAhead(), true },
		gauge("tidemark_head_ahead_seconds", "How far the latest timestamp given since the start is ahead of the clock.", same))
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "tidemark_build_info", Help: "1; its label is the version.",
		ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	m.register(info)
	m.preset()
	return m
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func counters(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func histogram(name, help string, bounds []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: bounds})
}

func histograms(name, help string, bounds []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: bounds}, labels)
}

func (m *Metrics) register(all ...prometheus.Collector) {
	m.registry.MustRegister(all...)
	m.collectors = append(m.collectors, all...)
}

// preset makes the series that alerts ask for before anything has happened: a
// rate of what is not there yet is not zero, but unknown.
func (m *Metrics) preset() {
	for _, outcome := range outcomes {
		m.pushes.WithLabelValues(outcome)
	}
	for _, reason := range reasons {
		m.outOfSync.WithLabelValues("push", reason)
		if reason != "first_sync" && reason != "stale_cursor" {
			m.outOfSync.WithLabelValues("pull", reason)
		}
	}
	for _, limit := range limits {
		m.limited.WithLabelValues(limit)
	}
}

// Handler answers with all figures.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry, MaxRequestsInFlight: 4})
}

// Values that labels have.
var (
	outcomes = []string{"applied", "replayed", "empty", "out_of_sync", "limited", "refused", "failed"}
	reasons  = []string{"first_sync", "stale_cursor", "cursor_ahead", "cursor_expired"}
	limits   = []string{"user", "address", "authentication"}
	methods  = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}
)

// oneOf returns value if it is among those that there may be.
func oneOf(values []string, value, otherwise string) string {
	if slices.Contains(values, value) {
		return value
	}
	return otherwise
}

// Observe counts a request that was answered.
func (m *Metrics) Observe(x *server.Exchange) {
	method := oneOf(methods, x.Request.Method, "_OTHER")
	m.requests.WithLabelValues(method, x.Route, strconv.Itoa(x.Status)).Observe(x.Took.Seconds())
	if x.Cut {
		m.cut.Inc()
	}
	if x.Limit != "" {
		m.limited.WithLabelValues(oneOf(limits, x.Limit, "other")).Inc()
	}
	if x.Route != "/v1/sync" {
		return
	}
	operation := "pull"
	if method == http.MethodPost {
		operation = "push"
		m.push(x)
	} else if x.Status == http.StatusOK {
		m.pulled.Add(float64(x.Size))
	}
	if x.Reason != "" {
		m.outOfSync.WithLabelValues(operation, oneOf(reasons, string(x.Reason), "other")).Inc()
	}
}

// push counts a push by its outcome.
func (m *Metrics) push(x *server.Exchange) {
	m.pushes.WithLabelValues(outcome(x)).Inc()
	if p := x.Pushed; p != nil && !p.Replayed {
		m.mutations.Add(float64(len(p.Mutations)))
		for head := int64(p.Head); ; {
			newest := m.newestHead.Load()
			if head <= newest || m.newestHead.CompareAndSwap(newest, head) {
				break
			}
		}
	}
}

func outcome(x *server.Exchange) string {
	switch p := x.Pushed; {
	case p != nil && p.Replayed:
		return "replayed"
	case p != nil && len(p.Mutations) == 0:
		return "empty"
	case p != nil:
		return "applied"
	case x.Reason != "":
		return "out_of_sync"
	case x.Limit != "":
		return "limited"
	case x.Status >= 500:
		return "failed"
	}
	return "refused"
}

// headAhead is 0 unless clocks were set back, or more than a mutation a
// millisecond came to one log.
func (m *Metrics) headAhead() float64 {
	return max(0, time.Until(time.UnixMilli(m.newestHead.Load())).Seconds())
}

// Committed counts a commit of a store.
func (m *Metrics) Committed(c store.Commit) {
	m.group.Observe(float64(c.Batches))
	m.commit.Observe(c.Took.Seconds())
	m.sync.Observe(c.Synced.Seconds())
}

// Pruned counts what retention did to a log, or that it could not.
func (m *Metrics) Pruned(done mutlog.Pruning, err error) {
	m.retentionRead.Add(float64(done.Read))
	m.retentionDropped.Add(float64(done.Dropped))
	if err != nil {
		m.retentionFailures.Inc()
	}
}
