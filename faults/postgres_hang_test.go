package faults_test

import (
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"tidemark/store/postgrestest"
)

// hung is for how long a request to a server whose database hangs may wait for
// its 503: the 5 s of the promise, and one for all that is not the database.
const hung = 6 * time.Second

// TestF34DatabaseHangs makes PostgreSQL stop answering: its processes stand
// still, somebody holds a lock, or there are no connections left. Every request
// must get its 503 in time, nothing may pile up, /readyz must say so, and /livez
// not.
func TestF34DatabaseHangs(t *testing.T) {
	for name, hang := range map[string]func(*testing.T, *database) (release func()){
		"stopped": func(t *testing.T, d *database) func() {
			d.Signal(t, syscall.SIGSTOP)
			return func() { d.Signal(t, syscall.SIGCONT) }
		},
		"locked":    lockTables,
		"exhausted": takeConnections,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDatabase(t, postgrestest.Options{Settings: []string{fmt.Sprint("max_connections = ", connections), "superuser_reserved_connections = 0"}})
			pprof := net.JoinHostPort("127.0.0.1", freePort(t))
			f := patientFleet(t, 8, 6)
			s := start(t, d.direct()+"&pool_max_conns=4", options{args: []string{"--pprof", pprof}})
			stop, wait := f.run(s, newRandom(t))
			f.awaitAcks(100)
			before := s.goroutines(pprof)

			release := hang(t, d)
			s.awaitStatus("/readyz", 503)
			slowest := s.refuseAll(t, 60)
			most := s.goroutines(pprof)
			if status := s.status("/livez"); status != 200 {
				t.Errorf("/livez is answered with %d", status)
			}
			release()

			s.awaitStatus("/readyz", 200)
			f.awaitAcks(100)
			stop()
			wait()
			s.client.CloseIdleConnections()
			await(t, "goroutines to end", func() bool { return s.goroutines(pprof) <= before+10 })
			d.finish(t, f, s)
			if slowest > allowed(hung) {
				t.Errorf("the slowest refusal took %v", slowest)
			}
			counts(t, "database %s: every request answered 503 within %.1f s, %d goroutines before, %d at most, %s",
				name, slowest.Seconds(), before, most, f.result())
		})
	}
}

// refuseAll sends so many requests at once, pulls and pushes, which must all be
// answered with 503, and returns how long the slowest took.
func (s *server) refuseAll(t *testing.T, n int) (slowest time.Duration) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	f := newFleet(t, n, n)
	f.age = ".refused"
	rnd := newRandom(t)
	for i := range n {
		b := f.newBatch(rnd, i, beginning)
		wg.Go(func() {
			began := time.Now()
			status := 0
			if i%2 == 0 {
				status, _ = f.push(s, b)
			} else {
				status, _ = s.get("/v1/sync?mutationsSince=0", b.user)
			}
			mu.Lock()
			defer mu.Unlock()
			slowest = max(slowest, time.Since(began))
			if status != 503 {
				t.Errorf("a request of %s is answered with %d", b.user, status)
			}
		})
	}
	wg.Wait()
	return slowest
}

// session runs statements in a session of its own, which it returns.
func session(t *testing.T, url, sql string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
	return conn
}

// lockTables takes the locks beside which nothing can be done. It can get into a
// deadlock with pushes at first.
func lockTables(t *testing.T, d *database) (release func()) {
	t.Helper()
	conn := session(t, d.direct(), "")
	for range 20 {
		_, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE tidemark.logs, tidemark.batches, tidemark.mutations IN ACCESS EXCLUSIVE MODE")
		if err == nil {
			return func() { conn.Close(t.Context()) }
		}
		t.Log(err)
		if _, err := conn.Exec(t.Context(), "ROLLBACK"); err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("the tables cannot be locked")
	return nil
}

// takeConnections ends the connections of the server and takes all that there
// are.
func takeConnections(t *testing.T, d *database) (release func()) {
	accept := "ALTER DATABASE " + d.name + " ALLOW_CONNECTIONS "
	conns := []*pgx.Conn{session(t, d.URL("postgres"), accept+"false")}
	d.Exec(t, "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+d.name+"'")
	for len(conns) < connections {
		conn, err := pgx.Connect(t.Context(), d.URL("postgres"))
		if err != nil {
			time.Sleep(10 * time.Millisecond) // the one of Exec has not gone yet
			continue
		}
		conns = append(conns, conn)
	}
	if _, err := conns[0].Exec(t.Context(), accept+"true"); err != nil {
		t.Fatal(err)
	}
	return func() {
		for _, conn := range conns {
			conn.Close(t.Context())
		}
	}
}

// connections is how many connections the database takes.
const connections = 20
