package faults_test

import (
	"strings"
	"testing"
	"time"

	"tidemark/store/postgrestest"
)

// TestF38Standby offers a replica that lags behind, which would answer pulls with
// a state that has been left: it is never used, neither alone nor when the URL
// names it before the primary. Reading from replicas is not offered.
func TestF38Standby(t *testing.T) {
	d := newDatabase(t, postgrestest.Options{})
	s := start(t, d.direct(), options{}) // makes the tables
	f := newFleet(t, 4, 3)
	stop, wait := f.run(s, newRandom(t))
	f.awaitAcks(50)
	stop()
	wait()
	f.settle(s)
	s.stop()
	replica := d.Standby(t, "recovery_min_apply_delay = 1h")

	code, out := run(t, "serve", "--addr", "127.0.0.1:0", "--store", replica.URL(d.name))
	if code != 73 {
		t.Errorf("a server on a replica exits with %d, want 73: %s", code, out)
	}
	oneLine(t, out)

	both := strings.Replace(d.direct(), "?host=", "?host="+replica.Host()+",", 1)
	both = strings.Replace(both, "port=5432", "port=5432,5432", 1)
	s = start(t, both, options{})
	began := time.Now()
	stop, wait = f.run(s, newRandom(t)) // each push must find what the one before it left
	f.awaitAcks(200)
	stop()
	wait()
	d.finish(t, f, s)
	counts(t, "a replica an hour behind is refused by itself, and passed over beside the primary; %d acks in %v, %s",
		f.acks.Load(), time.Since(began).Round(time.Millisecond), f.result())
}
