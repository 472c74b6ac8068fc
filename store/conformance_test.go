package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store/postgrestest"
)

// backend is what the one suite runs on. url makes the name of a store that does
// not exist yet; opening it creates it.
type backend struct {
	name string
	url  func(testing.TB) string
	open func(url string) (Store, error)
}

// The files of bolt bring recent batches to their places at different times,
// because a test has less of them than a server; the syncs of one are enough.
var backends = []backend{
	{"bolt", tempFile, bolted(BoltOptions{})},
	{"bolt folding at once", tempFile, bolted(BoltOptions{FoldBatches: 1, NoSync: true})},
	{"bolt folding in steps", tempFile, bolted(BoltOptions{FoldBatches: 150, NoSync: true})},
	{"postgres", postgrestest.URL, bolted(BoltOptions{})},
}

func tempFile(t testing.TB) string { return filepath.Join(t.TempDir(), "test.db") }

func bolted(options BoltOptions) func(string) (Store, error) {
	return func(url string) (Store, error) { return Open(url, options) }
}

// TestConformance holds every backend to the contract that mutlog.Store states.
func TestConformance(t *testing.T) {
	suite := []struct {
		name string
		test func(*testing.T, *opener)
	}{
		{"MissingIsNoError", testMissing},
		{"WhatIsAppendedIsRead", testRoundTrip},
		{"DurableAcrossReopening", testDurable},
		{"FailedUpdateLeavesNothing", testAtomic},
		{"UpdateSeesAndShowsTheNewest", testVisible},
		{"ViewIsOneState", testViewIsOneState},
		{"UpdatesOfOneUserAreSerialised", testSerialised},
		{"OneWinnerForEachHead", testOneWinner},
		{"UsersShareNothing", testUsersShareNothing},
		{"UsersAreListed", testUsers},
		{"HandedOutForGood", testHandedOut},
		{"Records", testRecords},
		{"RecordsAreUpdatedAtomically", testRecordsAtomic},
		{"RecordsAreNeverStale", testRecordsNeverStale},
		{"Follow", testFollow},
		{"Bounds", testBounds},
		{"Fences", testFences},
		{"Prune", testPrune},
		{"CopyPruned", testCopyPruned},
		{"Erase", testErase},
		{"Closed", testClosed},
		{"LikeTheReference", testLikeReference},
	}
	for _, backend := range backends {
		for _, test := range suite {
			t.Run(backend.name+"/"+test.name, func(t *testing.T) {
				t.Parallel()
				test.test(t, backend.opener(t))
			})
		}
	}
}

// opener opens one store, again and again.
type opener struct {
	backend
	t   testing.TB
	url string
}

func (b backend) opener(t testing.TB) *opener { return &opener{b, t, b.url(t)} }

// open opens the store. At the end of the test it is checked and closed.
func (o *opener) open() Store {
	o.t.Helper()
	s, err := o.backend.open(o.url)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { closeSound(o.t, s) })
	return s
}

// reopen opens what another process would find.
func (o *opener) reopen(s Store) Store {
	o.t.Helper()
	closeSound(o.t, s)
	return o.open()
}

// closeSound checks s and closes it, unless it is closed already.
func closeSound(t testing.TB, s Store) {
	t.Helper()
	if err := s.View(context.Background(), "", func(mutlog.Reader) error { return nil }); err != nil {
		return
	}
	mutlogtest.CheckSound(t, s)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// note returns an entry that is a valid mutation of the resource id by itself.
func note(kind mutlog.Type, id, data string) mutlog.Mutation {
	m := mutlog.Mutation{Type: kind, Resource: "NOTE", ResourceID: id}
	if data != "" {
		m.Data = []byte(data)
	}
	return m
}

// push pushes mutations on the head.
func push(t testing.TB, s mutlog.Store, user mutlog.User, mutations ...mutlog.Mutation) mutlog.Timestamp {
	t.Helper()
	log := mutlog.New(s, mutlog.DefaultLimits)
	head, err := log.Head(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := log.Push(t.Context(), user, mutlog.Push{Base: head, Mutations: mutations})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Head
}

// view runs fn in a view that must succeed.
func view(t testing.TB, s mutlog.Store, user mutlog.User, fn func(mutlog.Reader)) {
	t.Helper()
	err := s.View(t.Context(), user, func(tx mutlog.Reader) error {
		fn(tx)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// must returns v, which has to come without an error.
func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// ignoring returns the error of a call.
func ignoring[T any](_ T, err error) error { return err }

func same(t testing.TB, what string, want, got any) {
	t.Helper()
	if !reflect.DeepEqual(want, got) {
		t.Fatalf("%s: %s", what, difference(want, got))
	}
}

// difference tells where two logs, or parts of them, begin to differ. A diff of
// all that is large would take minutes.
func difference(want, got any) string {
	a, b := lines(want), lines(got)
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			return fmt.Sprintf("entry %d: -want +got:\n%s", i, cmp.Diff(a[min(i, len(a)):min(i+1, len(a))], b[min(i, len(b)):min(i+1, len(b))]))
		}
	}
	return cmp.Diff(want, got)
}

func lines(v any) (text []string) {
	switch v := v.(type) {
	case content:
		return describe(v)
	case []*mutlog.Batch:
		return describe(content{Batches: v})
	case []mutlog.Entry:
		return describe(content{Changes: v})
	case []*mutlog.Entry:
		for _, e := range v {
			if e == nil {
				e = &mutlog.Entry{}
			}
			text = append(text, describeEntry(*e))
		}
		return text
	}
	return nil
}

// content is all that can be read of a log.
type content struct {
	Head    mutlog.Timestamp
	Batches []*mutlog.Batch
	Changes []mutlog.Entry
	ByKey   map[string]*mutlog.Batch
	OnBase  map[mutlog.Timestamp][]*mutlog.Batch
}

func read(t testing.TB, s mutlog.Store, user mutlog.User) (c content) {
	t.Helper()
	view(t, s, user, func(tx mutlog.Reader) { c = readIn(t, tx) })
	return c
}

func readIn(t testing.TB, tx mutlog.Reader) content {
	t.Helper()
	const all = 1 << 30
	c := content{ByKey: map[string]*mutlog.Batch{}, OnBase: map[mutlog.Timestamp][]*mutlog.Batch{}}
	c.Head = must[mutlog.Timestamp](t)(tx.Head())
	c.Batches = allBatches(t, tx, all)
	c.Changes = allChanges(t, tx, mutlog.Beginning, c.Head, all)
	for _, b := range c.Batches {
		if b.Key != "" {
			c.ByKey[b.Key] = must[*mutlog.Batch](t)(tx.BatchByKey(b.Key))
		}
		c.OnBase[b.Base] = must[[]*mutlog.Batch](t)(mutlogtest.All(tx.BatchesOn(b.Base)))
	}
	return c
}

// allBatches returns all batches, read in stretches of n mutations.
func allBatches(t testing.TB, tx mutlog.Reader, n int) (all []*mutlog.Batch) {
	t.Helper()
	after := mutlog.Beginning
	for {
		batches := must[[]*mutlog.Batch](t)(tx.Batches(after, n))
		if len(batches) == 0 {
			return all
		}
		all = append(all, batches...)
		after = batches[len(batches)-1].Head()
	}
}

// allChanges returns all changes, read in stretches of n mutations.
func allChanges(t testing.TB, tx mutlog.Reader, after, until mutlog.Timestamp, n int) []mutlog.Entry {
	t.Helper()
	return allOf(t, tx.Changes, after, until, n)
}

// allHistory returns all mutations, read in stretches of n.
func allHistory(t testing.TB, tx mutlog.Reader, after, until mutlog.Timestamp, n int) []mutlog.Entry {
	t.Helper()
	return allOf(t, tx.History, after, until, n)
}

func allOf(t testing.TB, read func(after, until mutlog.Timestamp, n int) ([]mutlog.Entry, mutlog.Timestamp, error),
	after, until mutlog.Timestamp, n int) (all []mutlog.Entry) {
	t.Helper()
	for after < until {
		changes, upTo, err := read(after, until, n)
		if err != nil {
			t.Fatal(err)
		}
		if upTo <= after || upTo > until {
			t.Fatalf("the stretch behind %d until %d ends at %d", after, until, upTo)
		}
		for _, e := range changes {
			if e.Timestamp <= after || e.Timestamp > upTo {
				t.Fatalf("the stretch from %d to %d has mutation %d", after, upTo, e.Timestamp)
			}
			all = append(all, mutlogtest.CloneEntry(e)) // it is valid until the next call only
		}
		after = upTo
	}
	return all
}

// owned returns entries that outlive their transaction.
func owned(entries []*mutlog.Entry) []*mutlog.Entry {
	own := make([]*mutlog.Entry, len(entries))
	for i, e := range entries {
		if e != nil {
			c := mutlogtest.CloneEntry(*e)
			own[i] = &c
		}
	}
	return own
}

// "Missing is never an error", also not in an update.
func testMissing(t *testing.T, o *opener) {
	s := o.open()
	nothing := func(tx mutlog.Reader) {
		t.Helper()
		same(t, "head", mutlog.Beginning, must[mutlog.Timestamp](t)(tx.Head()))
		same(t, "newest", []*mutlog.Entry{nil, nil}, must[[]*mutlog.Entry](t)(tx.Newest([]mutlog.Ref{{}, {Resource: "NOTE", ResourceID: "a"}}, mutlog.MaxTimestamp)))
		same(t, "newest of none", 0, len(must[[]*mutlog.Entry](t)(tx.Newest(nil, 7))))
		same(t, "by key", (*mutlog.Batch)(nil), must[*mutlog.Batch](t)(tx.BatchByKey("key")))
		for _, base := range []mutlog.Timestamp{mutlog.Beginning, 0, 7, mutlog.MaxTimestamp} {
			same(t, "on base", 0, len(must[[]*mutlog.Batch](t)(mutlogtest.All(tx.BatchesOn(base)))))
			same(t, "batches", 0, len(must[[]*mutlog.Batch](t)(tx.Batches(base, 10))))
		}
		same(t, "bounds", mutlog.NoBounds, must[mutlog.Bounds](t)(tx.Bounds()))
		same(t, "changes", 0, len(allChanges(t, tx, mutlog.Beginning, 7, 10)))
	}
	for range 2 {
		view(t, s, "alice", nothing)
		err := s.Update(t.Context(), "alice", func(tx mutlog.Tx) error { nothing(tx); return nil })
		if err != nil {
			t.Error(err)
		}
		// There is no log of alice, even with others around hers.
		for _, user := range []mutlog.User{"bob", "alicf", "a", "alice2", "\xff", mutlog.User(strings.Repeat("x", 255))} {
			push(t, s, user, note(mutlog.Create, "a", `{}`))
		}
	}
	users := map[mutlog.User]bool{}
	if err := s.Users(t.Context(), func(u mutlog.User) error { users[u] = true; return nil }); err != nil || users["alice"] || len(users) != 6 {
		t.Errorf("users: %v, %v", users, err)
	}
}

// Everything that a batch and an entry can say comes back as it was.
func testRoundTrip(t *testing.T, o *opener) {
	s, reference := o.open(), mutlogtest.NewStore()
	logs := []*mutlog.Log{mutlog.New(s, mutlog.DefaultLimits), mutlog.New(reference, mutlog.DefaultLimits)}
	for _, log := range logs {
		clock := &mutlogtest.Clock{}
		log.Now, log.NewID = clock.Now, mutlogtest.IDs() // from timestamp 1 on
	}
	large := `{"x":"` + strings.Repeat("é", 30_000) + `"}`
	var hundred []mutlog.Mutation
	for i := range 100 {
		hundred = append(hundred, note(mutlog.Update, fmt.Sprint("nr-", i), large))
	}
	pushes := []mutlog.Push{
		{Base: -1, Mutations: []mutlog.Mutation{note(mutlog.Create, "a", `{}`)}},
		{Base: 1, Client: "phone", Mutations: []mutlog.Mutation{note(mutlog.Create, "", `{"assigned":true}`), note(mutlog.Delete, "a", "")}},
		{Base: 3, Key: "key", Mutations: []mutlog.Mutation{note(mutlog.Delete, "gone", `{"data":"of a deletion"}`)}},
		{Base: 4, Key: strings.Repeat("k", 255), Client: strings.Repeat("c", 255), Mutations: []mutlog.Mutation{
			note(mutlog.Update, "a", `{"s": null, "t" : 1.0}`), note(mutlog.Update, "a", `{"u":[null]}`), note(mutlog.Update, "a", `{"t":1}`)}},
		{Base: 2, Merge: true, Mutations: []mutlog.Mutation{note(mutlog.Create, "merged", `{}`)}},
		{Base: 2, Merge: true, Client: "tablet", Mutations: []mutlog.Mutation{note(mutlog.Create, "merged too", `{}`)}},
		{Base: 3, Merge: true, Key: "merged with key", Mutations: []mutlog.Mutation{note(mutlog.Create, strings.Repeat("i", 128), `{}`)}},
		{Base: -1, Merge: true, Mutations: []mutlog.Mutation{note(mutlog.Create, "x", large)}},
		{Base: 11, Mutations: hundred},
		{Base: 111, Mutations: []mutlog.Mutation{{Type: mutlog.Create, Resource: strings.Repeat("A", 64), ResourceID: "日本 \"\\", Data: []byte("{ \"a\":\n\"\\u00e9é\" }")}}},
	}
	for i, p := range pushes {
		for _, log := range logs {
			if _, err := log.Push(t.Context(), "alice", p); err != nil {
				t.Fatalf("push %d: %v", i, err)
			}
		}
	}
	same(t, "the log", read(t, reference, "alice"), read(t, s, "alice"))
	s = o.reopen(s)
	same(t, "the log after reopening", read(t, reference, "alice"), read(t, s, "alice"))
}

// "When Update returns nil, what it appended is on disk": the next process
// finds it all, and goes on from there.
func testDurable(t *testing.T, o *opener) {
	s := o.open()
	rnd := rand.New(rand.NewPCG(mutlogtest.Seed(t), 1))
	w := mutlogtest.Writer{Rand: rnd, Resources: 300}
	for range 6 {
		for range rnd.IntN(40) {
			push(t, s, "alice", w.Batch(20)...)
		}
		push(t, s, "bob", w.Batch(3)...)
		alice, bob := read(t, s, "alice"), read(t, s, "bob")
		s = o.reopen(s)
		same(t, "alice", alice, read(t, s, "alice"))
		same(t, "bob", bob, read(t, s, "bob"))
	}
}

// "When fn fails, nothing of it is visible and its error comes back unchanged."
func testAtomic(t *testing.T, o *opener) {
	s := o.open()
	push(t, s, "alice", note(mutlog.Create, "a", `{}`))
	before := read(t, s, "alice")
	broken := errors.New("broken")
	batch := func(head mutlog.Timestamp) *mutlog.Batch {
		return &mutlog.Batch{Base: head, Previous: head, Key: "key", Entries: []mutlog.Entry{{
			Mutation: mutlog.Mutation{Type: mutlog.Create, Resource: "NOTE", ResourceID: "new", Data: []byte(`{}`), Timestamp: max(head+1, 1)},
			State:    []byte(`{}`), Prev: -1, Born: max(head+1, 1)}}}
	}
	for _, user := range []mutlog.User{"alice", "nobody"} {
		err := s.Update(t.Context(), user, func(tx mutlog.Tx) error {
			head := must[mutlog.Timestamp](t)(tx.Head())
			if err := tx.Append(batch(head)); err != nil {
				t.Error(err)
			}
			return broken
		})
		if err != broken { //nolint:errorlint // unchanged means the very same
			t.Errorf("got %v", err)
		}
		if err := s.Update(t.Context(), user, func(mutlog.Tx) error { return broken }); err != broken {
			t.Errorf("got %v", err)
		}
		if err := s.View(t.Context(), user, func(mutlog.Reader) error { return broken }); err != broken {
			t.Errorf("got %v", err)
		}
		if err := s.Update(t.Context(), user, func(mutlog.Tx) error { return nil }); err != nil {
			t.Errorf("an update that appends nothing: %v", err)
		}
	}
	same(t, "alice", before, read(t, s, "alice"))
	same(t, "nobody", mutlog.Beginning, read(t, s, "nobody").Head)
	for user := range usersOf(t, s) {
		if user == "nobody" {
			t.Error("nobody has a log")
		}
	}
	s = o.reopen(s)
	same(t, "alice after reopening", before, read(t, s, "alice"))
	same(t, "nobody after reopening", mutlog.Beginning, read(t, s, "nobody").Head)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range []error{
		s.View(ctx, "alice", func(mutlog.Reader) error { return nil }),
		s.Update(ctx, "alice", func(tx mutlog.Tx) error { return tx.Append(batch(before.Head)) }),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before it began: got %v", err)
		}
	}
	same(t, "alice", before, read(t, s, "alice"))
}

// "… and every View that starts later sees it", and every Update, of whatever
// goroutine.
func testVisible(t *testing.T, o *opener) {
	s := o.open()
	var wg sync.WaitGroup
	for u := range 8 {
		user := mutlog.User(fmt.Sprint("user-", u))
		wg.Go(func() {
			for i := range 30 {
				head := push(t, s, user, note(mutlog.Update, "a", fmt.Sprintf(`{"i":%d}`, i)))
				done := make(chan struct{})
				go func() {
					defer close(done)
					err := s.View(t.Context(), user, func(tx mutlog.Reader) error {
						if seen, err := tx.Head(); seen != head || err != nil {
							t.Errorf("a view after head %d sees %d, %v", head, seen, err)
						}
						return nil
					})
					if err != nil {
						t.Error(err)
					}
				}()
				<-done
				err := s.Update(t.Context(), user, func(tx mutlog.Tx) error {
					newest, err := tx.Newest([]mutlog.Ref{{Resource: "NOTE", ResourceID: "a"}}, head)
					if err != nil || newest[0] == nil || newest[0].Timestamp != head {
						t.Errorf("an update after head %d sees %v, %v", head, newest, err)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// "View runs fn on one consistent state": what is appended meanwhile is not
// part of it, nor does it wait for the view.
func testViewIsOneState(t *testing.T, o *opener) {
	s := o.open()
	w := mutlogtest.Writer{Rand: rand.New(rand.NewPCG(mutlogtest.Seed(t), 1)), Resources: 200}
	for range 50 {
		push(t, s, "alice", w.Batch(20)...)
	}
	view(t, s, "alice", func(tx mutlog.Reader) {
		before := readIn(t, tx)
		for range 40 {
			push(t, s, "alice", w.Batch(20)...)
		}
		same(t, "the same view", before, readIn(t, tx))
	})
}

// "Updates of one user are serialised": each sees all that came before it.
func testSerialised(t *testing.T, o *opener) {
	s := o.open()
	const writers, each = 16, 12
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				err := s.Update(t.Context(), "alice", func(tx mutlog.Tx) error {
					ref := mutlog.Ref{Resource: "COUNTER", ResourceID: "c"}
					head, err := tx.Head()
					if err != nil {
						return err
					}
					newest, err := tx.Newest([]mutlog.Ref{ref}, head)
					if err != nil {
						return err
					}
					e := mutlog.Entry{Prev: mutlog.Beginning, Born: max(head+1, 1), State: []byte(`{"n":1}`), Mutation: mutlog.Mutation{
						Type: mutlog.Create, Resource: ref.Resource, ResourceID: ref.ResourceID, Data: []byte(`{"n":1}`), Timestamp: max(head+1, 1)}}
					if n := newest[0]; n != nil {
						var count int
						fmt.Sscanf(string(n.State), `{"n":%d}`, &count)
						e.Data = fmt.Appendf(nil, `{"n":%d}`, count+1)
						e.State, e.Prev, e.Born = e.Data, n.Timestamp, n.Born
					}
					return tx.Append(&mutlog.Batch{Base: head, Previous: head, Entries: []mutlog.Entry{e}})
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	c := read(t, s, "alice")
	if state := string(c.Changes[0].State); len(c.Batches) != writers*each || state != fmt.Sprintf(`{"n":%d}`, writers*each) {
		t.Errorf("%d updates left %d batches and the count %s", writers*each, len(c.Batches), state)
	}
}

// Rule 8 on a real store: of N pushes on one head exactly one is applied, each
// time, and the others are told so.
func testOneWinner(t *testing.T, o *opener) {
	s := o.open()
	log := mutlog.New(s, mutlog.DefaultLimits)
	head := mutlog.Beginning
	const devices = 16
	for round := range 20 {
		answers, errs := make([]*mutlog.Pushed, devices), make([]error, devices)
		var wg sync.WaitGroup
		for d := range devices {
			wg.Go(func() {
				answers[d], errs[d] = log.Push(t.Context(), "alice", mutlog.Push{Base: head, Client: fmt.Sprint("device-", d),
					Mutations: []mutlog.Mutation{note(mutlog.Update, "a", fmt.Sprintf(`{"winner":"%d/%d"}`, round, d))}})
			})
		}
		wg.Wait()
		winners := 0
		for d := range devices {
			var refusal *mutlog.OutOfSyncError
			switch {
			case errs[d] == nil && !answers[d].Replayed:
				winners++
				head = answers[d].Head
			case !errors.As(errs[d], &refusal):
				t.Fatalf("device %d: %+v, %v", d, answers[d], errs[d])
			}
		}
		if winners != 1 {
			t.Fatalf("round %d: %d winners", round, winners)
		}
	}
	if c := read(t, s, "alice"); len(c.Batches) != 20 || c.Head != head {
		t.Errorf("%d batches, head %d, want 20 and %d", len(c.Batches), c.Head, head)
	}
	// The same push N times at once: one is applied, the others are its replay.
	for _, key := range []string{"", "key"} {
		base := head
		p := mutlog.Push{Base: base, Key: key, Mutations: []mutlog.Mutation{note(mutlog.Create, "", `{}`)}}
		answers := make([]*mutlog.Pushed, devices)
		var wg sync.WaitGroup
		for d := range devices {
			wg.Go(func() {
				var err error
				if answers[d], err = log.Push(t.Context(), "alice", p); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		applied := 0
		for _, a := range answers {
			if a == nil {
				t.FailNow()
			}
			if !a.Replayed {
				applied++
			}
			same(t, "the answers", answers[0].Mutations, a.Mutations)
			head = a.Head
		}
		if applied != 1 || read(t, s, "alice").Head != head {
			t.Errorf("key %q: applied %d times", key, applied)
		}
	}
}

// "Users share nothing": side by side, with the same resources, bases and keys.
func testUsersShareNothing(t *testing.T, o *opener) {
	s := o.open()
	users := []mutlog.User{"a", "A", "b", "ab", "a b", "é", "default", mutlog.User(strings.Repeat("a", 255)), mutlog.User(strings.Repeat("a", 254))}
	references := make([]*mutlogtest.Store, len(users))
	seed := mutlogtest.Seed(t)
	var wg sync.WaitGroup
	for i, user := range users {
		references[i] = mutlogtest.NewStore()
		wg.Go(func() {
			w := mutlogtest.Writer{Rand: rand.New(rand.NewPCG(seed, uint64(i))), Resources: 20}
			h := newHistory(w.Rand, s, references[i], user)
			for n := range 60 {
				p := h.push(w.Batch(10))
				p.Key = fmt.Sprint("key-", n) // the same for all
				if n%2 == 0 {
					p.Key = ""
				}
				if err := h.both(t.Context(), p); err != nil {
					t.Errorf("%s: %v", user, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for i, user := range users {
		same(t, string(user), read(t, references[i], user), read(t, s, user))
	}
	same(t, "users", len(users), len(usersOf(t, s)))
}

func usersOf(t testing.TB, s mutlog.Store) map[mutlog.User]int {
	t.Helper()
	users := map[mutlog.User]int{}
	if err := s.Users(t.Context(), func(u mutlog.User) error { users[u]++; return nil }); err != nil {
		t.Fatal(err)
	}
	return users
}

// "Users calls fn with every user who has a log … until fn fails."
func testUsers(t *testing.T, o *opener) {
	s := o.open()
	same(t, "users of an empty store", 0, len(usersOf(t, s)))
	want := map[mutlog.User]int{}
	var wg sync.WaitGroup
	for group := range 30 {
		for i := range 40 { // in all, more than are read at once
			want[mutlog.User(fmt.Sprint("user-", group, "-", i))] = 1
		}
		wg.Go(func() {
			for i := range 40 {
				user := mutlog.User(fmt.Sprint("user-", group, "-", i))
				push(t, s, user, note(mutlog.Create, "a", `{}`))
				push(t, s, user, note(mutlog.Create, "b", `{}`))
				if group > 0 {
					continue
				}
				for user, n := range usersOf(t, s) { // also while they become less recent
					if n > 1 {
						t.Errorf("%s was listed %d times", user, n)
					}
				}
			}
		})
	}
	wg.Wait()
	same(t, "users", want, usersOf(t, s))

	broken, calls := errors.New("broken"), 0
	err := s.Users(t.Context(), func(mutlog.User) error { calls++; return broken })
	if err != broken || calls != 1 {
		t.Errorf("got %v after %d calls", err, calls)
	}
	// It works in steps: fn may use the store.
	err = s.Users(t.Context(), func(user mutlog.User) error {
		if calls++; calls < 10 {
			push(t, s, user, note(mutlog.Delete, "a", ""))
		}
		return nil
	})
	if err != nil || calls != 1201 {
		t.Errorf("got %v after %d calls", err, calls)
	}
}

// "What tx hands out belongs to the caller, also after fn; but for Changes": it
// survives the transaction, later writes and the end of the store, and what the
// caller does to it is nobody else's business.
func testHandedOut(t *testing.T, o *opener) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	s := o.open()
	w := mutlogtest.Writer{Rand: rand.New(rand.NewPCG(mutlogtest.Seed(t), 1)), Resources: 250}
	log := mutlog.New(s, mutlog.DefaultLimits)
	for i := range 60 {
		_, err := log.Push(t.Context(), "alice", mutlog.Push{Base: must[mutlog.Timestamp](t)(log.Head(t.Context(), "alice")),
			Key: []string{"", fmt.Sprint("key-", i)}[i%2], Client: "phone", Mutations: w.Batch(20)})
		if err != nil {
			t.Fatal(err)
		}
	}
	type handedOut struct {
		Content content
		Newest  []*mutlog.Entry
		Users   []mutlog.User
	}
	get := func() (h handedOut) {
		view(t, s, "alice", func(tx mutlog.Reader) {
			h.Content = readIn(t, tx)
			var refs []mutlog.Ref
			for _, e := range h.Content.Changes {
				refs = append(refs, e.Ref())
			}
			h.Newest = owned(must[[]*mutlog.Entry](t)(tx.Newest(refs, h.Content.Head)))
		})
		h.Users = slices.Collect(maps.Keys(usersOf(t, s)))
		return h
	}
	kept := get()
	text := fmt.Sprintf("%+v", describe(kept.Content))
	scribbled := get()
	for _, b := range scribbled.Content.Batches {
		scribble(b.Entries)
	}
	for _, e := range scribbled.Newest {
		clear(e.Data)
		clear(e.State)
	}
	same(t, "after scribbling over what was handed out", kept, get())

	for range 100 { // pages are used anew
		push(t, s, "alice", w.Batch(20)...)
	}
	closeSound(t, s)
	if now := fmt.Sprintf("%+v", describe(kept.Content)); now != text {
		t.Error("what was handed out has changed")
	}
	for i, e := range kept.Newest {
		same(t, "newest", describeEntry(kept.Content.Changes[i]), describeEntry(*e))
	}
}

func scribble(entries []mutlog.Entry) {
	for i := range entries {
		clear(entries[i].Data)
		clear(entries[i].State)
	}
}

// describe makes a text of all of c, byte by byte.
func describe(c content) (text []string) {
	batches := slices.Clone(c.Batches)
	for _, key := range slices.Sorted(maps.Keys(c.ByKey)) {
		batches = append(batches, c.ByKey[key])
	}
	for _, base := range slices.Sorted(maps.Keys(c.OnBase)) {
		batches = append(batches, c.OnBase[base]...)
	}
	for _, b := range batches {
		text = append(text, fmt.Sprintf("%d %d %q %q", b.Base, b.Previous, b.Client, b.Key))
		for _, e := range b.Entries {
			text = append(text, describeEntry(e))
		}
	}
	for _, e := range c.Changes {
		text = append(text, describeEntry(e))
	}
	return text
}

func describeEntry(e mutlog.Entry) string {
	return fmt.Sprintf("%s %q %q %q %d %v %q %d %d", e.Type, e.Resource, e.ResourceID, e.Data, e.Timestamp, e.Assigned, e.State, e.Prev, e.Born)
}

// A closed store refuses, may be closed again, and has waited for what was
// under way.
func testClosed(t *testing.T, o *opener) {
	s := o.open()
	log := mutlog.New(s, mutlog.DefaultLimits)
	const users = 8
	heads := make([]mutlog.Timestamp, users)
	var started, wg sync.WaitGroup
	started.Add(users)
	for u := range users {
		wg.Go(func() {
			heads[u] = mutlog.Beginning
			for i := 0; ; i++ {
				answer, err := log.Push(t.Context(), mutlog.User(fmt.Sprint(u)), mutlog.Push{Base: heads[u], Mutations: []mutlog.Mutation{note(mutlog.Update, "a", `{}`)}})
				if i == 10 || err != nil && i < 10 {
					started.Done()
				}
				if err != nil {
					if !errors.Is(err, mutlog.ErrUnavailable) {
						t.Errorf("a push while the store is closed: %v", err)
					}
					return
				}
				heads[u] = answer.Head
			}
		})
	}
	started.Wait()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	ctx, any := t.Context(), func(mutlog.User) error { return nil }
	for name, err := range map[string]error{
		"View":         s.View(ctx, "a", func(mutlog.Reader) error { return nil }),
		"Update":       s.Update(ctx, "a", func(mutlog.Tx) error { return nil }),
		"Users":        s.Users(ctx, any),
		"Check":        s.Check(ctx, func(string) {}),
		"Record":       ignoring(s.Record(ctx, mutlog.RecordKey{Kind: "token"})),
		"Records":      ignoring(mutlogtest.All(s.Records(ctx, "token", ""))),
		"UpdateRecord": s.UpdateRecord(ctx, mutlog.RecordKey{Kind: "token"}, func([]byte) ([]byte, error) { return nil, nil }),
		"Follow":       s.Follow(ctx, func(mutlog.User, mutlog.Timestamp) {}, func() {}),
		"Fence":        s.Fence(ctx, 1),
	} {
		if !errors.Is(err, mutlog.ErrUnavailable) {
			t.Errorf("%s of a closed store: %v", name, err)
		}
	}
	s = o.open()
	for u, head := range heads {
		if got := read(t, s, mutlog.User(fmt.Sprint(u))).Head; got != head {
			t.Errorf("user %d was told head %d, and has %d", u, head, got)
		}
	}
}

// history pushes the same to a store and to the reference.
type history struct {
	rnd   *rand.Rand
	user  mutlog.User
	logs  [2]*mutlog.Log
	clock mutlogtest.Clock
	heads []mutlog.Timestamp
	last  mutlog.Push
}

func newHistory(rnd *rand.Rand, s, reference mutlog.Store, user mutlog.User) *history {
	h := &history{rnd: rnd, user: user, heads: []mutlog.Timestamp{mutlog.Beginning}}
	for i, store := range []mutlog.Store{s, reference} {
		h.logs[i] = mutlog.New(store, mutlog.DefaultLimits)
		h.logs[i].Now, h.logs[i].NewID = h.clock.Now, mutlogtest.IDs()
	}
	return h
}

// push returns a random push of mutations: most on the head, some to be merged
// or refused, with a key or a client or without.
func (h *history) push(mutations []mutlog.Mutation) mutlog.Push {
	p := mutlog.Push{Base: h.heads[len(h.heads)-1], Mutations: mutations}
	switch h.rnd.IntN(10) {
	case 0, 1:
		p.Base, p.Merge = h.heads[h.rnd.IntN(len(h.heads))], true
	case 2:
		p.Base = h.heads[h.rnd.IntN(len(h.heads))]
	case 3:
		p.Key = fmt.Sprint("key ", h.rnd.IntN(1000))
	case 4:
		p.Client = fmt.Sprint("client ", h.rnd.IntN(3))
	case 5:
		p = h.last // again
	}
	h.clock.Set(int64(h.heads[len(h.heads)-1]) + h.rnd.Int64N(50))
	return p
}

// both pushes p to both; the answers must be the same.
func (h *history) both(ctx context.Context, p mutlog.Push) error {
	var answers [2]*mutlog.Pushed
	var texts [2]string
	for i, log := range h.logs {
		answer, err := log.Push(ctx, h.user, p)
		answers[i] = answer
		if err != nil {
			texts[i] = fmt.Sprint(err)
			continue
		}
		texts[i] = fmt.Sprintf("%d %v %s", answer.Head, answer.Replayed, answer.Mutations)
		if answer.Changes != nil {
			changes, err := mutlogtest.Collect(ctx, answer.Changes)
			if err != nil {
				return err
			}
			texts[i] += fmt.Sprintf(" %s", changes)
		}
	}
	if texts[0] != texts[1] {
		return fmt.Errorf("push %+v:\n got %s\nwant %s", p, texts[0], texts[1])
	}
	if answers[0] != nil && !answers[0].Replayed {
		h.heads = append(h.heads, answers[0].Head)
		h.last = p
	}
	return nil
}

// A store answers as the reference does, at every point of long histories of
// few and of many resources: the index settles, chunks of it split, batches are
// read in stretches.
func testLikeReference(t *testing.T, o *opener) {
	s := o.open()
	seed := mutlogtest.Seed(t)
	var wg sync.WaitGroup
	for i, shape := range []struct{ resources, pushes, batch int }{
		{1, 100, 5}, {5, 120, 8}, {60, 120, 20}, {1500, 100, 30}, {5000, 60, 100},
	} {
		wg.Go(func() {
			c := &comparison{t: t, stores: [2]mutlog.Store{mutlogtest.NewStore(), s}, user: mutlog.User(fmt.Sprint("user ", i))}
			c.rnd = rand.New(rand.NewPCG(seed, uint64(i)))
			c.writer = mutlogtest.Writer{Rand: c.rnd, Resources: shape.resources}
			c.history = newHistory(c.rnd, s, c.stores[0], c.user)
			for n := range shape.pushes {
				if err := c.history.both(t.Context(), c.history.push(c.writer.Batch(shape.batch))); err != nil {
					t.Errorf("%s, push %d: %v", c.user, n, err)
					return
				}
				if c.rnd.IntN(12) == 0 && !c.sameReads() {
					return
				}
			}
			for range 5 {
				if !c.sameReads() {
					return
				}
			}
		})
	}
	wg.Wait()
	before := read(t, s, "user 3")
	s = o.reopen(s)
	same(t, "after reopening", before, read(t, s, "user 3"))
}

// comparison reads the same at random from the reference and a store.
type comparison struct {
	t       *testing.T
	rnd     *rand.Rand
	stores  [2]mutlog.Store
	user    mutlog.User
	writer  mutlogtest.Writer
	history *history
	pruned  bool // so that batches need not be the same
	dropped int
}

func (c *comparison) sameReads() bool {
	h := c.history
	head := h.heads[len(h.heads)-1]
	random := func() mutlog.Timestamp { // before, in, between and after batches
		return max(mutlog.Beginning, h.heads[c.rnd.IntN(len(h.heads))]+mutlog.Timestamp(c.rnd.IntN(5))-2)
	}
	after, until, at, base, step := random(), max(random(), 0), random(), h.heads[c.rnd.IntN(len(h.heads))], 1+c.rnd.IntN(300)
	until = min(until, head)
	key := fmt.Sprint("key ", c.rnd.IntN(1000))
	if h.last.Key != "" && c.rnd.IntN(2) == 0 {
		key = h.last.Key
	}
	var refs []mutlog.Ref
	for _, m := range c.writer.Mutations(1 + c.rnd.IntN(150)) {
		refs = append(refs, m.Ref())
	}
	var reads [2]map[string]any
	for i, store := range c.stores {
		view(c.t, store, c.user, func(tx mutlog.Reader) {
			reads[i] = map[string]any{
				"head":         must[mutlog.Timestamp](c.t)(tx.Head()),
				"newest":       owned(must[[]*mutlog.Entry](c.t)(tx.Newest(refs, head))),
				"newest at":    owned(must[[]*mutlog.Entry](c.t)(tx.Newest(refs, at))),
				"by key":       must[*mutlog.Batch](c.t)(tx.BatchByKey(key)),
				"on base":      must[[]*mutlog.Batch](c.t)(mutlogtest.All(tx.BatchesOn(base))),
				"on any":       must[[]*mutlog.Batch](c.t)(mutlogtest.All(tx.BatchesOn(at))),
				"batches":      c.batches(tx, step),
				"changes":      allChanges(c.t, tx, mutlog.Beginning, head, step),
				"some changes": allChanges(c.t, tx, after, until, step),
				"history":      allHistory(c.t, tx, mutlog.Beginning, head, step),
				"some history": allHistory(c.t, tx, after, until, step),
			}
			batches := must[[]*mutlog.Batch](c.t)(tx.Batches(after, step))
			if n := mutations(batches); len(batches) > 1 && n-len(batches[len(batches)-1].Entries) >= step {
				c.t.Errorf("a stretch of %d is of %d mutations", step, n)
			}
			if len(batches) > 0 && batches[0].Head() <= after {
				c.t.Errorf("a stretch behind %d begins with a batch up to %d", after, batches[0].Head())
			}
		})
	}
	for name, want := range reads[0] {
		if got := reads[1][name]; !reflect.DeepEqual(want, got) {
			c.t.Errorf("%s: %s: after %d, until %d, at %d, base %d, step %d: %s",
				c.user, name, after, until, at, base, step, difference(want, got))
			return false
		}
	}
	return true
}

// batches returns all batches; of a pruned log their mutations.
func (c *comparison) batches(tx mutlog.Reader, step int) []*mutlog.Batch {
	all := allBatches(c.t, tx, step)
	if !c.pruned || len(all) == 0 {
		return all
	}
	flat := &mutlog.Batch{Live: all[len(all)-1].Live}
	for _, b := range all {
		flat.Entries = append(flat.Entries, b.Entries...)
	}
	return []*mutlog.Batch{flat}
}

func mutations(batches []*mutlog.Batch) (n int) {
	for _, b := range batches {
		n += len(b.Entries)
	}
	return n
}
