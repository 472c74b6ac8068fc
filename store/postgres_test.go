package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store/postgrestest"
)

// opened opens the database at url; it is closed after the test.
func opened(t testing.TB, url string) *Postgres {
	t.Helper()
	s, err := OpenPostgres(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// execute runs SQL in the database at url.
func execute(t testing.TB, url, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// query returns the one value that a statement gives.
func query[T any](t testing.TB, url, sql string, args ...any) (v T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// Ten servers that start at once on an empty database all come up, and on the
// same store.
func TestTenStartsAtOnce(t *testing.T) {
	for range 3 {
		url := postgrestest.URL(t)
		stores := make([]*Postgres, 10)
		var wg sync.WaitGroup
		for i := range stores {
			wg.Go(func() {
				var err error
				if stores[i], err = OpenPostgres(url + "&pool_max_conns=2"); err != nil {
					t.Errorf("start %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		for i, s := range stores {
			if s == nil {
				continue
			}
			head := push(t, s, "alice", note(mutlog.Update, "a", fmt.Sprintf(`{"by":%d}`, i)))
			if got := read(t, stores[0], "alice").Head; got != head {
				t.Errorf("after a push through %d the head is %d, and %d for the first", i, head, got)
			}
			defer s.Close()
		}
	}
}

// The tables are made of nothing that engines which speak PostgreSQL refuse.
func TestSpoken(t *testing.T) {
	sql := string(must[[]byte](t)(migrations.ReadFile("migrations/0001.sql")))
	same(t, "for PostgreSQL", sql, spoken(sql, "PostgreSQL 15.14 (Debian 15.14-0+deb12u1) on x86_64-pc-linux-gnu"))
	if got := spoken(sql, "CockroachDB CCL v25.1.0 (x86_64-pc-linux-gnu)"); !strings.Contains(sql, "COLLATE") || strings.Contains(got, "COLLATE") {
		t.Errorf("for CockroachDB:\n%s", got)
	}
	url := postgrestest.URL(t)
	execute(t, url, `CREATE SCHEMA tidemark;`+spoken(sql, "CockroachDB CCL v25.1.0")) // it is whole
	var statements []string
	for line := range strings.Lines(sql) {
		text, _, _ := strings.Cut(line, "--")
		statements = append(statements, text)
	}
	for _, word := range []string{"SERIAL", "SEQUENCE", "REFERENCES", "FOREIGN", "UNLOGGED", "EXTENSION", "TRIGGER", "JSONB", "ADVISORY", "IDENTITY", "INHERITS"} {
		if strings.Contains(strings.ToUpper(strings.Join(statements, "")), word) {
			t.Errorf("the tables need %s", word)
		}
	}
}

// A store of a newer version is refused in one line (F42).
func TestF42NewerTables(t *testing.T) {
	url := postgrestest.URL(t)
	opened(t, url)
	execute(t, url, `UPDATE tidemark.version SET version = 99`)
	_, err := OpenPostgres(url)
	if !errors.Is(err, ErrNewer) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v", err)
	}
}

// What is printed of a URL has no secret in it, also in errors.
func TestNameHasNoSecret(t *testing.T) {
	for url, want := range map[string]string{
		"tidemark.db": "tidemark.db",
		"postgres://bob:hunter2@db.example:5432/sync?sslmode=disable&password=hunter2": "postgres://db.example:5432/sync",
		"postgresql://db/sync#hunter2":      "postgresql://db/sync",
		"postgres://bob:hun%zzter2@db/sync": "postgres://…",
	} {
		if got := Name(url); got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
	for _, url := range []string{
		"postgres://bob:hunter2@127.0.0.1:1/sync?sslmode=disable",
		"postgres://bob:hunter2@127.0.0.1:1/sync?password=hunter2&sslmode=nonsense",
		"postgres://bob:hunter2@127.0.0.1:port/sync",
		"postgres://bob:hun%zzter2@127.0.0.1/sync",
	} {
		if s, err := OpenPostgres(url); err == nil || strings.Contains(err.Error(), "ter2") {
			t.Errorf("%s: %v, %v", url, s, err)
		}
	}
}

// Only a database in UTF-8 keeps every text.
func TestOtherEncodingIsRefused(t *testing.T) {
	url := postgrestest.URL(t)
	execute(t, url, `CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'`)
	defer execute(t, url, `DROP DATABASE latin WITH (FORCE)`)
	name := url[strings.LastIndex(url[:strings.Index(url, "?")], "/")+1 : strings.Index(url, "?")]
	if _, err := OpenPostgres(strings.Replace(url, "/"+name+"?", "/latin?", 1)); err == nil || !strings.Contains(err.Error(), "LATIN1") {
		t.Errorf("got %v", err)
	}
}

// Commits that wait for no disk are refused from the start.
func TestLazyCommitsAreRefused(t *testing.T) {
	url := postgrestest.URL(t)
	execute(t, url, `ALTER DATABASE `+query[string](t, url, `SELECT current_database()`)+` SET synchronous_commit = off`)
	if s, err := OpenPostgres(url); err == nil || !strings.Contains(err.Error(), "synchronous_commit") {
		t.Errorf("got %v, %v", s, err)
	}
}

// A database that does not get on answers in time, and however many calls there
// are, they do not pile up; once it gets on, so does the store (F34).
func TestF34LockedTable(t *testing.T) {
	url := postgrestest.URL(t)
	s := opened(t, url+"&pool_max_conns=4")
	s.timeout = time.Second
	head := push(t, s, "alice", note(mutlog.Create, "a", `{}`))
	conn := must[*pgx.Conn](t)(pgx.Connect(t.Context(), url))
	defer conn.Close(context.Background())
	lock := must[pgx.Tx](t)(conn.Begin(t.Context()))
	if _, err := lock.Exec(t.Context(), `LOCK TABLE tidemark.mutations IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			started := time.Now()
			_, err := mutlog.New(s, mutlog.DefaultLimits).Push(t.Context(), mutlog.User(fmt.Sprint(i)), mutlog.Push{Base: -1, Mutations: []mutlog.Mutation{note(mutlog.Create, "b", `{}`)}})
			if !errors.Is(err, mutlog.ErrUnavailable) && !errors.Is(err, mutlog.ErrOutcomeUnknown) {
				t.Errorf("got %v", err)
			}
			if took := time.Since(started); took > 20*s.timeout {
				t.Errorf("a push took %v", took)
			}
		})
	}
	wg.Wait()
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a push succeeds", func() bool {
		_, err := mutlog.New(s, mutlog.DefaultLimits).Push(t.Context(), "alice", mutlog.Push{Base: head, Mutations: []mutlog.Mutation{note(mutlog.Create, "b", `{}`)}})
		return err == nil
	})
	eventually(t, "the database does nothing for those who gave up", func() bool {
		return query[int](t, url, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'`) == 0
	})
	mutlogtest.CheckSound(t, s)
}

// A transaction that the database gives up at whatever statement (40001, 40P01)
// is tried again: the client sees nothing of it, and the batch is there once
// (F35).
func TestF35GivenUpAtEachStatement(t *testing.T) {
	for _, code := range []string{stateSerialization, stateDeadlock} {
		for _, at := range []struct{ table, event, timing string }{
			{"logs", "INSERT", ""}, {"logs", "UPDATE", ""}, {"batches", "INSERT", ""}, {"mutations", "INSERT", ""},
			{"mutations", "INSERT", "DEFERRABLE INITIALLY DEFERRED"}, // at COMMIT
		} {
			t.Run(fmt.Sprint(code, " ", at.table, " ", at.event, " ", at.timing), func(t *testing.T) {
				url := postgrestest.URL(t)
				s := opened(t, url)
				if at.event == "UPDATE" {
					push(t, s, "alice", note(mutlog.Create, "a", `{}`))
				}
				giveUp(t, url, code, at.table, at.event, at.timing, 3)
				head := push(t, s, "alice", note(mutlog.Create, "b", `{}`))
				push(t, s, "alice", note(mutlog.Create, "c", `{}`))
				if c := read(t, s, "alice"); c.Batches[len(c.Batches)-2].Head() != head || c.Head <= head {
					t.Errorf("the head is %d after %d", c.Head, head)
				}
				mutlogtest.CheckSound(t, s)
				if n := query[int](t, url, `SELECT last_value FROM given_up`); n <= 3 {
					t.Errorf("%d transactions came so far, want more than the 3 that were given up", n)
				}
			})
		}
	}
}

// giveUp makes the database end the next n transactions that do what is named,
// with an error of the code. It counts them with a sequence, which a rollback
// does not turn back.
func giveUp(t testing.TB, url, code, table, event, timing string, n int) {
	t.Helper()
	kind := "TRIGGER"
	if timing != "" {
		kind = "CONSTRAINT TRIGGER"
	}
	execute(t, url, fmt.Sprintf(`
CREATE SEQUENCE given_up;
CREATE FUNCTION give_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF nextval('given_up') <= %d THEN RAISE EXCEPTION USING ERRCODE = '%s'; END IF;
	RETURN NEW;
END $$;
CREATE %s give_up AFTER %s ON tidemark.%s %s FOR EACH ROW EXECUTE FUNCTION give_up();`, n, code, kind, event, table, timing))
}

// What the database refuses for now is unavailability: nothing was applied, and
// a later try succeeds (F39).
func TestF39RefusedForNow(t *testing.T) {
	for _, code := range []string{"53100", "25006", "53300", "57014", "55P03", "58030"} {
		t.Run(code, func(t *testing.T) {
			url := postgrestest.URL(t)
			s := opened(t, url)
			head := push(t, s, "alice", note(mutlog.Create, "a", `{}`))
			giveUp(t, url, code, "mutations", "INSERT", "", 1)
			_, err := mutlog.New(s, mutlog.DefaultLimits).Push(t.Context(), "alice", mutlog.Push{Base: head, Mutations: []mutlog.Mutation{note(mutlog.Create, "b", `{}`)}})
			if !errors.Is(err, mutlog.ErrUnavailable) || errors.Is(err, mutlog.ErrOutcomeUnknown) {
				t.Errorf("got %v", err)
			}
			if got := read(t, s, "alice").Head; got != head {
				t.Errorf("the head is %d, and was %d", got, head)
			}
			push(t, s, "alice", note(mutlog.Create, "b", `{}`))
			mutlogtest.CheckSound(t, s)
		})
	}
}

// Of a connection that ends in the middle of a push nobody knows whether it was
// applied (F33); of an error that the server reports and survives everybody does.
func TestF33EndedInThePush(t *testing.T) {
	for code, want := range map[string]error{"40003": mutlog.ErrOutcomeUnknown, "": mutlog.ErrOutcomeUnknown, "22012": mutlog.ErrUnavailable} {
		t.Run(code, func(t *testing.T) {
			url := postgrestest.URL(t)
			s := opened(t, url)
			head := push(t, s, "alice", note(mutlog.Create, "a", `{}`))
			if code != "" {
				giveUp(t, url, code, "mutations", "INSERT", "", 1)
			} else {
				execute(t, url, `
CREATE FUNCTION give_up() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$;
CREATE TRIGGER give_up AFTER INSERT ON tidemark.mutations FOR EACH ROW EXECUTE FUNCTION give_up();`)
			}
			_, err := mutlog.New(s, mutlog.DefaultLimits).Push(t.Context(), "alice", mutlog.Push{Base: head, Mutations: []mutlog.Mutation{note(mutlog.Create, "b", `{}`)}})
			if !errors.Is(err, want) {
				t.Errorf("got %v, want %v", err, want)
			}
			if got := read(t, s, "alice").Head; got != head {
				t.Errorf("the head is %d, and was %d", got, head)
			}
		})
	}
}

// A log whose beginning was pruned away can be copied: its first batch follows
// what is no longer there, and is no receipt.
func TestCopyWithoutItsBeginning(t *testing.T) {
	s := opened(t, postgrestest.URL(t))
	batch := func(previous, at mutlog.Timestamp) *mutlog.Batch {
		return &mutlog.Batch{Base: previous, Previous: previous, Entries: []mutlog.Entry{{Mutation: note(mutlog.Create, "a", `{}`), State: []byte(`{}`), Prev: -1, Born: at}}}
	}
	appendBatch := func(previous, at mutlog.Timestamp) error {
		b := batch(previous, at)
		b.Entries[0].Timestamp = at
		return s.Update(t.Context(), "alice", func(tx mutlog.Tx) error { return tx.Append(b) })
	}
	setBounds(t, s, "alice", mutlog.Bounds{Pruned: 50, Horizon: -1})
	for _, at := range [][2]mutlog.Timestamp{{20, 25}, {40, 45}, {45, 60}} {
		if err := appendBatch(at[0], at[1]); err != nil {
			t.Errorf("%d behind %d: %v", at[1], at[0], err)
		}
	}
	if err := appendBatch(70, 80); err == nil {
		t.Error("a batch was appended behind what never was")
	}
	view(t, s, "alice", func(tx mutlog.Reader) {
		same(t, "batches", 3, len(allBatches(t, tx, 1)))
		for base, want := range map[mutlog.Timestamp]int{20: 0, 40: 0, 45: 1} {
			same(t, fmt.Sprint("receipts on ", base), want, len(must[[]*mutlog.Batch](t)(mutlogtest.All(tx.BatchesOn(base)))))
		}
	})
	if err := s.Check(t.Context(), func(p string) { t.Error(p) }); err != nil {
		t.Error(err)
	}
}
