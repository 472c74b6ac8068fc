package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tidemark/backup"
	"tidemark/server"
	"tidemark/store"
	"tidemark/webhook"
)

// WatchServer adds the figures that a server has at the time of each look.
func (m *Metrics) WatchServer(s *server.Server) {
	look(m, func() (server.Stats, bool) { return s.Stats(), true },
		gauge("http_server_active_requests", "Requests under way.", func(s server.Stats) float64 { return float64(s.Requests) }),
		gauge("tidemark_connections", "Connections of clients that are open.", func(s server.Stats) float64 { return float64(s.Connections) }),
		gauge("tidemark_connections_limit", "Connections of clients that may be open.", func(s server.Stats) float64 { return float64(s.MaxConnections) }),
		gauge("tidemark_event_streams", "Streams of events that are open.", func(s server.Stats) float64 { return float64(s.Streams) }),
		gauge("tidemark_waiting_pulls", "Pulls that wait for something new.", func(s server.Stats) float64 { return float64(s.WaitingPulls) }),
		gauge("tidemark_memory_waiting_requests", "Requests that wait for memory to work in.", func(s server.Stats) float64 { return float64(s.Waiting) }),
	)
}

// WatchStore adds the figures of a store: of a bbolt file, or of the connections
// to a database.
func (m *Metrics) WatchStore(s store.Store) {
	m.watchFailure(s.Failed())
	switch s := s.(type) {
	case *store.Bolt:
		m.register(m.group, m.commit, m.sync)
		look(m, func() (store.BoltStats, bool) { stats, err := s.Stats(); return stats, err == nil },
			gauge("tidemark_store_queued_pushes", "Pushes that wait for a commit.", func(s store.BoltStats) float64 { return float64(s.Queued) }),
			gauge("tidemark_store_queued_pushes_limit", "Pushes that may wait; more are refused.", func(s store.BoltStats) float64 { return float64(s.MaxQueued) }),
			gauge("tidemark_store_file_bytes", "Pages of the store's file, used and free.", func(s store.BoltStats) float64 { return float64(s.FileBytes) }),
			gauge("tidemark_store_free_bytes", "Free pages of the store's file, which it uses again.", func(s store.BoltStats) float64 { return float64(s.FreeBytes) }),
		)
		look(m, func() (disk, bool) { free, size, err := s.Disk(); return disk{free, size}, err == nil },
			gauge("tidemark_store_disk_free_bytes", "What the disk of the store has left for the server.", func(d disk) float64 { return float64(d.free) }),
			gauge("tidemark_store_disk_size_bytes", "What the disk of the store can hold.", func(d disk) float64 { return float64(d.size) }),
		)
	case *store.Postgres:
		look(m, func() (store.PostgresStats, bool) { return s.Stats(), true },
			gauge("tidemark_store_connections_used", "Connections to the database that requests hold.", func(s store.PostgresStats) float64 { return float64(s.Used) }),
			gauge("tidemark_store_connections_idle", "Connections to the database that nobody holds.", func(s store.PostgresStats) float64 { return float64(s.Idle) }),
			gauge("tidemark_store_connections_limit", "Connections to the database that there may be.", func(s store.PostgresStats) float64 { return float64(s.Max) }),
			count("tidemark_store_connection_waits_total", "How often a request had to wait for a connection to the database.", func(s store.PostgresStats) float64 { return float64(s.Waits) }),
			count("tidemark_store_connection_wait_seconds_total", "How long they waited, in all.", func(s store.PostgresStats) float64 { return s.Waited.Seconds() }),
		)
	}
}

// disk is what a file system has, in bytes.
type disk struct{ free, size int64 }

// watchFailure adds whether a store has failed, which ends the server soon.
func (m *Metrics) watchFailure(failed <-chan struct{}) {
	look(m, func() (v float64, ok bool) {
		select {
		case <-failed:
			v = 1
		default:
		}
		return v, true
	}, gauge("tidemark_store_failed", "1 once the store has failed, and only a restart can tell what is on disk.", same))
}

// same is of a look that tells one figure.
func same(v float64) float64 { return v }

// WatchBackups adds how a schedule of backups fares.
func (m *Metrics) WatchBackups(s *backup.Schedule) {
	look(m, func() (backup.Status, bool) { return s.Status(), true },
		gauge("tidemark_backup_last_success_timestamp_seconds", "When the newest backup was made, in Unix seconds; 0 if there is none.", func(s backup.Status) float64 {
			if s.Made.IsZero() {
				return 0
			}
			return float64(s.Made.UnixMilli()) / 1000
		}),
		gauge("tidemark_backup_last_duration_seconds", "How long the newest backup took; 0 if it is of an earlier start.", func(s backup.Status) float64 { return s.Took.Seconds() }),
		gauge("tidemark_backup_last_bytes", "Size of the newest backup.", func(s backup.Status) float64 { return float64(s.Bytes) }),
		count("tidemark_backup_failures_total", "Backups that failed.", func(s backup.Status) float64 { return float64(s.Failures) }),
	)
	every := s.Every
	look(m, func() (time.Duration, bool) { return every, true },
		gauge("tidemark_backup_interval_seconds", "How long after one backup the next is due.", time.Duration.Seconds))
}

// WatchWebhook adds what becomes of the messages of a webhook.
func (m *Metrics) WatchWebhook(h *webhook.Hook) {
	look(m, func() (webhook.Stats, bool) { return h.Stats(), true },
		gauge("tidemark_webhook_waiting_messages", "Messages of the webhook that wait to be taken.", func(s webhook.Stats) float64 { return float64(s.Waiting) }),
		count("tidemark_webhook_delivered_messages_total", "Messages of the webhook that were taken.", func(s webhook.Stats) float64 { return float64(s.Delivered) }),
		count("tidemark_webhook_failures_total", "Requests to the webhook that failed.", func(s webhook.Stats) float64 { return float64(s.Failures) }),
		count("tidemark_webhook_dropped_messages_total", "Messages of the webhook that were given up or had no room.", func(s webhook.Stats) float64 { return float64(s.Dropped) }),
	)
}

// figure is one of what a look at something tells.
type figure[T any] struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(T) float64
}

func gauge[T any](name, help string, of func(T) float64) figure[T] {
	return figure[T]{prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue, of}
}

func count[T any](name, help string, of func(T) float64) figure[T] {
	return figure[T]{prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue, of}
}

// looks is a prometheus.Collector of the figures that one look tells.
type looks[T any] struct {
	at      func() (T, bool)
	figures []figure[T]
}

// look registers figures. at may say that there is nothing to be seen now.
func look[T any](m *Metrics, at func() (T, bool), figures ...figure[T]) {
	m.register(&looks[T]{at, figures})
}

// Describe implements prometheus.Collector.
func (l *looks[T]) Describe(to chan<- *prometheus.Desc) {
	for _, f := range l.figures {
		to <- f.desc
	}
}

// Collect implements prometheus.Collector.
func (l *looks[T]) Collect(to chan<- prometheus.Metric) {
	seen, ok := l.at()
	if !ok {
		return
	}
	for _, f := range l.figures {
		to <- prometheus.MustNewConstMetric(f.desc, f.kind, f.of(seen))
	}
}
