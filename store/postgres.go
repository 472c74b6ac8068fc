package store

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"tidemark/mutlog"
)

// Postgres is a store in a PostgreSQL database, or in an engine that speaks its
// language. Any number of processes may have it open; they need not know of each
// other. migrations/0001.sql draws its tables.
//
// # What a call costs
//
// Looking up a head is one statement and one round trip. A push is two: one reads
// the head and the bounds, and with them the newest mutations of its resources and
// the batch with its key (see postgres_expect.go); the other is BEGIN,
// compare-and-set of the head, batch, mutations and COMMIT, sent as one (see
// postgres_append.go). Fewer there cannot be without telling the rules of the log
// to the database: what is written rests on what was read. It is one more for the
// first push of a user, of whom something may have been erased; for one whose
// cursor is not the head, which may be a repeat; and for one under a quota.
//
// Pushes of several users are not committed together, as those of a file are. The
// database shares the syncs of transactions that commit at the same time anyway,
// and one transaction for many keeps the logs of all locked until the last is
// written: with 8 users' pushes in each, pgbench came to 0.89 (0.81 to 0.99) of
// the pushes that it came to with one; and the store to 0.82 (0.77 to 0.85) of
// those, to 0.74 (0.62 to 0.82) of its look-ups of a head (bench/postgres: five
// turns of five seconds each on two busy cores).
//
// # One state of a log
//
// A log only grows. So its state is a head: what is not later than that never
// changes, and needs no transaction to be read. Only pruning and erasure take
// something away; they change the revision of the log, which every further
// statement of a view or an update brings along in its round trip. If it has
// changed, an update begins anew, and a view fails with mutlog.ErrUnavailable:
// whoever asks again gets the new state. So nothing in the database is held open
// while an answer travels, and no reader holds up a writer or the vacuum.
//
// # Connections
//
// Connections keep no state between transactions but prepared statements, so a
// pool in transaction mode may stand in between. PgBouncer does from 1.21 on; an
// older one, or one with max_prepared_statements = 0, needs
// default_query_exec_mode=cache_describe in the URL, which plans each statement
// anew. The URL takes all parameters of libpq, several hosts among them, and
// pool_max_conns: how many connections a process opens at most, 16 by default.
type Postgres struct {
	pool    *pgxpool.Pool
	name    string // the URL without what is secret
	timeout time.Duration

	closed  atomic.Bool
	closing context.Context // done once it is closed
	close   context.CancelFunc
	failed  chan struct{} // never closed

	process    string // the name of this process among others
	followers  followers
	told       told
	notifier   notifier
	listening  sync.Once
	lookAgain  time.Duration
	background sync.WaitGroup
}

// PostgresTimeout bounds how long statements that are sent together may take, with
// the wait for a connection to send them on: a database that hangs must not let
// calls pile up.
const PostgresTimeout = 5 * time.Second

// postgresConns is how many connections a process opens, unless the URL says it:
// enough for commits to share syncs, and for five processes to leave something
// of PostgreSQL's default of 100.
const postgresConns = 16

// IsDatabase tells whether url names a PostgreSQL database rather than a file.
func IsDatabase(url string) bool {
	return strings.HasPrefix(url, "postgres://") || strings.HasPrefix(url, "postgresql://")
}

// Name returns the URL of a store without what is secret: fit to be printed.
func Name(store string) string {
	if !IsDatabase(store) {
		return store
	}
	u, err := url.Parse(store)
	if err != nil {
		return "postgres://…" // the error would quote it
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String()
}

// OpenPostgres opens the store in the database that url names and brings its
// tables to the version of this program, also if other processes do so at the
// same time.
func OpenPostgres(url string) (*Postgres, error) { return openPostgres(url, nil) }

// openPostgres lets trace see what is sent; nil is nobody.
func openPostgres(url string, trace pgx.QueryTracer) (*Postgres, error) {
	s := &Postgres{name: Name(url), timeout: PostgresTimeout, failed: make(chan struct{}), process: rand.Text(), lookAgain: lookAgain,
		notifier: notifier{heads: map[mutlog.User]mutlog.Timestamp{}, some: make(chan struct{}, 1)}}
	s.closing, s.close = context.WithCancel(context.Background())
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("store %s: its URL has a part that PostgreSQL does not know", s.name)
	}
	if !strings.Contains(url, "pool_max_conns=") {
		config.MaxConns = postgresConns
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = s.timeout
	}
	config.PingTimeout = s.timeout
	config.MaxConnIdleTime = 5 * time.Minute
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "tidemark"
	}
	config.ConnConfig.Tracer = trace
	onlyPrimary(&config.ConnConfig.Config)
	if s.pool, err = pgxpool.NewWithConfig(context.Background(), config); err != nil {
		return nil, fmt.Errorf("store %s: %w", s.name, err)
	}
	if err := s.migrate(); err != nil {
		s.pool.Close()
		return nil, fmt.Errorf("store %s %w", s.name, err)
	}
	s.background.Go(s.notify)
	return s, nil
}

// View implements mutlog.Store.
func (s *Postgres) View(ctx context.Context, user mutlog.User, fn func(mutlog.Reader) error) error {
	tx, err := s.begin(ctx, user)
	if err != nil {
		return err
	}
	defer tx.release()
	if err := fn(tx); err != errRaced { //nolint:errorlint // it is not wrapped
		return err
	}
	return fmt.Errorf("%w: the log was pruned or erased while it was read", mutlog.ErrUnavailable)
}

// Update implements mutlog.Store. fn runs without any lock; what it appended is
// applied if the log is still what fn saw, or else fn runs again.
func (s *Postgres) Update(ctx context.Context, user mutlog.User, fn func(mutlog.Tx) error) error {
	wait := backoff{}
	for {
		err := s.try(ctx, user, fn)
		if err != errRaced { //nolint:errorlint // it is not wrapped
			return err
		}
		if err := wait.next(ctx); err != nil {
			return err
		}
	}
}

// try is one try of an update; errRaced asks for another.
func (s *Postgres) try(ctx context.Context, user mutlog.User, fn func(mutlog.Tx) error) error {
	tx, err := s.begin(ctx, user)
	if err != nil {
		return err
	}
	defer tx.release()
	if err := fn(tx); err != nil {
		return err
	}
	return tx.apply()
}

// Failed implements Store. It is never closed: whatever happens to the database
// or the way to it, a later call may find it well again, and every call finds
// out for itself what is stored.
func (s *Postgres) Failed() <-chan struct{} { return s.failed }

// Close implements mutlog.Store.
func (s *Postgres) Close() error {
	s.closed.Store(true)
	s.listening.Do(func() {}) // nobody begins to listen any more
	s.close()
	s.background.Wait()
	s.pool.Close() // waits for the connections in use
	return nil
}
