package store

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tidemark/mutlog"
	"tidemark/store/postgrestest"
)

// following follows s until the test ends.
func following(t *testing.T, s Store) (l *listener, missed *atomic.Int64) {
	t.Helper()
	l, missed = &listener{t: t, s: s, heads: map[mutlog.User]mutlog.Timestamp{}}, new(atomic.Int64)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { s.Follow(ctx, l.hear, func() { missed.Add(1) }) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return l, missed
}

// listening waits until s is told of what is pushed through another.
func listening(t *testing.T, l *listener, other Store) {
	t.Helper()
	eventually(t, "the other process is heard", func() bool {
		head := push(t, other, "first", note(mutlog.Update, "a", `{}`))
		return l.heard("first") >= head-100 && l.heard("first") > 0
	})
}

// Each of two processes hears of what is pushed through the other, of many users
// and of names that are no text, and what it was not told in time it is told to
// look for: also when its connection was cut.
func TestFollowAcrossProcesses(t *testing.T) {
	url := postgrestest.URL(t)
	one, two := opened(t, url), opened(t, url)
	l, missed := following(t, one)
	listening(t, l, two)
	for round := range 2 {
		var users []mutlog.User
		var heads []mutlog.Timestamp
		for u := range 300 {
			users = append(users, mutlog.User(fmt.Sprintf("\xff %d user %d of a long name, so that one notification does not hold them all", round, u)))
			heads = append(heads, push(t, two, users[u], note(mutlog.Create, "a", `{}`)))
		}
		for u, user := range users {
			eventually(t, "the head is told", func() bool { return l.heard(user) == heads[u] })
		}
		if round > 0 {
			break
		}
		before := missed.Load()
		execute(t, url, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND pid <> pg_backend_pid()`)
		eventually(t, "it is told that it missed something", func() bool { return missed.Load() > before })
		listening(t, l, two)
	}
}

// Where nothing is heard, those who follow are told to look for themselves, again
// and again. Here a view takes the place of the function that notifies.
func TestFollowWithoutListen(t *testing.T) {
	url := postgrestest.URL(t)
	execute(t, url, `CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS ''; ALTER ROLE CURRENT_USER IN DATABASE `+
		query[string](t, url, `SELECT current_database()`)+` SET search_path = public, pg_catalog`)
	s := opened(t, url)
	s.timeout = 500e6 // how long it waits for what it does not hear
	l, missed := following(t, s)
	eventually(t, "it is told to look twice", func() bool { return missed.Load() >= 2 })
	head := push(t, s, "alice", note(mutlog.Create, "a", `{}`))
	eventually(t, "it hears of its own", func() bool { return l.heard("alice") == head })
}

// What cannot be told at first, because a connection was cut say, is told all the
// same, and long before anybody looks for themselves. Here every first try fails.
func TestFollowTellsAgain(t *testing.T) {
	url := postgrestest.URL(t)
	execute(t, url, `CREATE SEQUENCE public.tries; CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$
		BEGIN
			IF position(E'\n' in $2) > 0 AND nextval('public.tries') % 2 = 1 THEN RAISE 'not now'; END IF; -- a probe has one line
			PERFORM pg_catalog.pg_notify($1, $2);
		END $$; ALTER ROLE CURRENT_USER IN DATABASE `+query[string](t, url, `SELECT current_database()`)+` SET search_path = public, pg_catalog`)
	one, two := opened(t, url), opened(t, url)
	one.lookAgain = time.Hour
	l, _ := following(t, one)
	eventually(t, "the other process is heard", func() bool {
		head := push(t, two, "first", note(mutlog.Update, "a", `{}`))
		time.Sleep(5 * notifyPause)
		return l.heard("first") == head
	})
	for i := range 4 {
		user := mutlog.User(fmt.Sprint("alone ", i))
		head := push(t, two, user, note(mutlog.Create, "a", `{}`))
		eventually(t, "a lone push is told", func() bool { return l.heard(user) == head })
	}
}

// A process that was killed before it told others is made up for: followers look
// for themselves now and then, and the connection stays.
func TestFollowLooksAgain(t *testing.T) {
	url := postgrestest.URL(t)
	s := opened(t, url)
	s.lookAgain = 50e6
	_, missed := following(t, s)
	const listener = `SELECT min(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'`
	eventually(t, "it is told to look", func() bool { return missed.Load() >= 2 })
	before := query[int](t, url, listener)
	eventually(t, "it is told again", func() bool { return missed.Load() >= 6 })
	if now := query[int](t, url, listener); now != before {
		t.Errorf("process %d listens, and %d did", now, before)
	}
}

// The heads of many logs are read with one question, and are what each log says.
func TestHeads(t *testing.T) {
	t.Run("bolt", func(t *testing.T) { testHeads(t, filepath.Join(t.TempDir(), "store.db")) })
	t.Run("postgres", func(t *testing.T) { testHeads(t, postgrestest.URL(t)) })
}

func testHeads(t *testing.T, name string) {
	s, err := Open(name, BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	users, want := []mutlog.User{"nobody", "\xff"}, map[mutlog.User]mutlog.Timestamp{}
	for i := range 50 {
		users = append(users, mutlog.User(fmt.Sprintf("\xfe %d '\"", i)))
	}
	for _, user := range users[1:] {
		want[user] = push(t, s, user, note(mutlog.Create, "a", `{}`))
	}
	push(t, s, "another", note(mutlog.Create, "a", `{}`))
	got := map[mutlog.User]mutlog.Timestamp{}
	err = mutlog.New(s, mutlog.DefaultLimits).Heads(t.Context(), users, func(user mutlog.User, head mutlog.Timestamp) { got[user] = head })
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
	s.Close()
	if err := mutlog.New(s, mutlog.DefaultLimits).Heads(t.Context(), users, nil); err == nil {
		t.Error("a store that is closed tells no error")
	}
}

// A store that is closed ends its followers.
func TestFollowEndsWithPostgres(t *testing.T) {
	s := opened(t, postgrestest.URL(t))
	ended := make(chan error)
	go func() { ended <- s.Follow(t.Context(), func(mutlog.User, mutlog.Timestamp) {}, func() {}) }()
	push(t, s, "alice", note(mutlog.Create, "a", `{}`))
	s.Close()
	if err := <-ended; err == nil {
		t.Error("no error")
	}
}
