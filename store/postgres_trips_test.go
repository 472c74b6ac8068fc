package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store/postgrestest"
)

// trips counts what is sent for logs: each is a round trip.
type trips struct{ n atomic.Int64 }

func (c *trips) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n.Add(1)
	return ctx
}
func (*trips) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (c *trips) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	ofLogs := func(q *pgx.QueuedQuery) bool { return strings.Contains(q.SQL, "tidemark.") }
	if slices.ContainsFunc(data.Batch.QueuedQueries, ofLogs) { // it is no notification
		c.n.Add(1)
	}
	return ctx
}
func (*trips) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (*trips) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// A push and a pull are as many round trips as the comment on Postgres says.
func TestRoundTrips(t *testing.T) {
	trace := &trips{}
	s := must[*Postgres](t)(openPostgres(postgrestest.URL(t), trace))
	t.Cleanup(func() { s.Close() })
	log := mutlog.New(s, mutlog.DefaultLimits)
	heads := []mutlog.Timestamp{mutlog.Beginning}
	push := func(p mutlog.Push) func() error {
		return func() error {
			answer, err := log.Push(t.Context(), "alice", p)
			if err == nil && !answer.Replayed {
				heads = append(heads, answer.Head)
			}
			return err
		}
	}
	named := func(id string) []mutlog.Mutation { return []mutlog.Mutation{note(mutlog.Create, id, `{}`)} }
	refused := func(push func() error) func() error {
		return func() error {
			if err := push(); !errors.As(err, new(*mutlog.OutOfSyncError)) {
				return errors.Join(errors.New("not refused"), err)
			}
			return nil
		}
	}
	is := func(what string, want int64, call func() error) {
		t.Helper()
		before := trace.n.Load()
		if err := call(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := trace.n.Load() - before; got != want {
			t.Errorf("%s takes %d round trips, want %d", what, got, want)
		}
	}
	head := func() mutlog.Timestamp { return heads[len(heads)-1] }

	is("the first push of a user", 3, push(mutlog.Push{Base: head(), Mutations: named("a")}))
	first := head()
	is("a push", 2, push(mutlog.Push{Base: head(), Mutations: append(named("a"), named("b")...)}))
	is("a push that names nothing", 2, push(mutlog.Push{Base: head(), Mutations: named("")}))
	keyed := mutlog.Push{Base: head(), Mutations: named("c"), Key: "key"}
	is("a push with a key", 2, push(keyed))
	is("its repeat", 1, push(keyed))
	plain := mutlog.Push{Base: head(), Mutations: named("d")}
	is("a push", 2, push(plain))
	is("its repeat", 2, push(plain))
	is("a push that is merged", 3, push(mutlog.Push{Base: first, Mutations: named("e"), Merge: true}))
	is("a push that is refused", 2, refused(push(mutlog.Push{Base: first, Mutations: named("b")})))
	is("an empty push", 1, push(mutlog.Push{Base: head()}))
	is("a look-up of a head", 1, func() error { return ignoring(log.Head(t.Context(), "alice")) })
	is("a pull of a cursor", 3, func() error {
		changes, err := log.Pull(t.Context(), "alice", mutlog.Query{Since: first})
		if err == nil {
			_, err = mutlogtest.All(changes.All(t.Context()))
		}
		return err
	})
}

// What came with the head is taken for no other state: neither a batch that was
// pushed after the head was read nor what an erasure has yet to remove.
func TestExpected(t *testing.T) {
	ending := func(at mutlog.Timestamp) *mutlog.Batch {
		return &mutlog.Batch{Entries: []mutlog.Entry{{Mutation: mutlog.Mutation{Timestamp: at}}}}
	}
	log20 := &logRow{head: 20, bounds: mutlog.Bounds{Gaps: []mutlog.Gap{{After: mutlog.Beginning, Until: 10}}}}
	for at, want := range map[mutlog.Timestamp]bool{9: false, 10: false, 11: true, 20: true, 21: false} {
		e := expected{keyed: true, batches: []*mutlog.Batch{ending(at)}}
		if got := e.batch(log20) != nil; got != want {
			t.Errorf("a batch at %d of a log from 10 to 20: %t", at, got)
		}
	}
	s := opened(t, postgrestest.URL(t))
	refs := []mutlog.Ref{{Resource: "NOTE", ResourceID: "a"}, {Resource: "NOTE"}, {Resource: "NOTE", ResourceID: "b"}}
	log := mutlog.New(s, mutlog.DefaultLimits)
	pushed := must[*mutlog.Pushed](t)(log.Push(t.Context(), "alice", mutlog.Push{Base: mutlog.Beginning, Key: "key",
		Mutations: []mutlog.Mutation{note(mutlog.Create, "a", `{"n":1}`), note(mutlog.Create, "b", `{"n":2}`), note(mutlog.Update, "a", `{"n":3}`)}}))

	look := func(key string, expected []mutlog.Ref) (newest []*mutlog.Entry, batch *mutlog.Batch) {
		t.Helper()
		err := s.Update(t.Context(), "alice", func(tx mutlog.Tx) (err error) {
			tx.(mutlog.Expecter).Expect(expected, key)
			head, err := tx.Head()
			if err != nil {
				return err
			}
			if newest, err = tx.Newest(refs, head); err != nil {
				return err
			}
			batch, err = tx.BatchByKey("key")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return newest, batch
	}
	want, batch := look("other", nil)
	if batch == nil || batch.Head() != pushed.Head || want[0] == nil || want[1] != nil || want[2] == nil {
		t.Fatalf("without: %v, %v", want, batch)
	}
	for _, expected := range [][]mutlog.Ref{refs, refs[:2], {{Resource: "NOTE", ResourceID: "never"}}} {
		got, gotBatch := look("key", expected)
		same(t, "newest", want, got)
		same(t, "batch", batch, gotBatch)
	}
	execute(t, s.pool.Config().ConnString(), `INSERT INTO tidemark.gaps SELECT sha256(user_id), head FROM tidemark.logs; DELETE FROM tidemark.logs`) // an erasure begins
	if err := s.Update(t.Context(), "alice", func(tx mutlog.Tx) error {
		return tx.SetBounds(must[mutlog.Bounds](t)(tx.Bounds()))
	}); err != nil {
		t.Fatal(err)
	}
	head := must[*mutlog.Pushed](t)(log.Push(t.Context(), "alice", mutlog.Push{Base: mutlog.Beginning, Mutations: []mutlog.Mutation{note(mutlog.Create, "c", `{}`)}})).Head
	if head <= pushed.Head {
		t.Fatalf("the head is %d after %d was erased", head, pushed.Head)
	}
	newest, batch := look("key", refs)
	if slices.ContainsFunc(newest, func(e *mutlog.Entry) bool { return e != nil }) || batch != nil {
		t.Errorf("what was erased is found: %v, %v", newest, batch)
	}
}
