package store

import (
	"context"
	"math/rand/v2"
	"testing"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store/postgrestest"
)

// While an erasure has yet to remove what there was, the user can begin a new log,
// with the same keys, and nothing old shows in it; the erasure goes on when it
// is called again, and takes nothing of another user.
func TestNewLogBesideAnErasure(t *testing.T) {
	url := postgrestest.URL(t)
	s, reference := opened(t, url), mutlogtest.NewStore()
	seed := mutlogtest.Seed(t)
	fill := func(user mutlog.User, from mutlog.Timestamp) {
		rnd := rand.New(rand.NewPCG(seed, 1)) // the same keys and resources each time
		w, h := mutlogtest.Writer{Rand: rnd, Resources: 30}, newHistory(rnd, s, reference, user)
		h.heads[0] = must[mutlog.Timestamp](t)(h.logs[0].Head(t.Context(), user))
		for range 60 {
			h.clock.Set(max(int64(from), int64(h.heads[len(h.heads)-1])))
			p := h.push(w.Batch(10))
			if err := h.both(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
	}
	fill("alice", 1)
	fill("bob", 1)
	before := read(t, s, "alice").Head
	if _, err := s.beginErasure(t.Context(), "alice", 0); err != nil {
		t.Fatal(err)
	}
	if err := reference.Erase(t.Context(), "alice", 0, func(int) {}); err != nil {
		t.Fatal(err)
	}
	compare := func() {
		t.Helper()
		for _, user := range []mutlog.User{"alice", "bob"} {
			same(t, "the log of "+string(user), read(t, reference, user), read(t, s, user))
			same(t, "its bounds", boundsOf(t, reference, user), boundsOf(t, s, user))
		}
		mutlogtest.CheckSound(t, s)
	}
	compare()
	fill("alice", before+1)
	compare()

	for _, store := range []mutlog.Store{s, reference} {
		if err := store.Erase(t.Context(), "alice", 0, func(int) {}); err != nil {
			t.Fatal(err)
		}
	}
	compare()
	if n := query[int](t, url, `SELECT (SELECT count(*) FROM tidemark.mutations WHERE user_id = 'alice') + (SELECT count(*) FROM tidemark.batches WHERE user_id = 'alice')`); n != 0 {
		t.Errorf("%d rows are left", n)
	}
}

// An erasure that is interrupted goes on when it is called again.
func TestErasureGoesOn(t *testing.T) {
	url := postgrestest.URL(t)
	s := opened(t, url)
	w := mutlogtest.Writer{Rand: rand.New(rand.NewPCG(mutlogtest.Seed(t), 1)), Resources: 200}
	for range 300 {
		push(t, s, "alice", w.Batch(100)...)
	}
	all := query[int](t, url, `SELECT count(*) FROM tidemark.mutations`)
	ctx, cancel := context.WithCancel(t.Context())
	removed := 0
	if err := s.Erase(ctx, "alice", 0, func(n int) { removed = n; cancel() }); err == nil || removed == 0 || removed >= all {
		t.Fatalf("%d of %d were removed: %v", removed, all, err)
	}
	mutlogtest.CheckSound(t, s)
	rest := 0
	if err := s.Erase(t.Context(), "alice", 0, func(n int) { rest = n }); err != nil || removed+rest != all {
		t.Errorf("%d and %d of %d were removed: %v", removed, rest, all, err)
	}
}
