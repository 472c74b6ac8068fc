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

// until is by when what is sent now must be answered: within the timeout of the
// store, and in what is left of the time of the request that asks, but a tenth
// of the timeout at least.
func (s *Postgres) until(ctx context.Context) time.Time {
	now := time.Now()
	until := now.Add(s.timeout)
	if by, ok := mutlog.HurryOf(ctx); ok && now.Before(by) && by.Before(until) {
		return later(by, now.Add(s.timeout/10))
	}
	return until
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
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
	until := s.until(ctx)
	patience := time.Until(until) * 4 / 5
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := s.pool.Acquire(waiting)
	switch {
	case err == nil:
		return &lease{conn, until}, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(waiting.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("%w: no connection to the database in %v", mutlog.ErrUnavailable, patience.Round(time.Millisecond))
	}
	return nil, fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
}

// exchange sends b and reads all answers. The end of ctx does not stop what is on
// its way: that would cost the connection, and a client that hangs up again and
// again would cost the database its time. The timeout of the store bounds it.
func (s *Postgres) exchange(ctx context.Context, conn *lease, b *pgx.Batch) error {
	until := conn.until
	if until.IsZero() {
		until = s.until(ctx)
	}
	conn.until = time.Time{}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
	defer cancel()
	return conn.SendBatch(ctx, b).Close()
}
