package faults_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tidemark/faults/pgproxy"
	"tidemark/store/postgrestest"
)

// recovery is how long a server may take to push again once its database is
// back.
const recovery = 5 * time.Second

// TestF32PostgresRestarts restarts PostgreSQL under load, in good order and as by
// a crash: clients are told to wait, nothing else, and pushes go on by
// themselves when it is back.
func TestF32PostgresRestarts(t *testing.T) {
	d := newDatabase(t, postgrestest.Options{})
	rnd := newRandom(t)
	f := patientFleet(t, 8, 6)
	s := start(t, d.direct(), options{})
	restarts := size(20, 500)
	var slowest time.Duration
	for i := range restarts {
		if i%5 == 0 { // a large log makes the comparison slow
			f.forget()
		}
		stop, wait := f.run(s, rnd)
		f.awaitAcks(50)
		d.Stop(t, []postgrestest.Mode{postgrestest.Fast, postgrestest.Immediate}[i%2])
		time.Sleep(time.Duration(rnd.Int64N(int64(100 * time.Millisecond))))
		d.Start(t)
		began := time.Now()
		f.awaitAcks(1)
		slowest = max(slowest, time.Since(began))
		f.awaitAcks(50)
		stop()
		wait()
		f.settle(s)
	}
	if slowest > allowed(recovery) {
		t.Errorf("the slowest recovery took %v", slowest)
	}
	if f.refused.Load() == 0 {
		t.Error("nobody noticed a restart: they prove nothing")
	}
	d.finish(t, f, s)
	counts(t, "%d restarts of PostgreSQL, half of them crashes; pushes again within %d ms; %d requests answered 503, %s",
		restarts, slowest.Milliseconds(), f.refused.Load(), f.result())
}

// TestF33Terminated terminates the server's connections again and again in the
// midst of whatever they do.
func TestF33Terminated(t *testing.T) {
	d := newDatabase(t, postgrestest.Options{})
	f := patientFleet(t, 8, 6)
	s := start(t, d.direct(), options{})
	stop, wait := f.run(s, newRandom(t))
	rounds, terminated := size(30, 2000), 0
	for range rounds {
		f.awaitAcks(10)
		n := d.exec(t, `SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND pid <> pg_backend_pid()) AS terminated`)
		var count int
		fmt.Sscan(n, &count)
		terminated += count
	}
	f.awaitAcks(50)
	stop()
	wait()
	d.finish(t, f, s)
	if terminated < rounds {
		t.Errorf("only %d connections were terminated", terminated)
	}
	counts(t, "%d connections terminated in %d rounds, %d requests answered 503, %s", terminated, rounds, f.refused.Load(), f.result())
}

// TestF33CutCommits cuts connections at COMMIT: before PostgreSQL hears of it, or
// before the server hears of its outcome. Which of the two it was, only the
// repeat of the push finds out.
func TestF33CutCommits(t *testing.T) {
	d := newDatabase(t, postgrestest.Options{})
	rnd := newRandom(t)
	f := patientFleet(t, 8, 6)
	s := start(t, d.proxied(), options{})
	var before, after atomic.Int64
	cuts := int64(size(100, 10_000))
	for before.Load()+after.Load() < cuts {
		f.forget() // a large log makes the comparison slow
		stop, wait := f.run(s, rnd)
		f.awaitAcks(20)
		until := min(before.Load()+after.Load()+100, cuts)
		d.proxy.Judge(cutCommits(rand.New(rand.NewPCG(rnd.Uint64(), 0)), until, &before, &after))
		await(t, "commits that are cut", func() bool { return before.Load()+after.Load() >= until })
		d.proxy.Judge(nil)
		f.awaitAcks(20)
		stop()
		wait()
		f.settle(s)
	}
	d.finish(t, f, s)
	if f.replay == 0 || f.anew == 0 {
		t.Errorf("%d unanswered pushes had been applied and %d had not: both must come", f.replay, f.anew)
	}
	counts(t, "connections cut at COMMIT: %d before and %d after it was done, %s", before.Load(), after.Load(), f.result())
}

// cutCommits returns a judge that cuts a third of the commits of pushes until there
// have been so many of them.
func cutCommits(rnd *rand.Rand, until int64, before, after *atomic.Int64) func(pgproxy.Statement) pgproxy.Verdict {
	return func(s pgproxy.Statement) pgproxy.Verdict {
		if !strings.EqualFold(s.SQL, "commit") || isNotification(s) || before.Load()+after.Load() >= until || rnd.IntN(3) > 0 {
			return pgproxy.Pass
		}
		if rnd.IntN(2) == 0 {
			before.Add(1)
			return pgproxy.CutBefore
		}
		after.Add(1)
		return pgproxy.CutAfter
	}
}

// isNotification tells whether a statement is of the transactions in which servers
// tell each other of pushes. They come when they come, and some for several pushes.
func isNotification(s pgproxy.Statement) bool { return s.Of == "BEGIN" }
