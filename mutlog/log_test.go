package mutlog_test

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	. "tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// start is what the clock of these tests says until it is set.
const start Timestamp = 1731636500000

const alice, bob User = "alice", "bob"

// fixture is a log on the reference store, with a clock that is set by hand.
type fixture struct {
	*Log
	t     *testing.T
	store *mutlogtest.Store
	clock mutlogtest.Clock
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{t: t, store: mutlogtest.NewStore()}
	f.Log = New(f.store, DefaultLimits)
	f.Now, f.NewID = f.clock.Now, mutlogtest.IDs()
	f.clock.Set(int64(start))
	t.Cleanup(func() { mutlogtest.CheckSound(t, f.store) })
	return f
}

// try pushes for alice.
func (f *fixture) try(p Push) (*Pushed, error) {
	return f.Push(f.t.Context(), alice, p)
}

// must pushes for alice what has to succeed.
func (f *fixture) must(p Push) *Pushed {
	f.t.Helper()
	answer, err := f.try(p)
	if err != nil {
		f.t.Fatal(err)
	}
	return answer
}

// next pushes mutations on the head and returns the new one.
func (f *fixture) next(mutations ...Mutation) Timestamp {
	f.t.Helper()
	return f.must(Push{Base: f.head(), Mutations: mutations}).Head
}

// refuse pushes for alice what has to be refused for its cursor; it makes sure
// that nothing has changed.
func (f *fixture) refuse(p Push) *OutOfSyncError {
	f.t.Helper()
	before := f.history()
	answer, err := f.try(p)
	var refusal *OutOfSyncError
	if !errors.As(err, &refusal) {
		f.t.Fatalf("got %+v, %v, want an OutOfSyncError", answer, err)
	}
	f.unchanged(before)
	return refusal
}

func (f *fixture) unchanged(before []Mutation) {
	f.t.Helper()
	f.same(before, f.history())
}

func (f *fixture) head() Timestamp {
	f.t.Helper()
	head, err := f.Head(f.t.Context(), alice)
	if err != nil {
		f.t.Fatal(err)
	}
	return head
}

func (f *fixture) pull(q Query) []Mutation {
	f.t.Helper()
	all, _ := mutlogtest.Pull(f.t, f.Log, alice, q)
	return all
}

func (f *fixture) history() []Mutation {
	f.t.Helper()
	return f.pull(Query{Since: Beginning, History: true})
}

func (f *fixture) same(want, got any) {
	f.t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		f.t.Errorf("-want +got:\n%s", diff)
	}
}

// create, update and remove are mutations of NOTE id.
func create(id, data string) Mutation {
	return Mutation{Type: Create, Resource: "NOTE", ResourceID: id, Data: []byte(data)}
}

func update(id, patch string) Mutation {
	return Mutation{Type: Update, Resource: "NOTE", ResourceID: id, Data: []byte(patch)}
}

func remove(id string) Mutation {
	return Mutation{Type: Delete, Resource: "NOTE", ResourceID: id}
}

// at returns m with a timestamp.
func at(m Mutation, t Timestamp) Mutation {
	m.Timestamp = t
	return m
}

// Rule 1: what one user pushes has no part in any answer to another.
func TestUsersShareNothing(t *testing.T) {
	f := newFixture(t)
	p := Push{Base: Beginning, Mutations: []Mutation{create("a", `{"of":"alice"}`)}}
	keyed := Push{Base: start, Mutations: []Mutation{create("b", `{}`)}, Key: "key"}
	f.must(p)
	f.must(keyed)
	if head, _ := f.Head(t.Context(), bob); head != Beginning {
		t.Errorf("bob's head is %d", head)
	}
	all, _ := mutlogtest.Pull(t, f.Log, bob, Query{Since: Beginning})
	f.same([]Mutation{}, all)

	answer, err := f.Push(t.Context(), bob, Push{Base: Beginning, Mutations: []Mutation{update("a", `{"b":1}`)}})
	if err != nil {
		t.Fatal(err)
	}
	f.same([]Mutation{at(update("a", `{"b":1}`), start)}, answer.Mutations) // and not merged into alice's
	if answer, err := f.Push(t.Context(), bob, keyed); err != nil || answer.Replayed {
		t.Errorf("alice's key: got %+v, %v", answer, err)
	}
	if answer, err := f.Push(t.Context(), bob, p); err == nil {
		t.Errorf("alice's push: got %+v", answer)
	}
	_, err = f.Push(t.Context(), bob, Push{Base: f.head() + 5, Mutations: p.Mutations})
	var refusal *OutOfSyncError
	if !errors.As(err, &refusal) || refusal.Server != start+1 || len(refusal.Conflicts) != 0 {
		t.Errorf("got %+v, %v", refusal, err)
	}
	f.same([]Mutation{at(create("a", `{"of":"alice"}`), start), at(create("b", `{}`), start+1)}, f.history())
}

// Rules 2 and 3: the head and the timestamps, whatever the clock does.
func TestPushTimestamps(t *testing.T) {
	f := newFixture(t)
	if head := f.head(); head != Beginning {
		t.Errorf("the head of an empty log is %d", head)
	}
	two := []Mutation{create("a", `{}`), remove("a")}
	answer := f.must(Push{Base: Beginning, Mutations: two})
	f.same([]Timestamp{start, start + 1, start + 1}, []Timestamp{answer.Mutations[0].Timestamp, answer.Mutations[1].Timestamp, answer.Head})
	for _, step := range []struct {
		clock Timestamp
		want  Timestamp // the new head
	}{
		{start, start + 3}, // it stands still
		{start - 3600_000, start + 5},
		{-7, start + 7},
		{start + 8, start + 9},
		{start + 1000, start + 1001},
		{1 << 53, start + 1003}, // out of the range of timestamps
		{0, start + 1005},
	} {
		f.clock.Set(int64(step.clock))
		if head := f.next(two...); head != step.want || f.head() != head {
			t.Errorf("at %d: got %d, then %d, want %d", step.clock, head, f.head(), step.want)
		}
	}
	rnd := rand.New(rand.NewPCG(mutlogtest.Seed(t), 1))
	for range 300 {
		before := f.head()
		f.clock.Set(rnd.Int64N(1<<rnd.IntN(62)) - 1000)
		if head := f.next(two...); head < before+2 || head > MaxTimestamp {
			t.Fatalf("the head went from %d to %d", before, head)
		}
	}
}

// Rule 3: a log whose timestamps have run out refuses, and can still be read.
func TestPushLogFull(t *testing.T) {
	f := newFixture(t)
	f.clock.Set(int64(MaxTimestamp) - 1)
	f.next(create("a", `{}`), create("b", `{}`))
	before := f.history()
	if answer, err := f.try(Push{Base: MaxTimestamp, Mutations: []Mutation{remove("a")}}); !errors.Is(err, ErrLogFull) {
		t.Errorf("got %+v, %v", answer, err)
	}
	f.unchanged(before)
}

// Rules 5 and 6: the answer to a push and the history show what each mutation
// was and did; data comes back byte for byte.
func TestPushApplies(t *testing.T) {
	f := newFixture(t)
	exact := `{ "n" : 1731636500303.10 , "s":"\u00e9\/" }`
	steps := []struct {
		name string
		m    Mutation
		want string // the state after it; "" for a tombstone
	}{
		{"CREATE", create("a", exact), exact},
		{"UPDATE merges", update("a", `{"n":null,"t":{"u":1}}`), `{"s":"\u00e9\/","t":{"u":1}}`},
		{"UPDATE merges deeply", update("a", `{"t":{"v":9007199254740993},"s":"x"}`), `{"s":"x","t":{"u":1,"v":9007199254740993}}`},
		{"CREATE of a live resource replaces it", create("a", `{"new":true}`), `{"new":true}`},
		{"DELETE", remove("a"), ""},
		{"DELETE of a deleted resource", remove("a"), ""},
		{"DELETE of a missing resource", remove("b"), ""},
		{"UPDATE of a deleted resource", update("a", `{"x":1,"y":null}`), `{"x":1}`},
		{"UPDATE of a missing resource", update("c", `{"x":{"y":null}}`), `{"x":{}}`},
		{"CREATE of a deleted resource", create("b", `{"null":null}`), `{"null":null}`},
		{"the same id of another kind is another resource", Mutation{Type: Update, Resource: "TAG", ResourceID: "a", Data: []byte(`{"z":1}`)}, `{"z":1}`},
		{"DELETE with data", Mutation{Type: Delete, Resource: "NOTE", ResourceID: "c", Data: []byte(`{"why":1}`)}, ""},
	}
	history, batch := []Mutation{}, []Mutation{}
	for _, step := range steps {
		before := f.head()
		answer := f.must(Push{Base: before, Mutations: []Mutation{step.m}})
		want := at(step.m, max(before+1, start))
		history = append(history, want)
		if want.Data = []byte(step.want); step.want == "" {
			want.Data = nil
		}
		if diff := cmp.Diff([]Mutation{want}, answer.Mutations); diff != "" || answer.Replayed || answer.Changes != nil {
			t.Errorf("%s: %+v -want +got:\n%s", step.name, answer, diff)
		}
		batch = append(batch, step.m)
	}
	f.same(history, f.history())

	// All of it in one batch has the same effects, one on top of the other.
	one := newFixture(t)
	answer := one.must(Push{Base: Beginning, Mutations: batch})
	for i, m := range answer.Mutations {
		if string(m.Data) != steps[i].want || (m.Data == nil) != (steps[i].want == "") {
			t.Errorf("in one batch: %s: got %s", steps[i].name, m.Data)
		}
	}
	one.same(history, one.history())
	one.same(f.pull(Query{Since: Beginning}), one.pull(Query{Since: Beginning}))
}

// Rule 5: only a CREATE may leave its identifier to the server.
func TestPushAssignsIDs(t *testing.T) {
	f := newFixture(t)
	assigned := Mutation{Type: Create, Resource: "NOTE", Data: []byte(`{}`)}
	answer := f.must(Push{Base: Beginning, Mutations: []Mutation{assigned, assigned, create("a", `{}`)}})
	ids := []string{}
	for _, m := range answer.Mutations {
		ids = append(ids, m.ResourceID)
	}
	f.same([]string{"assigned-1", "assigned-2", "a"}, ids)

	f.NewID = New(f.store, DefaultLimits).NewID
	f.next(assigned)
	history := f.history()
	if id := history[3].ResourceID; len(id) != 26 || strings.ToUpper(id) != id {
		t.Errorf("got %q, want a ULID", id)
	}
}

// Rules 6 and 7: a resource stays within the limit of bytes; a batch of which
// one mutation cannot be applied leaves nothing.
func TestPushTooLargeState(t *testing.T) {
	f := newFixture(t)
	half := `"` + strings.Repeat("x", DefaultLimits.DataBytes/2) + `"`
	head := f.next(create("a", `{"one":`+half+`}`))
	before := f.history()
	_, err := f.try(Push{Base: head, Mutations: []Mutation{create("b", `{}`), update("a", `{"two":`+half+`}`)}})
	var invalid *ValidationError
	if !errors.As(err, &invalid) {
		t.Fatal(err)
	}
	f.same([]Fault{{1, "data", "Data must not exceed 65536 bytes at mutation[1]"}}, invalid.Faults)
	f.unchanged(before)
	f.next(update("a", `{"one":null,"two":`+half+`}`))
}

// Rule 8: the cursor must be the head; a refusal says why and changes nothing.
func TestPushCursor(t *testing.T) {
	f := newFixture(t)
	p := []Mutation{create("a", `{}`)}
	const first = "First sync detected. Please use lastMutationAt=-1 for initial sync."
	const other = "Invalid lastMutationAt, please re-sync your data and try again."
	check := func(base Timestamp, reason Reason, message string) {
		t.Helper()
		for _, merge := range []bool{false, true} {
			refusal := f.refuse(Push{Base: base, Mutations: p, Merge: merge && reason != StaleCursor})
			if refusal.Reason != reason || refusal.Client != base || refusal.Server != f.head() || refusal.Error() != message {
				t.Errorf("%d: got %+v: %v", base, refusal, refusal)
			}
			if refusal.Conflicts == nil {
				t.Errorf("%d: the conflicts of a push are a list, even an empty one", base)
			}
		}
	}
	for _, base := range []Timestamp{0, 1, start, MaxTimestamp} {
		check(base, FirstSync, first)
	}
	head := f.next(create("x", `{}`), create("y", `{}`))
	for _, base := range []Timestamp{Beginning, 0, 1, head / 1000, head - 1} {
		check(base, StaleCursor, other)
	}
	for _, base := range []Timestamp{head + 1, MaxTimestamp} {
		check(base, CursorAhead, other)
	}
	if answer := f.must(Push{Base: head, Mutations: p}); answer.Head != head+1 || f.head() != head+1 {
		t.Errorf("got %+v", answer)
	}
}

// Rule 9.
func TestPushEmptyBatch(t *testing.T) {
	f := newFixture(t)
	empty := func(base Timestamp, key string) Push { return Push{Base: base, Key: key, Mutations: []Mutation{}} }
	for range 2 {
		f.same(&Pushed{Head: Beginning, Mutations: []Mutation{}}, f.must(empty(Beginning, "")))
		f.same(&Pushed{Head: Beginning, Mutations: []Mutation{}}, f.must(empty(Beginning, "key")))
	}
	f.refuse(empty(0, ""))
	head := f.next(create("a", `{}`))
	f.same(&Pushed{Head: head, Mutations: []Mutation{}}, f.must(empty(head, "key")))
	f.refuse(empty(Beginning, ""))    // the first one is not remembered
	f.refuse(empty(Beginning, "key")) // nor is its key
	f.refuse(empty(head+1, ""))

	// Its key is free.
	if answer := f.must(Push{Base: head, Key: "key", Mutations: []Mutation{remove("a")}}); answer.Replayed {
		t.Error("a new batch was taken for an empty one")
	}
	if _, err := f.try(empty(head, "key")); !errors.Is(err, ErrKeyReused) {
		t.Errorf("got %v", err)
	}
	// With merge=true it is a pull.
	answer := f.must(Push{Base: Beginning, Merge: true})
	changes, err := mutlogtest.Collect(t.Context(), answer.Changes)
	if err != nil || len(changes) != 0 || answer.Head != head+1 || f.head() != head+1 {
		t.Errorf("got %+v, %v, %v", answer, changes, err)
	}
}

// Rule 10: a push comes again without a key.
func TestReplayWithoutKey(t *testing.T) {
	f := newFixture(t)
	first := Push{Base: Beginning, Client: "phone", Mutations: []Mutation{
		{Type: Create, Resource: "NOTE", Data: []byte(`{"a":1,"b":[1,2]}`)}, update("x", `{"n":null,"m":1}`), remove("y")}}
	want := f.must(first)
	want.Replayed = true
	f.same(want, f.must(first))
	f.same(want, f.must(first))
	for i := range 5 { // the head moves on, past all that first did
		f.clock.Set(int64(start) + int64(i)*1000)
		f.next(create("x", `{}`), remove("assigned-1"))
	}
	f.same(want, f.must(first))
	before := f.history()

	again := func(change func(*Push)) Push {
		p := first
		p.Mutations = append([]Mutation{}, first.Mutations...)
		change(&p)
		return p
	}
	f.same(want, f.must(again(func(p *Push) { p.Mutations[0].Data = []byte(" {\"b\":[1, 2],\n\"\\u0061\":1}") }))) // written anew
	different := map[string]func(*Push){
		"another cursor":            func(p *Push) { p.Base = 0 },
		"another client":            func(p *Push) { p.Client = "tablet" },
		"no client":                 func(p *Push) { p.Client = "" },
		"a key":                     func(p *Push) { p.Key = "key" },
		"fewer mutations":           func(p *Push) { p.Mutations = p.Mutations[:2] },
		"more mutations":            func(p *Push) { p.Mutations = append(p.Mutations, remove("z")) },
		"no mutations":              func(p *Push) { p.Mutations = nil },
		"another order":             func(p *Push) { p.Mutations[1], p.Mutations[2] = p.Mutations[2], p.Mutations[1] },
		"another type":              func(p *Push) { p.Mutations[1].Type = Create },
		"another kind":              func(p *Push) { p.Mutations[1].Resource = "TAG" },
		"another resource":          func(p *Push) { p.Mutations[1].ResourceID = "z" },
		"the identifier it was got": func(p *Push) { p.Mutations[0].ResourceID = "assigned-1" },
		"an identifier left out":    func(p *Push) { p.Mutations[1].ResourceID = "" },
		"other data":                func(p *Push) { p.Mutations[0].Data = []byte(`{"a":1,"b":[2,1]}`) },
		"another text of a number":  func(p *Push) { p.Mutations[0].Data = []byte(`{"a":1.0,"b":[1,2]}`) },
		"data where there was none": func(p *Push) { p.Mutations[2].Data = []byte(`{}`) },
	}
	for name, change := range different {
		if answer, err := f.try(again(change)); err == nil {
			t.Errorf("%s: got %+v", name, answer)
		}
	}
	f.unchanged(before)
}

// Rule 10: several pushes with one cursor, all but one of them merged, are each
// told from the others.
func TestReplayMergedWithoutKey(t *testing.T) {
	f := newFixture(t)
	base := f.next(create("a", `{}`))
	push := func(id, client string) Push {
		return Push{Base: base, Client: client, Merge: true, Mutations: []Mutation{create(id, `{}`)}}
	}
	pushes := []Push{push("b", "phone"), push("c", "phone"), push("d", "tablet"), push("e", "")}
	var answers []*Pushed
	for _, p := range pushes {
		answers = append(answers, f.must(p))
	}
	for i, p := range pushes {
		want, err := mutlogtest.Collect(t.Context(), answers[i].Changes)
		if err != nil {
			t.Fatal(err)
		}
		got := f.must(p)
		changes, err := mutlogtest.Collect(t.Context(), got.Changes)
		if err != nil {
			t.Fatal(err)
		}
		f.same(want, changes) // those of the first answer, although the head has moved on
		if !got.Replayed || got.Head != answers[i].Head || len(changes) != i {
			t.Errorf("%d: got %+v and %d changes", i, got, len(changes))
		}
		f.same(answers[i].Mutations, got.Mutations)
		p.Merge = false // no part of what was pushed; a device that adopts the head must have the changes all the same
		if got = f.must(p); !got.Replayed || (got.Changes != nil) != (i > 0) {
			t.Fatalf("%d: got %+v", i, got)
		}
		if got.Changes != nil {
			changes, err := mutlogtest.Collect(t.Context(), got.Changes)
			if err != nil {
				t.Fatal(err)
			}
			f.same(want, changes)
		}
	}
	refusal := f.refuse(push("b", "tablet"))
	f.same(1, len(refusal.Conflicts))
}

// Rule 10: what is pushed on the head is new, also if it has been pushed on
// another cursor before.
func TestNoReplayOnHead(t *testing.T) {
	f := newFixture(t)
	m := update("a", `{"a":1}`)
	for i := range Timestamp(3) {
		if answer := f.must(Push{Base: f.head(), Mutations: []Mutation{m}}); answer.Replayed || answer.Head != start+i {
			t.Errorf("%d: got %+v", i, answer)
		}
	}
}

// Rule 11: a push comes again with its key.
func TestReplayWithKey(t *testing.T) {
	f := newFixture(t)
	first := Push{Base: Beginning, Key: "key", Client: "phone", Mutations: []Mutation{{Type: Create, Resource: "NOTE", Data: []byte(`{"a":1}`)}}}
	want := f.must(first)
	want.Replayed = true
	for range 3 {
		f.next(update("assigned-1", `{"a":2}`))
	}
	before := f.history()
	for _, base := range []Timestamp{Beginning, 0, start, f.head(), MaxTimestamp} {
		p := first
		p.Base, p.Client = base, ""
		f.same(want, f.must(p))
	}
	other := first
	other.Mutations = []Mutation{create("a", `{}`)}
	for _, base := range []Timestamp{Beginning, f.head()} {
		other.Base = base
		if answer, err := f.try(other); !errors.Is(err, ErrKeyReused) {
			t.Errorf("other mutations on %d: got %+v, %v", base, answer, err)
		}
	}
	f.unchanged(before)

	// It is never taken for one with another key or none.
	for _, key := range []string{"", "KEY", "key "} {
		p := first
		p.Key = key
		f.refuse(p)
		p.Base = f.head()
		if answer := f.must(p); answer.Replayed {
			t.Errorf("key %q: replayed", key)
		}
	}
	keyless := Push{Base: f.head(), Mutations: []Mutation{create("z", `{}`)}}
	f.must(keyless)
	keyless.Key = "new"
	f.refuse(keyless)
}

// Rule 11: with merge=true a replay gives the changes of the first answer.
func TestReplayWithKeyMerged(t *testing.T) {
	f := newFixture(t)
	base := f.next(create("a", `{}`))
	f.next(create("b", `{"v":1}`))
	p := Push{Base: base, Key: "key", Merge: true, Mutations: []Mutation{create("c", `{}`)}}
	f.must(p)
	f.next(update("b", `{"v":2}`), remove("a"))
	p.Base = f.head() // the client has pulled first
	answer := f.must(p)
	changes, err := mutlogtest.Collect(t.Context(), answer.Changes)
	if err != nil || !answer.Replayed || answer.Changes.Head != start+1 {
		t.Fatalf("got %+v, %v", answer, err)
	}
	f.same([]Mutation{at(create("b", `{"v":1}`), start+1)}, changes)
}

// Rule 12: a refusal tells what collides, with both branches.
func TestConflicts(t *testing.T) {
	f := newFixture(t)
	f.next(create("updated", `{"a":1,"b":1}`), create("deleted", `{"a":1}`), create("replaced", `{}`), create("untouched", `{}`),
		create("reborn", `{}`), create("back", `{"v":1}`))
	base := f.head()
	f.next(update("updated", `{"b":2}`), remove("deleted"), create("replaced", `{"a":{"x":1}}`), create("new", `{"a":1}`),
		remove("reborn"), create("reborn", `{"a":9}`), remove("gone"))
	mutations := []Mutation{
		update("updated", `{"a":1,"b":3}`),
		update("deleted", `{"c":1}`),
		create("replaced", `{"a":{"x":1}}`),
		update("untouched", `{"a":1}`),
		remove("new"),
		update("reborn", `{"a":9}`),
		remove("gone"),
		create("mine", `{}`),
		{Type: Create, Resource: "NOTE", Data: []byte(`{}`)},
		remove("updated"),
		{Type: Create, Resource: "TAG", ResourceID: "updated", Data: []byte(`{}`)},
	}
	want := []Conflict{
		{0, mutations[0], at(update("updated", `{"a":1,"b":2}`), base+1), []string{"b"}},
		{1, mutations[1], at(remove("deleted"), base+2), []string{"c"}},
		{2, mutations[2], at(update("replaced", `{"a":{"x":1}}`), base+3), []string{}},
		{4, mutations[4], at(create("new", `{"a":1}`), base+4), []string{"a"}},
		{5, mutations[5], at(create("reborn", `{"a":9}`), base+6), []string{}},
		{6, mutations[6], at(remove("gone"), base+7), []string{}},
		{9, mutations[9], at(update("updated", `{"a":1,"b":2}`), base+1), []string{"a", "b"}},
	}
	for _, merge := range []bool{false, true} {
		refusal := f.refuse(Push{Base: base, Mutations: mutations, Merge: merge})
		if diff := cmp.Diff(want, refusal.Conflicts); diff != "" {
			t.Errorf("merge %v: -want +got:\n%s", merge, diff)
		}
	}
	// The server's branch is what a pull of the cursor says.
	pulled := map[Ref]Mutation{}
	for _, m := range f.pull(Query{Since: base}) {
		pulled[m.Ref()] = m
	}
	for _, c := range want {
		f.same(pulled[c.Client.Ref()], c.Server)
	}
	// Nothing collides with what was there at the cursor already.
	f.same([]Conflict{}, f.refuse(Push{Base: base, Mutations: []Mutation{remove("untouched"), remove("back")}}).Conflicts)
	f.same([]Conflict{}, f.refuse(Push{Base: f.head() - 1, Mutations: mutations[:1]}).Conflicts)
	f.same([]Conflict{}, f.refuse(Push{Base: f.head() + 1, Mutations: mutations}).Conflicts)
}

// Rule 12: merge=true.
func TestPushMerge(t *testing.T) {
	f := newFixture(t)
	base := f.next(create("a", `{"v":1}`), create("b", `{"v":1}`), create("c", `{"v":1}`))
	head := f.next(update("b", `{"v":2}`), remove("c"), create("d", `{}`))
	level := f.pull(Query{Since: base})

	// Its own resources have not changed: applied behind the head.
	p := Push{Base: base, Merge: true, Mutations: []Mutation{update("a", `{"w":1}`), create("e", `{}`)}}
	answer := f.must(p)
	if answer.Head != head+2 || answer.Replayed {
		t.Errorf("got %+v", answer)
	}
	f.same([]Mutation{at(update("a", `{"v":1,"w":1}`), head+1), at(create("e", `{}`), head+2)}, answer.Mutations)
	f.next(create("later", `{}`), remove("b"), update("d", `{"x":1}`)) // before the changes are read
	changes, err := mutlogtest.Collect(t.Context(), answer.Changes)
	if err != nil || answer.Changes.Head != head {
		t.Errorf("got %+v, %v", answer.Changes, err)
	}
	f.same(level, changes)

	// One of them has: all are refused.
	f.refuse(Push{Base: base, Merge: true, Mutations: []Mutation{update("a2", `{}`), update("b", `{}`)}})
	// On the head there is nothing to merge with.
	answer = f.must(Push{Base: f.head(), Merge: true, Mutations: []Mutation{update("b", `{}`)}})
	changes, err = mutlogtest.Collect(t.Context(), answer.Changes)
	if err != nil {
		t.Fatal(err)
	}
	f.same([]Mutation{}, changes)
	// A device that holds nothing gets the snapshot.
	head = f.head()
	snapshot := f.pull(Query{Since: Beginning})
	answer = f.must(Push{Base: Beginning, Merge: true, Mutations: []Mutation{create("f", `{}`)}})
	changes, err = mutlogtest.Collect(t.Context(), answer.Changes)
	if err != nil || answer.Changes.Head != head {
		t.Fatal(answer.Changes.Head, err)
	}
	f.same(snapshot, changes)
	f.refuse(Push{Base: Beginning, Merge: true, Mutations: []Mutation{create("a", `{}`)}})
	// Of the future the log knows nothing.
	if refusal := f.refuse(Push{Base: f.head() + 1, Merge: true, Mutations: []Mutation{create("g", `{}`)}}); refusal.Reason != CursorAhead {
		t.Errorf("got %+v", refusal)
	}
}

// wrapped is a store whose transactions go through wrap.
type wrapped struct {
	Store
	wrap func(Tx) Tx
}

func (w wrapped) Update(ctx context.Context, user User, fn func(Tx) error) error {
	return w.Store.Update(ctx, user, func(tx Tx) error { return fn(w.wrap(tx)) })
}

// brokenTx fails where it is told to.
type brokenTx struct {
	Tx
	fail map[string]error
}

func (tx brokenTx) Head() (Timestamp, error) {
	head, err := tx.Tx.Head()
	return head, errors.Join(err, tx.fail["Head"])
}

func (tx brokenTx) Newest(refs []Ref, at Timestamp) ([]*Entry, error) {
	newest, err := tx.Tx.Newest(refs, at)
	return newest, errors.Join(err, tx.fail["Newest"])
}

func (tx brokenTx) BatchByKey(key string) (*Batch, error) {
	b, err := tx.Tx.BatchByKey(key)
	return b, errors.Join(err, tx.fail["BatchByKey"])
}

func (tx brokenTx) BatchesOn(base Timestamp) iter.Seq2[*Batch, error] {
	if err := tx.fail["BatchesOn"]; err != nil {
		return func(yield func(*Batch, error) bool) { yield(nil, err) }
	}
	return tx.Tx.BatchesOn(base)
}

func (tx brokenTx) Append(b *Batch) error {
	return errors.Join(tx.Tx.Append(b), tx.fail["Append"])
}

// An error of the store is never taken for an answer: no refusal, no replay,
// nothing applied.
func TestPushStoreErrors(t *testing.T) {
	f := newFixture(t)
	f.must(Push{Base: Beginning, Key: "key", Mutations: []Mutation{create("a", `{}`)}})
	f.next(create("b", `{}`))
	before := f.history()
	pushes := map[string]Push{
		"Head":       {Base: f.head(), Mutations: []Mutation{remove("a")}},
		"Append":     {Base: f.head(), Mutations: []Mutation{remove("a")}},
		"Newest":     {Base: start, Mutations: []Mutation{remove("b")}},
		"BatchByKey": {Base: f.head(), Key: "key", Mutations: []Mutation{remove("b")}},
		"BatchesOn":  {Base: start, Mutations: []Mutation{create("b", `{}`)}},
	}
	for name, p := range pushes {
		broken := errors.New(name + " is broken")
		log := New(wrapped{f.store, func(tx Tx) Tx { return brokenTx{tx, map[string]error{name: broken}} }}, DefaultLimits)
		if answer, err := log.Push(t.Context(), alice, p); !errors.Is(err, broken) {
			t.Errorf("%s: got %+v, %v", name, answer, err)
		}
	}
	f.unchanged(before)
}

// A store may run the function of an update more than once (contract): only the
// last run counts.
func TestPushRunsAgain(t *testing.T) {
	f := newFixture(t)
	log := New(again{f.store}, DefaultLimits)
	log.Now, log.NewID = f.clock.Now, mutlogtest.IDs()
	p := Push{Base: Beginning, Mutations: []Mutation{{Type: Create, Resource: "NOTE", Data: []byte(`{}`)}, update("a", `{"n":1}`)}}
	answer, err := log.Push(t.Context(), alice, p)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Replayed || answer.Head != start+1 || answer.Mutations[0].ResourceID == "" {
		t.Errorf("got %+v", answer)
	}
	f.same(f.history(), answer.Mutations)
	replay, err := log.Push(t.Context(), alice, p)
	if err != nil || !replay.Replayed {
		t.Fatal(replay, err)
	}
	f.same(answer.Mutations, replay.Mutations)
	if answer, err := log.Push(t.Context(), alice, Push{Base: 5, Mutations: p.Mutations}); err == nil {
		t.Errorf("got %+v", answer)
	}
}

// again is a store that runs each update twice; the first run is lost.
type again struct{ Store }

func (s again) Update(ctx context.Context, user User, fn func(Tx) error) error {
	lost := errors.New("lost")
	s.Store.Update(ctx, user, func(tx Tx) error {
		fn(tx)
		return lost
	})
	return s.Store.Update(ctx, user, fn)
}
