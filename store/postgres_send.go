package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"tidemark/mutlog"
)

// send sends statements that only read, in one round trip, each a transaction of
// its own, and tries again what the database gave up to others. With no
// connection given it takes one of the pool.
//
// Once a statement is on its way, the end of ctx does not stop it: that would cost the
// connection, and a client that hangs up again and again would cost the
// database its time. The timeout of the store bounds it.
func (s *Postgres) send(ctx context.Context, conn *pgxpool.Conn, b *pgx.Batch) error {
	if conn == nil {
		var err error
		if conn, err = s.acquire(ctx); err != nil {
			return err
		}
		defer conn.Release()
	}
	wait := backoff{}
	for {
		err := s.exchange(ctx, conn, b)
		if !isSerialization(err) {
			return s.failure(err)
		}
		if err := wait.next(ctx); err != nil {
			return err
		}
		b = again(b)
	}
}

// exchange sends b and reads all answers.
func (s *Postgres) exchange(ctx context.Context, conn *pgxpool.Conn, b *pgx.Batch) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
	defer cancel()
	return conn.SendBatch(ctx, b).Close()
}

// again returns a batch of the same statements: one can be sent once only.
func again(b *pgx.Batch) *pgx.Batch {
	fresh := &pgx.Batch{}
	for _, q := range b.QueuedQueries {
		fresh.Queue(q.SQL, q.Arguments...).Fn = q.Fn
	}
	return fresh
}

// SQLSTATE codes, from appendix A of PostgreSQL's documentation.
const (
	stateSerialization   = "40001"
	stateDeadlock        = "40P01"
	stateReadOnly        = "25006"
	stateUniqueViolation = "23505"
)

// sqlState returns the code of an error that the database reported, or "".
func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// isSerialization tells whether the database gave up a transaction in favour of
// others: nothing of it was applied, and the same may be tried again.
func isSerialization(err error) bool {
	code := sqlState(err)
	return code == stateSerialization || code == stateDeadlock
}

// failure returns what an error of the database means to the caller: damage, or
// that the store is not available. Errors of mutlog, and errRaced, stay as they
// are.
func (s *Postgres) failure(err error) error {
	switch code := sqlState(err); {
	case err == nil || err == errRaced || errors.Is(err, mutlog.ErrCorrupt) || errors.Is(err, mutlog.ErrUnavailable): //nolint:errorlint // it is not wrapped
		return err
	case strings.HasPrefix(code, "XX00"): // data_corrupted, index_corrupted
		return fmt.Errorf("%w: %v", mutlog.ErrCorrupt, err)
	case code == stateReadOnly, strings.HasPrefix(code, "57P"):
		s.pool.Reset() // the other connections lead to the same server, which may no longer be the right one
	}
	return fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
}

// commitFailure is failure for a transaction whose COMMIT was sent. An error that
// a server reports and lives on after has ended the transaction; of a connection
// that is gone nobody knows how far it came.
func (s *Postgres) commitFailure(err error) error {
	var pg *pgconn.PgError
	reported := errors.As(err, &pg) && pg.Severity == "ERROR" && pg.Code != stateCompletionUnknown
	if failed := s.failure(err); err == nil || reported || pgconn.SafeToRetry(err) { // the latter: nothing was sent
		return failed
	}
	return fmt.Errorf("%w: %v", mutlog.ErrOutcomeUnknown, err)
}

// stateCompletionUnknown says that a transaction may have been committed.
const stateCompletionUnknown = "40003"

// backoff is how long to wait between tries of what others got in the way of.
type backoff struct {
	tries   int
	started time.Time
}

// maxTrying bounds for how long is tried.
const maxTrying = 2 * postgresTimeout

// next waits before another try. It gives up with ctx, or when it has taken too long.
func (w *backoff) next(ctx context.Context) error {
	if w.tries++; w.tries == 1 {
		w.started = time.Now()
	}
	if time.Since(w.started) > maxTrying {
		return fmt.Errorf("%w: others were faster for %v", mutlog.ErrUnavailable, maxTrying)
	}
	if w.tries == 1 {
		return ctx.Err()
	}
	most := time.Millisecond << min(w.tries, 6)
	select {
	case <-time.After(rand.N(most)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
