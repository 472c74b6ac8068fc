package store

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// send sends statements that only read, in one round trip, each a transaction of
// its own, and tries again what the database gave up to others. With no
// connection given it takes one of the pool.
func (s *Postgres) send(ctx context.Context, conn *lease, b *pgx.Batch) error {
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

// again returns a batch of the same statements: one can be sent once only.
func again(b *pgx.Batch) *pgx.Batch {
	fresh := &pgx.Batch{}
	for _, q := range b.QueuedQueries {
		fresh.Queue(q.SQL, q.Arguments...).Fn = q.Fn
	}
	return fresh
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
