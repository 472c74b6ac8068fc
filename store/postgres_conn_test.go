package store

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
	"tidemark/store/postgrestest"
)

// deadlines tells by when what is sent must be answered.
type deadlines chan time.Time

func (d deadlines) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	deadline, _ := ctx.Deadline()
	select {
	case d <- deadline:
	default:
	}
	return ctx
}

func (deadlines) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (deadlines) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

func (deadlines) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (deadlines) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// What is sent has no more time than the wait for its connection has left, so
// that no call takes the wait and then the answer's time (F34). What follows on
// the same connection has the whole time again.
func TestF34WaitCounts(t *testing.T) {
	trace := make(deadlines, 16)
	s, err := openPostgres(postgrestest.URL(t)+"&pool_max_conns=1", trace)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.timeout = time.Minute
	only, err := s.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	begun, ended := make(chan time.Time, 1), make(chan error, 1)
	go func() {
		begun <- time.Now()
		ended <- s.View(context.Background(), "alice", func(tx mutlog.Reader) error {
			_, err := tx.Bounds() // two exchanges
			return err
		})
	}()
	<-begun
	time.Sleep(time.Second)
	released := time.Now()
	only.Release()
	first := <-trace
	if !first.Before(released.Add(s.timeout)) {
		t.Errorf("what waited for its connection may take until %v, as if it had not waited until %v", first, released)
	}
	if second := <-trace; second.Before(released.Add(s.timeout)) {
		t.Errorf("what follows may take until %v, as if it had waited until %v, too", second, released)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A call that gets no connection gives up in time to be answered, and leaves
// the connections to others.
func TestF34NoConnection(t *testing.T) {
	s := opened(t, postgrestest.URL(t)+"&pool_max_conns=1")
	s.timeout = 500 * time.Millisecond
	only, err := s.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mutlog.New(s, mutlog.DefaultLimits).Head(t.Context(), "alice"); !errors.Is(err, mutlog.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	only.Release()
	s.timeout = postgresTimeout
	if _, err := mutlog.New(s, mutlog.DefaultLimits).Head(t.Context(), "alice"); err != nil {
		t.Error(err)
	}
}
