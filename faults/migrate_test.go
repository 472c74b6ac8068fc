package faults_test

import (
	"errors"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"tidemark/mutlog"
	"tidemark/store"
	"tidemark/store/postgrestest"
	"tidemark/transfer"
)

// TestF18MigrationKilled kills tidemark migrate at any moment, again and again,
// until it has come to its end: what it has left is not served, and in the end
// nothing is missing, twice or altered. (Each single step of a migration is the
// matter of the tests of package transfer.)
func TestF18MigrationKilled(t *testing.T) {
	rnd := newRandom(t)
	file := func(testing.TB) string { return filepath.Join(scratch(t), "tidemark.db") }
	for _, way := range []struct {
		name     string
		from, to func(testing.TB) string
	}{
		{"a file to PostgreSQL", file, postgrestest.URL},
		{"PostgreSQL to a file", postgrestest.URL, file},
	} {
		from, to := way.from(t), way.to(t)
		f := newFleet(t, 8, 6)
		s := start(t, from, options{})
		stop, wait := f.run(s, rnd)
		f.awaitAcks(int64(size(600, 20_000)))
		stop()
		wait()
		f.settle(s)
		s.stop()
		kills, refused := 0, 0
		for delay := 20 * time.Millisecond; !migrateFor(t, delay+time.Duration(rnd.Int64N(int64(delay))), from, to); delay += delay / 3 {
			kills++
			part, logs := isPart(t, to)
			if !part && logs {
				break // it was killed when all was done, before it could say so
			}
			if !part {
				continue
			}
			if refused++; refused > 1 {
				continue // one refusal is as good as many
			}
			code, out := run(t, "serve", "--addr", "127.0.0.1:0", "--store", to)
			if code != 65 {
				t.Fatalf("a part of a store is served, exit code %d: %s", code, out)
			}
			oneLine(t, out)
		}
		s = start(t, to, options{})
		f.verify(s, true)
		if status, _ := s.get("/v1/sync?mutationsSince=-1", "erased"); status != 200 {
			t.Errorf("a new user is answered with %d", status)
		}
		s.stop()
		check(t, to)
		if kills < 3 || refused == 0 {
			t.Errorf("%d kills, %d of them with a part left: too few to prove anything", kills, refused)
		}
		counts(t, "%s: killed %d times, %d parts refused, then whole: %s", way.name, kills, refused, f.result())
	}
}

// migrateFor lets a migration run for a while and kills it; true says that it
// came to its end before.
func migrateFor(t *testing.T, d time.Duration, from, to string) bool {
	t.Helper()
	cmd := exec.Command(tidemark(t), "migrate", "--from", from, "--to", to)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(d, func() { cmd.Process.Kill() })
	defer kill.Stop()
	cmd.Wait()
	switch code := cmd.ProcessState.ExitCode(); code {
	case 0:
		return true
	case -1:
		return false
	default:
		t.Fatalf("tidemark migrate exits with %d: %s", code, out.tail())
		return false
	}
}

// isPart tells whether a store has a part of another, and whether it has logs.
func isPart(t *testing.T, url string) (part, logs bool) {
	t.Helper()
	s, err := store.Open(url, store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = transfer.Unfinished(t.Context(), s)
	if err != nil && !errors.Is(err, transfer.ErrUnfinished) {
		t.Fatal(err)
	}
	some := errors.New("there is one")
	return err != nil, s.Users(t.Context(), func(mutlog.User) error { return some }) == some
}
