package store

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store/postgrestest"
)

// statements gathers the statements that are sent, with how many parameters
// each has.
type statements struct {
	mu   sync.Mutex
	args map[string]int
}

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func (s *statements) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range data.Batch.QueuedQueries {
		if s.args != nil && strings.Contains(q.SQL, "tidemark.") {
			s.args[q.SQL] = len(q.Arguments)
		}
	}
	return ctx
}
func (s *statements) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (s *statements) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// deploy/citus.sql spreads every table there is, and each has the user first in
// its primary key.
func TestEveryTableIsSpread(t *testing.T) {
	url := postgrestest.URL(t)
	opened(t, url)
	text, err := os.ReadFile("../deploy/citus.sql")
	if err != nil {
		t.Fatal(err)
	}
	tables := query[[]string](t, url, `SELECT array_agg(c.relname::text ORDER BY c.relname) FROM pg_class AS c
JOIN pg_index AS i ON i.indrelid = c.oid AND i.indisprimary
JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] AND a.attname = 'user_id'
WHERE c.relnamespace = 'tidemark'::regnamespace AND c.relkind = 'r'`)
	all := query[[]string](t, url, `SELECT array_agg(tablename::text ORDER BY tablename) FROM pg_tables WHERE schemaname = 'tidemark' AND tablename <> 'version'`)
	same(t, "tables with user_id first", all, tables)
	for _, table := range all {
		if !strings.Contains(string(text), "create_distributed_table('tidemark."+table+"', 'user_id'") {
			t.Errorf("deploy/citus.sql does not spread %s", table)
		}
	}
}

// Every statement of a push, a pull and a replay goes into the tables by an index
// and for one user: what it costs does not grow with the store.
func TestPlans(t *testing.T) {
	url := postgrestest.URL(t)
	trace := &statements{}
	s, err := openPostgres(url, trace)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fillStore(t, url)
	trace.args = map[string]int{}
	useEveryStatement(t, s)
	trace.mu.Lock()
	defer trace.mu.Unlock()

	conn := must[*pgx.Conn](t)(pgx.Connect(t.Context(), url))
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), `SET plan_cache_mode = force_generic_plan`); err != nil {
		t.Fatal(err)
	}
	for sql, n := range trace.args {
		checkPlan(t, conn, sql, n)
	}
	if n := len(trace.args); n < 18 {
		t.Errorf("only %d statements were looked at", n)
	}
}

// fillStore puts in 500 logs of 40 mutations and a large one, and lets the database
// learn how much that is.
func fillStore(t *testing.T, url string) {
	execute(t, url, `
INSERT INTO tidemark.logs SELECT convert_to('user-' || u, 'UTF8'), 40, 1, -1, -1, '{}' FROM generate_series(1, 500) AS u;
INSERT INTO tidemark.batches SELECT convert_to('user-' || u, 'UTF8'), b - 1, b, b, b - 1 - 5 * (b % 50 = 0)::int, '', NULL, true, 1, 100, NULL
	FROM generate_series(1, 500) AS u, generate_series(1, CASE u WHEN 7 THEN 20000 ELSE 40 END) AS b;
INSERT INTO tidemark.mutations SELECT convert_to('user-' || u, 'UTF8'), m, 'CREATE', 'NOTE', 'id-' || m % 17, false, repeat('x', 100), '', -1, m, 0
	FROM generate_series(1, 500) AS u, generate_series(1, CASE u WHEN 7 THEN 20000 ELSE 40 END) AS m;
INSERT INTO tidemark.records SELECT convert_to('user-' || u, 'UTF8'), 'device', convert_to('name-' || n, 'UTF8'), 'value'
	FROM generate_series(1, 500) AS u, generate_series(1, 10) AS n;
INSERT INTO tidemark.gaps SELECT sha256(convert_to('user-' || u, 'UTF8')), 1 FROM generate_series(1, 5000) AS u;
ANALYZE;`)
}

// useEveryStatement does what a server does with logs and records.
func useEveryStatement(t *testing.T, s *Postgres) {
	log := mutlog.New(s, mutlog.DefaultLimits)
	var base mutlog.Timestamp = mutlog.Beginning
	for i, p := range []mutlog.Push{
		{Mutations: []mutlog.Mutation{note(mutlog.Create, "a", `{}`)}},
		{Mutations: []mutlog.Mutation{note(mutlog.Create, "b", `{}`)}, Key: "key"},
		{Mutations: []mutlog.Mutation{note(mutlog.Create, "b", `{}`)}, Key: "key"},
		{Mutations: []mutlog.Mutation{note(mutlog.Create, "c", `{}`)}, Merge: true},
		{Mutations: []mutlog.Mutation{note(mutlog.Create, "c", `{}`)}, Merge: true},
	} {
		p.Base = base
		answer, err := log.Push(t.Context(), "alice", p)
		if err != nil {
			t.Fatalf("push %d: %v", i, err)
		}
		if i == 0 {
			base = answer.Head
		}
	}
	mutlogtest.Pull(t, log, "alice", mutlog.Query{Since: base})
	mutlogtest.Pull(t, log, "alice", mutlog.Query{Since: base, History: true})
	view(t, s, "alice", func(tx mutlog.Reader) { must[[]*mutlog.Batch](t)(tx.Batches(mutlog.Beginning, 10)) })
	if err := s.Update(t.Context(), "alice", func(tx mutlog.Tx) error { return tx.SetBounds(mutlog.NoBounds) }); err != nil {
		t.Fatal(err)
	}
	key := mutlog.RecordKey{Kind: "device", Owner: "alice", Name: "phone"}
	for _, value := range []string{"1", "2"} {
		put(t, s, key, []byte(value))
	}
	must[[]mutlog.Record](t)(mutlogtest.All(s.Records(t.Context(), "device", "alice")))
	put(t, s, key, nil)
}

// plan is a node of a plan, as EXPLAIN has it.
type plan struct {
	Type     string `json:"Node Type"`
	Relation string `json:"Relation Name"`
	Cond     string `json:"Index Cond"`
	Filter   string `json:"Filter"`
	Plans    []plan `json:"Plans"`
}

func checkPlan(t *testing.T, conn *pgx.Conn, sql string, args int) {
	t.Helper()
	execute := `EXECUTE it`
	if args > 0 {
		execute += `(` + strings.Join(slices.Repeat([]string{"NULL"}, args), ", ") + `)`
	}
	for _, statement := range []string{`DEALLOCATE ALL`, `PREPARE it AS ` + sql} {
		if _, err := conn.Exec(t.Context(), statement, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%v: %s", err, statement)
		}
	}
	var text string
	if err := conn.QueryRow(t.Context(), `EXPLAIN (FORMAT JSON) `+execute, pgx.QueryExecModeSimpleProtocol).Scan(&text); err != nil {
		t.Fatalf("%v: %s", err, sql)
	}
	var plans []struct{ Plan plan }
	if err := json.Unmarshal([]byte(text), &plans); err != nil {
		t.Fatal(err)
	}
	if fault := plans[0].Plan.fault(); fault != "" {
		t.Errorf("%s\n%s\n%s", fault, sql, text)
	}
}

// fault tells what in p is no access by an index to one user's rows, or searches a
// whole log for a resource.
func (p *plan) fault() string {
	switch p.Type {
	case "Seq Scan":
		return "Seq Scan on " + p.Relation
	case "Index Scan", "Index Only Scan", "Bitmap Index Scan":
		if !strings.Contains(p.Cond, "(user_id = ") {
			return fmt.Sprintf("%s on %s by %q", p.Type, p.Relation, p.Cond)
		}
		if strings.Contains(p.Filter, "resource") {
			return fmt.Sprintf("%s on %s goes through the log for %q", p.Type, p.Relation, p.Filter)
		}
	}
	for i := range p.Plans {
		if fault := p.Plans[i].fault(); fault != "" {
			return fault
		}
	}
	return ""
}
