package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

func boundsOf(t testing.TB, s mutlog.Store, user mutlog.User) (bounds mutlog.Bounds) {
	t.Helper()
	view(t, s, user, func(tx mutlog.Reader) { bounds = must[mutlog.Bounds](t)(tx.Bounds()) })
	return bounds
}

func setBounds(t testing.TB, s mutlog.Store, user mutlog.User, bounds mutlog.Bounds) {
	t.Helper()
	if err := s.Update(t.Context(), user, func(tx mutlog.Tx) error { return tx.SetBounds(bounds) }); err != nil {
		t.Fatal(err)
	}
}

// Bounds are those that were set last, whatever is pushed and folded, in one
// transaction with a batch or alone; a log that is empty can have them and is
// none.
func testBounds(t *testing.T, o *opener) {
	s := o.open()
	bounds := mutlog.Bounds{Pruned: 5, Horizon: 3, Gaps: []mutlog.Gap{{After: mutlog.Beginning, Until: 4}, {After: 9, Until: 20}}}
	setBounds(t, s, "empty", bounds)
	same(t, "users", 0, len(usersOf(t, s)))
	w := mutlogtest.Writer{Rand: rand.New(rand.NewPCG(mutlogtest.Seed(t), 1)), Resources: 200}
	before := func(what string) {
		t.Helper()
		same(t, "without bounds: "+what, mutlog.NoBounds, boundsOf(t, s, "alice"))
		same(t, "of an empty log: "+what, bounds, boundsOf(t, s, "empty"))
	}
	before("at first")
	for range 40 {
		push(t, s, "alice", w.Batch(20)...)
	}
	before("after pushes")
	s = o.reopen(s)
	before("after reopening")

	for i := range 3 {
		bounds := mutlog.Bounds{Pruned: mutlog.Timestamp(i), Horizon: mutlog.Beginning}
		broken := errors.New("broken")
		err := s.Update(t.Context(), "alice", func(tx mutlog.Tx) error {
			if err := tx.SetBounds(bounds); err != nil {
				t.Error(err)
			}
			return broken
		})
		if err != broken {
			t.Errorf("got %v", err)
		}
		log := read(t, s, "alice")
		setBounds(t, s, "alice", bounds)
		same(t, "the log", log, read(t, s, "alice"))
		for range 20 {
			same(t, "the bounds", bounds, boundsOf(t, s, "alice"))
			push(t, s, "alice", w.Batch(20)...)
		}
		s = o.reopen(s)
		same(t, "the bounds after reopening", bounds, boundsOf(t, s, "alice"))
	}
	// With the first batch of a log, and one later: what was set does not stay
	// behind what was appended.
	bounds.Pruned++
	for _, user := range []mutlog.User{"empty", "alice"} {
		err := s.Update(t.Context(), user, func(tx mutlog.Tx) error {
			head := must[mutlog.Timestamp](t)(tx.Head())
			before := must[mutlog.Bounds](t)(tx.Bounds())
			if err := tx.SetBounds(bounds); err != nil {
				return err
			}
			same(t, "in the same transaction", before, must[mutlog.Bounds](t)(tx.Bounds()))
			first := max(head+1, 100)
			return tx.Append(&mutlog.Batch{Base: head, Previous: head, Live: map[string]mutlog.Count{"ONCE": {Resources: 1, Bytes: 2}}, Entries: []mutlog.Entry{{
				Mutation: mutlog.Mutation{Type: mutlog.Create, Resource: "ONCE", ResourceID: "once", Data: []byte(`{}`), Timestamp: first},
				State:    []byte(`{}`), Prev: mutlog.Beginning, Born: first}}})
		})
		if err != nil {
			t.Fatal(err)
		}
		same(t, "the bounds", bounds, boundsOf(t, s, user))
		view(t, s, user, func(tx mutlog.Reader) {
			last := must[[]*mutlog.Batch](t)(tx.Batches(must[mutlog.Timestamp](t)(tx.Head())-1, 1))
			same(t, "live", map[string]mutlog.Count{"ONCE": {Resources: 1, Bytes: 2}}, last[0].Live)
		})
	}
	same(t, "users", map[mutlog.User]int{"alice": 1, "empty": 1}, usersOf(t, s))
	s = o.reopen(s)
	for range 40 {
		push(t, s, "empty", w.Batch(20)...)
		same(t, "the bounds", bounds, boundsOf(t, s, "empty"))
	}
	bounds.Gaps = bounds.Gaps[:1]
	setBounds(t, s, "empty", bounds)
	same(t, "with a gap less", bounds, boundsOf(t, s, "empty"))
}

// "Every log has a gap from its head of this moment to at", and what begins
// later from Beginning: as in the reference, in logs that are pushed to between
// fences, or not, and whose bounds are set.
func testFences(t *testing.T, o *opener) {
	s, reference := o.open(), mutlogtest.NewStore()
	stores := []mutlog.Store{s, reference}
	rnd := rand.New(rand.NewPCG(mutlogtest.Seed(t), 1))
	users := []mutlog.User{"a", "b", "c", "d", "e", "f"}
	histories := map[mutlog.User]*history{}
	for _, user := range users {
		histories[user] = newHistory(rnd, s, reference, user)
	}
	w := mutlogtest.Writer{Rand: rnd, Resources: 50}
	at := mutlog.Timestamp(1)
	for range 60 {
		switch user := users[rnd.IntN(1+rnd.IntN(len(users)))]; rnd.IntN(8) {
		case 0:
			at += 1 + mutlog.Timestamp(rnd.IntN(200))
			for _, store := range stores {
				if err := store.Fence(t.Context(), at); err != nil {
					t.Fatal(err)
				}
			}
		case 1: // take over the gaps, as pruning does
			for _, store := range stores {
				bounds := boundsOf(t, store, user)
				bounds.Pruned++
				setBounds(t, store, user, bounds)
			}
		default:
			h := histories[user]
			for i := range stores {
				h.logs[i].Now = h.clock.Now
			}
			h.clock.Set(int64(at) + rnd.Int64N(100) - 50) // now and then behind a fence
			p := mutlog.Push{Base: h.heads[len(h.heads)-1], Mutations: w.Batch(5)}
			if err := h.both(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		for _, user := range users {
			same(t, fmt.Sprint("bounds of ", user), boundsOf(t, reference, user), boundsOf(t, s, user))
		}
	}
	before := map[mutlog.User]mutlog.Bounds{}
	for _, user := range users {
		before[user] = boundsOf(t, s, user)
		if gaps := before[user].Gaps; !slices.IsSortedFunc(gaps, func(a, b mutlog.Gap) int { return int(a.Until - b.Until) }) {
			t.Errorf("gaps out of order: %v", gaps)
		}
	}
	s = o.reopen(s)
	for _, user := range users {
		same(t, "after reopening", before[user], boundsOf(t, s, user))
		same(t, "the log", read(t, reference, user), read(t, s, user))
	}
}
