package store

import (
	"context"
	"errors"
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

// Whoever is at work on a log while it is erased and begun anew does not take the
// new one for the old: a view would be short of what is gone, and a pruning
// would put the bounds of the old log in place of the gap.
func TestEraseUnderway(t *testing.T) {
	s := opened(t, postgrestest.URL(t))
	renew := func() (until mutlog.Timestamp) {
		head := must[mutlog.Timestamp](t)(mutlog.New(s, mutlog.DefaultLimits).Head(t.Context(), "alice"))
		if err := s.Erase(t.Context(), "alice", head, func(int) {}); err != nil {
			t.Fatal(err)
		}
		push(t, s, "alice", note(mutlog.Create, "new", `{}`))
		return head
	}
	push(t, s, "alice", note(mutlog.Create, "a", `{}`))
	push(t, s, "alice", note(mutlog.Update, "a", `{}`))
	err := s.View(t.Context(), "alice", func(tx mutlog.Reader) error {
		head, err := tx.Head()
		if err != nil {
			return err
		}
		renew()
		_, _, err = tx.History(mutlog.Beginning, head, 100)
		return err
	})
	if !errors.Is(err, mutlog.ErrUnavailable) {
		t.Errorf("a view of a log that was erased and begun anew: %v", err)
	}
	var until mutlog.Timestamp
	err = s.Update(t.Context(), "alice", func(tx mutlog.Tx) error {
		head, err := tx.Head()
		if err != nil {
			return err
		}
		bounds, err := tx.Bounds()
		if err != nil {
			return err
		}
		if until == 0 {
			until = renew()
		}
		bounds.Pruned = head
		if err := tx.SetBounds(bounds); err != nil {
			return err
		}
		return tx.Prune(mutlog.Beginning, head, []mutlog.Timestamp{head})
	})
	if err != nil {
		t.Fatal(err)
	}
	if gaps := boundsOf(t, s, "alice").Gaps; len(gaps) == 0 || gaps[len(gaps)-1].Until < until {
		t.Errorf("the gaps are %v, and what was erased ends with %d", gaps, until)
	}
	mutlogtest.CheckSound(t, s)
}
