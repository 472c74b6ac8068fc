package faults_test

import (
	"net/http"
	"regexp"
	"strconv"
	"testing"

	"tidemark/faults/pgproxy"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store"
	"tidemark/store/postgrestest"
)

// database is an empty database of a PostgreSQL server of its own, which a test
// can break, and a proxy before it.
type database struct {
	*postgrestest.Cluster
	name  string
	proxy *pgproxy.Proxy
}

func newDatabase(t testing.TB, o postgrestest.Options) *database {
	t.Helper()
	o.TCP = true
	c := postgrestest.Start(t, o)
	proxy, err := pgproxy.New("tcp", c.TCP())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Close)
	return &database{c, c.Database(t), proxy}
}

// direct is the URL of the database itself.
func (d *database) direct() string { return d.URL(d.name) }

// proxied is the URL of the database behind the proxy.
func (d *database) proxied() string { return d.TCPURL(d.proxy.Addr(), d.name) }

// exec runs statements in the database.
func (d *database) exec(t testing.TB, sql string) string { return d.Exec(t, d.name, sql) }

// sound fails the test unless the store keeps its structure and every rule.
func (d *database) sound(t testing.TB) {
	t.Helper()
	s, err := store.Open(d.direct(), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	mutlogtest.CheckSound(t, s)
}

// patientFleet is a fleet whose devices outlast a store that is away.
func patientFleet(t testing.TB, devices, users int) *fleet {
	f := newFleet(t, devices, users)
	f.patient = true
	return f
}

// finish ends a test of a fleet: all is settled and compared, and the store is
// sound.
func (d *database) finish(t testing.TB, f *fleet, s *server) {
	t.Helper()
	f.settle(s)
	f.verify(s, true)
	s.stop()
	d.sound(t)
}

// status asks a server for a path, within the patience of its client.
func (s *server) status(path string) int {
	status, _ := s.get(path, "")
	return status
}

// awaitStatus waits until a path is answered with status.
func (s *server) awaitStatus(path string, status int) {
	s.t.Helper()
	await(s.t, path+" to be answered with "+strconv.Itoa(status), func() bool { return s.status(path) == status })
}

var goroutinesLine = regexp.MustCompile(`goroutine profile: total (\d+)`)

// goroutines counts those of a server that was started with --pprof.
func (s *server) goroutines(pprof string) int {
	s.t.Helper()
	res, err := http.Get("http://" + pprof + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	line := make([]byte, 100)
	n, _ := res.Body.Read(line)
	m := goroutinesLine.FindSubmatch(line[:n])
	if m == nil {
		s.t.Fatalf("no count of goroutines in %q", line[:n])
	}
	count, _ := strconv.Atoi(string(m[1]))
	return count
}
