package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"tidemark/mutlog"
)

type pooled = pgxpool.Conn // embedded under its own name, it would hide its method Conn

// lease is a connection of the pool, until it is released.
type lease struct {
	*pooled
	until time.Time // by when its first exchange must have ended
}

var errClosed = fmt.Errorf("%w: it is closed", mutlog.ErrUnavailable)

// acquire returns a connection, waiting for one if all are in use. The wait counts
// as time of what is sent first, and leaves a fifth of it: a connection that
// came too late for an answer would be lost to the call after this one.
func (s *Postgres) acquire(ctx context.Context) (*lease, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.closed.Load() {
		return nil, errClosed
	}
	until := time.Now().Add(s.timeout)
	patience := s.timeout * 4 / 5
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := s.pool.Acquire(waiting)
	switch {
	case err == nil:
		return &lease{conn, until}, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(waiting.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("%w: no connection to the database in %v", mutlog.ErrUnavailable, patience)
	}
	return nil, fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
}

// exchange sends b and reads all answers. The end of ctx does not stop what is on
// its way: that would cost the connection, and a client that hangs up again and
// again would cost the database its time. The timeout of the store bounds it.
func (s *Postgres) exchange(ctx context.Context, conn *lease, b *pgx.Batch) error {
	until := conn.until
	if until.IsZero() {
		until = time.Now().Add(s.timeout)
	}
	conn.until = time.Time{}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
	defer cancel()
	return conn.SendBatch(ctx, b).Close()
}
