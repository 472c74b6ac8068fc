package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"tidemark/mutlog"
)

// Postgres is a store in a PostgreSQL database, or in an engine that speaks its
// language. Any number of processes may have it open; they need not know of each
// other. migrations/0001.sql draws its tables.
//
// # What a call costs
//
// Looking up a head is one statement and one round trip. A push is three: the
// head with the bounds; the newest mutations of its resources; and BEGIN,
// compare-and-set of the head, batch, mutations and COMMIT, sent as one (see
// postgres_append.go). It is two where all its mutations create resources that
// the server names. Fewer there cannot be without telling the rules of the log
// to the database: what is written rests on what was read.
//
// Pushes of several users are not committed together, as those of a file are. The
// database shares the syncs of transactions that commit at the same time anyway,
// and one transaction for many keeps the logs of all locked until the last is
// written: with 8 users' pushes in each, pgbench came to 0.89 (0.76 to 1.10) of
// the pushes that it came to with one; and the store to 0.69 (0.66 to 0.83) of
// those, to 0.67 (0.63 to 1.23) of its look-ups of a head (bench/postgres: five
// turns of three seconds each on two busy cores).
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

// postgresTimeout bounds how long a statement, or the wait for a connection, may
// take: a database that hangs must not let calls pile up.
const postgresTimeout = 5 * time.Second

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
	s := &Postgres{name: Name(url), timeout: postgresTimeout, failed: make(chan struct{}), process: rand.Text(), lookAgain: lookAgain,
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

// Users implements mutlog.Store.
func (s *Postgres) Users(ctx context.Context, fn func(mutlog.User) error) error {
	return s.eachStep(ctx, func(logs []userHead) error {
		for _, log := range logs {
			if log.head == mutlog.Beginning {
				continue // it has nothing but bounds
			}
			if err := fn(mutlog.User(log.user)); err != nil {
				return err
			}
		}
		return nil
	})
}

// userHead is a user with a row in logs, and its head.
type userHead struct {
	user []byte
	head mutlog.Timestamp
}

// eachStep calls fn with all rows of logs in order, some at a time.
func (s *Postgres) eachStep(ctx context.Context, fn func([]userHead) error) error {
	const step = 1000
	scan := func(row pgx.CollectableRow) (u userHead, err error) {
		err = row.Scan(&u.user, (*int64)(&u.head))
		return u, err
	}
	after := []byte{}
	for first := true; ; first = false {
		logs, err := collect(ctx, s, scan, `SELECT user_id, head FROM tidemark.logs WHERE user_id >= $1 AND (user_id > $1 OR $2) ORDER BY user_id LIMIT $3`, after, first, step)
		if err != nil {
			return err
		}
		if len(logs) > 0 {
			if err := fn(logs); err != nil {
				return err
			}
		}
		if len(logs) < step {
			return nil
		}
		after = logs[len(logs)-1].user
	}
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

var errClosed = fmt.Errorf("%w: it is closed", mutlog.ErrUnavailable)

// acquire returns a connection, waiting for one if all are in use.
func (s *Postgres) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.closed.Load() {
		return nil, errClosed
	}
	waiting, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	conn, err := s.pool.Acquire(waiting)
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(waiting.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("%w: no connection to the database in %v", mutlog.ErrUnavailable, s.timeout)
	}
	return nil, fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
}

// collect runs one statement that only reads and returns its rows.
func collect[T any](ctx context.Context, s *Postgres, scan pgx.RowToFunc[T], sql string, args ...any) (all []T, err error) {
	b := &pgx.Batch{}
	b.Queue(sql, args...).Query(func(rows pgx.Rows) (err error) {
		all, err = pgx.CollectRows(rows, scan)
		return err
	})
	return all, s.send(ctx, nil, b)
}

// exec runs one statement that writes, durably, and returns how many rows it
// changed.
func (s *Postgres) exec(ctx context.Context, sql string, args ...any) (n int64, err error) {
	conn, err := s.acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Release()
	wait := backoff{}
	for {
		b := &pgx.Batch{}
		b.Queue(sql, args...).Exec(func(tag pgconn.CommandTag) error {
			n = tag.RowsAffected()
			return nil
		})
		if err = s.exchange(ctx, conn, b); !isSerialization(err) {
			return n, s.commitFailure(err)
		}
		if err := wait.next(ctx); err != nil {
			return 0, err
		}
	}
}
