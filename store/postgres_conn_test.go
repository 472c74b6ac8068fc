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
	s.timeout = PostgresTimeout
	if _, err := mutlog.New(s, mutlog.DefaultLimits).Head(t.Context(), "alice"); err != nil {
		t.Error(err)
	}
}

// What a request asks shares the time that the request has, in whatever many
// questions; one that has taken its time otherwise waits for the store as any (F34).
func TestF34OneTimeForAll(t *testing.T) {
	s := &Postgres{timeout: time.Minute}
	for by, want := range map[time.Duration]time.Duration{
		-time.Second:     time.Minute, // it is a stream, say
		time.Millisecond: 6 * time.Second,
		20 * time.Second: 20 * time.Second,
		time.Hour:        time.Minute,
	} {
		now := time.Now()
		until := s.until(mutlog.Hurry(t.Context(), now.Add(by))).Sub(now)
		if late := until - want; late < 0 || late > time.Second {
			t.Errorf("with %v left, what is sent must be answered in %v, want %v", by, until, want)
		}
	}
	ctx := mutlog.Hurry(context.Background(), time.Now().Add(time.Second))
	if _, ok := mutlog.HurryOf(context.WithoutCancel(ctx)); !ok {
		t.Error("what goes on without its client takes its time")
	}
}

// A client that goes away while its push is being committed takes nothing with
// it: the push is applied, and the connection stays.
func TestClientGoneAtCommit(t *testing.T) {
	url := postgrestest.URL(t)
	s := opened(t, url+"&pool_max_conns=1")
	s.timeout = time.Minute
	head := push(t, s, "alice", note(mutlog.Create, "a", `{}`))
	execute(t, url, `CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(7); RETURN NULL; END'`)
	execute(t, url, `CREATE CONSTRAINT TRIGGER linger AFTER INSERT ON tidemark.batches DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION linger()`)
	conn := must[*pgx.Conn](t)(pgx.Connect(t.Context(), url))
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `SELECT pg_advisory_lock(7)`); err != nil {
		t.Fatal(err)
	}
	connected := s.pool.Stat().NewConnsCount()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := mutlog.New(s, mutlog.DefaultLimits).Push(ctx, "alice", mutlog.Push{Base: head, Mutations: []mutlog.Mutation{note(mutlog.Create, "b", `{}`)}})
		ended <- err
	}()
	eventually(t, "the commit is under way", func() bool {
		return query[int](t, url, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`) == 1
	})
	cancel()
	time.Sleep(50 * time.Millisecond) // for what might be about to end the connection
	if _, err := conn.Exec(t.Context(), `SELECT pg_advisory_unlock(7)`); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the push ends with %v", err)
	}
	if c := read(t, s, "alice"); c.Head <= head {
		t.Errorf("the head is %d, as before", c.Head)
	}
	if n := s.pool.Stat().NewConnsCount(); n != connected {
		t.Errorf("%d connections were made since", n-connected)
	}
}
