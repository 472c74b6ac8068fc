package mutlog_test

import (
	"errors"
	"testing"

	. "tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// bound sets the bounds of alice's log.
func (f *fixture) bound(bounds Bounds) {
	f.t.Helper()
	if err := f.store.Update(f.t.Context(), alice, func(tx Tx) error { return tx.SetBounds(bounds) }); err != nil {
		f.t.Fatal(err)
	}
}

// refusePull pulls for alice, in every way, what has to be refused.
func (f *fixture) refusePull(reason Reason, since Timestamp) {
	f.t.Helper()
	for _, q := range []Query{{}, {Limit: 3}, {Limit: 3, Page: 1}, {History: true}, {Resources: []string{"NOTE"}}, {After: f.head()}} {
		q.Since = since
		_, err := f.Pull(f.t.Context(), alice, q)
		var refusal *OutOfSyncError
		if !errors.As(err, &refusal) {
			f.t.Fatalf("%+v: got %v", q, err)
		}
		f.same(&OutOfSyncError{Reason: reason, Client: since, Server: f.head()}, refusal)
		f.same("Invalid lastMutationAt, please re-sync your data and try again.", refusal.Error())
	}
}

// Rules 8, 12 and 17: a cursor in a gap is ahead, although the log has gone on
// beyond it, for pulls, pushes and those that ask to be merged; no other is.
func TestGap(t *testing.T) {
	f := newFixture(t)
	before := f.next(create("a", `{}`), create("b", `{}`))
	if err := f.store.Fence(t.Context(), start+1000); err != nil {
		t.Fatal(err)
	}
	f.same(before, f.head())
	f.same([]Mutation{}, f.pull(Query{Since: before})) // a device that the restore took nothing from
	f.refusePull(CursorAhead, before+1)

	// Rule 17: new timestamps are later than the gap, although the clock is not.
	after := f.next(update("a", `{"n":1}`), create("c", `{}`))
	f.same(start+1002, after)
	for _, cursor := range []Timestamp{before + 1, start + 500, start + 1000} {
		f.refusePull(CursorAhead, cursor)
		for _, merge := range []bool{false, true} {
			refusal := f.refuse(Push{Base: cursor, Merge: merge, Mutations: []Mutation{create("new", `{}`)}})
			f.same(&OutOfSyncError{Reason: CursorAhead, Client: cursor, Server: after, Conflicts: []Conflict{}}, refusal)
		}
		refusal := f.refuse(Push{Base: cursor, Mutations: []Mutation{remove("a")}})
		if refusal.Reason != CursorAhead || len(refusal.Conflicts) != 1 {
			t.Errorf("got %+v", refusal)
		}
		_, err := f.Pull(t.Context(), alice, Query{Since: Beginning, After: cursor, Limit: 1})
		var ahead *OutOfSyncError
		if !errors.As(err, &ahead) || ahead.Reason != CursorAhead || ahead.Client != cursor {
			t.Errorf("a page that goes on in the gap: %v", err)
		}
	}
	for _, cursor := range []Timestamp{Beginning, 0, start, before, start + 1001, after} {
		if _, err := f.Pull(t.Context(), alice, Query{Since: cursor}); err != nil {
			t.Errorf("cursor %d: %v", cursor, err)
		}
	}
	f.same(after+1, f.must(Push{Base: before, Merge: true, Mutations: []Mutation{create("new", `{}`)}}).Head)

	// A log that begins after the restore: no cursor of earlier is taken for one of it.
	answer, err := f.Push(t.Context(), bob, Push{Base: Beginning, Mutations: []Mutation{create("a", `{}`)}})
	if err != nil || answer.Head != start+1001 {
		t.Errorf("got %+v, %v", answer, err)
	}
	for _, cursor := range []Timestamp{1, start, start + 1000} {
		_, err := f.Push(t.Context(), bob, Push{Base: cursor, Merge: true, Mutations: []Mutation{create("b", `{}`)}})
		var refusal *OutOfSyncError
		if !errors.As(err, &refusal) || refusal.Reason != CursorAhead {
			t.Errorf("a push of %d: %v", cursor, err)
		}
	}
}

// Rule 17: of an empty log a push of any cursor is the first sync, as ever.
func TestGapOfEmptyLog(t *testing.T) {
	f := newFixture(t)
	if err := f.store.Fence(t.Context(), start+10); err != nil {
		t.Fatal(err)
	}
	f.same(FirstSync, f.refuse(Push{Base: start, Merge: true, Mutations: []Mutation{create("a", `{}`)}}).Reason)
	if _, err := f.Pull(t.Context(), alice, Query{Since: start}); err == nil {
		t.Error("a pull is answered")
	}
	f.same(start+11, f.next(create("a", `{}`)))
}

// Rules 8, 12 and 18: a cursor earlier than a dropped tombstone has expired, for
// pulls, pushes and those that ask to be merged; -1, 0 and the tombstone's own
// have not.
func TestExpired(t *testing.T) {
	f := newFixture(t)
	f.next(create("a", `{}`))
	f.clock.Set(int64(start) + 100)
	horizon := f.next(remove("a"))
	f.clock.Set(int64(start) + 200)
	head := f.next(create("b", `{}`))
	f.bound(Bounds{Pruned: horizon, Horizon: horizon})
	for _, cursor := range []Timestamp{1, start, horizon - 1} {
		f.refusePull(CursorExpired, cursor)
		for _, merge := range []bool{false, true} {
			refusal := f.refuse(Push{Base: cursor, Merge: merge, Mutations: []Mutation{create("new", `{}`)}})
			f.same(&OutOfSyncError{Reason: CursorExpired, Client: cursor, Server: head, Conflicts: []Conflict{}}, refusal)
		}
		if _, err := f.Pull(t.Context(), alice, Query{Since: Beginning, After: cursor, Limit: 1}); err != nil {
			t.Errorf("a page of the snapshot behind %d: %v", cursor, err)
		}
	}
	for _, cursor := range []Timestamp{Beginning, 0, horizon, horizon + 1, head} {
		if _, err := f.Pull(t.Context(), alice, Query{Since: cursor}); err != nil {
			t.Errorf("cursor %d: %v", cursor, err)
		}
	}
	f.must(Push{Base: horizon, Merge: true, Mutations: []Mutation{create("new", `{}`)}})
}

// Rule 18: a pull under way is not finished when its cursor expires, nor when
// what it pulls is erased; others go on.
func TestExpiredUnderWay(t *testing.T) {
	f := newFixture(t)
	first := f.next(create("a", `{}`))
	f.next(remove("a"))
	head := f.next(create("b", `{}`))
	begin := func(since Timestamp) *Changes {
		t.Helper()
		changes, err := f.Pull(t.Context(), alice, Query{Since: since})
		if err != nil {
			t.Fatal(err)
		}
		return changes
	}
	expiring, going := begin(first), begin(Beginning)
	f.bound(Bounds{Pruned: head - 1, Horizon: head - 1})
	_, err := mutlogtest.Collect(t.Context(), expiring)
	var refusal *OutOfSyncError
	if !errors.As(err, &refusal) || refusal.Reason != CursorExpired {
		t.Errorf("got %v", err)
	}
	if _, err := mutlogtest.Collect(t.Context(), going); err != nil {
		t.Error(err)
	}
}

// Rules 12 and 18: the repeat of a merged push, whose answer holds changes, is
// refused once they cannot be told; one that was not merged is answered.
func TestExpiredRepeat(t *testing.T) {
	f := newFixture(t)
	first := f.next(create("a", `{}`))
	f.next(remove("a"))
	merged := Push{Base: first, Merge: true, Mutations: []Mutation{create("b", `{}`)}}
	f.must(merged)
	onHead := Push{Base: f.head(), Mutations: []Mutation{create("c", `{}`)}}
	f.must(onHead)
	f.must(Push{Base: f.head(), Mutations: []Mutation{create("d", `{}`)}})
	f.bound(Bounds{Pruned: f.head() - 1, Horizon: f.head()})
	for _, p := range []Push{merged, {Base: merged.Base, Mutations: merged.Mutations}} {
		if refusal := f.refuse(p); refusal.Reason != CursorExpired || refusal.Client != first {
			t.Errorf("got %+v", refusal)
		}
	}
	for _, onHead.Merge = range []bool{false, true} { // it missed nothing
		if answer := f.must(onHead); !answer.Replayed {
			t.Errorf("got %+v", answer)
		}
	}
}

// Rules 11 and 18: the repeat of a merged push with a key, whose changes the log
// cannot tell any more, is answered once its device has pulled them, and no
// sooner: it would come again and again.
func TestExpiredRepeatWithKey(t *testing.T) {
	f := newFixture(t)
	first := f.next(create("a", `{}`))
	f.next(remove("a"))
	p := Push{Base: first, Key: "key", Merge: true, Mutations: []Mutation{create("b", `{}`)}}
	applied := f.must(p).Head
	f.next(create("c", `{}`))
	f.bound(Bounds{Pruned: applied - 1, Horizon: applied - 1})
	for _, cursor := range []Timestamp{Beginning, first, applied - 1, f.head() + 1} {
		p.Base = cursor
		if refusal := f.refuse(p); refusal.Reason != CursorExpired || refusal.Client != first {
			t.Errorf("cursor %d: got %+v", cursor, refusal)
		}
	}
	for _, cursor := range []Timestamp{applied, f.head()} {
		p.Base = cursor
		answer := f.must(p)
		changes, err := mutlogtest.Collect(t.Context(), answer.Changes)
		if err != nil || !answer.Replayed || answer.Head != applied || len(changes) != 0 {
			t.Errorf("cursor %d: got %+v, %d changes, %v", cursor, answer, len(changes), err)
		}
	}
}

// Rule 17: new timestamps are later than all gaps, although a clock that was ahead
// made an earlier one end later.
func TestGapsOfWrongClock(t *testing.T) {
	f := newFixture(t)
	before := f.next(create("a", `{}`))
	for _, at := range []Timestamp{start + 5000, start + 1000} {
		if err := f.store.Fence(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	f.refusePull(CursorAhead, start+4000)
	f.same(start+5001, f.next(update("a", `{"n":1}`)))
	f.same(1, len(f.pull(Query{Since: before})))
}
