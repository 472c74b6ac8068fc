package mutlog_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	. "tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// Rules 13 and 14: what a device at each point of one resource's past is told.
func TestPullTypes(t *testing.T) {
	f := newFixture(t)
	f.next(create("a", `{"v":1}`))                         // start
	f.next(update("a", `{"v":2}`))                         // +1
	f.next(create("a", `{"v":3}`))                         // +2 goes on with its life
	f.next(create("b", `{}`), remove("b"), remove("gone")) // +3 to +5
	f.next(remove("a"))                                    // +6
	f.next(remove("a"))                                    // +7
	f.next(update("a", `{"v":4}`))                         // +8 a new life
	f.next(update("a", `{"w":5}`))                         // +9
	f.next(create("c", `{"z":[ 1.0 ]}`))                   // +10
	const c = start + 10
	a := `{"v":4,"w":5}`
	created := []Mutation{at(create("a", a), start+9), at(create("c", `{"z":[ 1.0 ]}`), c)}
	tests := []struct {
		since Timestamp
		want  []Mutation
	}{
		{Beginning, created},
		{0, []Mutation{at(remove("b"), start+4), at(remove("gone"), start+5), created[0], created[1]}},
		{start, []Mutation{at(remove("b"), start+4), at(remove("gone"), start+5), created[0], created[1]}},
		{start + 3, []Mutation{at(remove("b"), start+4), at(remove("gone"), start+5), created[0], created[1]}},
		{start + 4, []Mutation{at(remove("gone"), start+5), created[0], created[1]}},
		{start + 7, created},
		{start + 8, []Mutation{at(update("a", a), start+9), created[1]}},
		{start + 9, created[1:]},
		{c, []Mutation{}},
	}
	for _, test := range tests {
		got, changes := mutlogtest.Pull(t, f.Log, alice, Query{Since: test.since})
		if diff := cmp.Diff(test.want, got); diff != "" || changes.Head != c || changes.HasMore {
			t.Errorf("since %d: %+v -want +got:\n%s", test.since, changes, diff)
		}
	}
	// Before a's second life it was a tombstone.
	g := newFixture(t)
	g.next(create("a", `{}`))
	g.next(remove("a"))
	g.same([]Mutation{at(remove("a"), start+1)}, g.pull(Query{Since: start}))
	g.same([]Mutation{}, g.pull(Query{Since: Beginning}))
}

// Rule 13: a cursor above 0 later than the head is refused, in every kind of
// pull; 0 and -1 never are.
func TestPullCursorAhead(t *testing.T) {
	f := newFixture(t)
	pull := func(q Query) error { _, err := f.Pull(t.Context(), alice, q); return err }
	check := func(since Timestamp, message string) {
		t.Helper()
		for _, q := range []Query{{}, {Limit: 3}, {Limit: 3, Page: 1}, {History: true}} {
			q.Since = since
			err := pull(q)
			var refusal *OutOfSyncError
			if !errors.As(err, &refusal) {
				t.Fatalf("%+v: got %v", q, err)
			}
			f.same(&OutOfSyncError{Reason: CursorAhead, Client: since, Server: f.head()}, refusal)
			f.same(message, refusal.Error())
		}
	}
	check(1, "First sync detected. Please use lastMutationAt=-1 for initial sync.")
	for _, since := range []Timestamp{Beginning, 0} {
		got, changes := mutlogtest.Pull(t, f.Log, alice, Query{Since: since})
		if len(got) != 0 || changes.Head != Beginning || changes.HasMore || changes.Total != 0 {
			t.Errorf("since %d: got %v, %+v", since, got, changes)
		}
	}
	head := f.next(create("a", `{}`))
	for _, since := range []Timestamp{head + 1, MaxTimestamp} {
		check(since, "Invalid lastMutationAt, please re-sync your data and try again.")
	}
	if err := pull(Query{Since: head}); err != nil {
		t.Error(err)
	}
}

// Rule 15: the kinds of resources that are asked for; the head is that of all.
func TestPullResources(t *testing.T) {
	f := newFixture(t)
	tag := Mutation{Type: Create, Resource: "TAG", ResourceID: "a", Data: []byte(`{}`)}
	list := Mutation{Type: Create, Resource: "LIST", ResourceID: "a", Data: []byte(`{}`)}
	head := f.next(create("a", `{}`), tag, create("b", `{}`), list, remove("a"))
	tests := []struct {
		resources []string
		want      []Mutation
	}{
		{nil, []Mutation{at(tag, start+1), at(create("b", `{}`), start+2), at(list, start+3)}},
		{[]string{"NOTE"}, []Mutation{at(create("b", `{}`), start+2)}},
		{[]string{"LIST", "TAG"}, []Mutation{at(tag, start+1), at(list, start+3)}},
		{[]string{"NOTHING"}, []Mutation{}},
	}
	for _, test := range tests {
		got, changes := mutlogtest.Pull(t, f.Log, alice, Query{Since: Beginning, Resources: test.resources})
		f.same(test.want, got)
		f.same(head, changes.Head)
	}
	// A filter comes before a limit, not after it.
	got, changes := mutlogtest.Pull(t, f.Log, alice, Query{Since: Beginning, Resources: []string{"LIST"}, Limit: 1})
	if f.same([]Mutation{at(list, start+3)}, got); changes.HasMore {
		t.Errorf("got %+v", changes)
	}
	got, changes = mutlogtest.Pull(t, f.Log, alice, Query{Since: Beginning, Resources: []string{"TAG", "LIST"}, Limit: 1})
	if f.same([]Mutation{at(tag, start+1)}, got); !changes.HasMore || changes.NextAfter != start+1 {
		t.Errorf("got %+v", changes)
	}
	got, changes = mutlogtest.Pull(t, f.Log, alice, Query{Since: Beginning, History: true, Resources: []string{"NOTE"}, Limit: 2})
	if f.same([]Mutation{at(create("a", `{}`), start), at(create("b", `{}`), start+2)}, got); !changes.HasMore || changes.NextAfter != start+2 {
		t.Errorf("got %+v", changes)
	}
}

// Rule 15: keyset pages of every size hold all changes once, in order.
func TestPullKeysetPages(t *testing.T) {
	f := newFixture(t)
	w := mutlogtest.Writer{Rand: rand.New(rand.NewPCG(mutlogtest.Seed(t), 1)), Resources: 40}
	for range 20 {
		f.next(w.Batch(10)...)
	}
	for _, q := range []Query{{Since: Beginning}, {Since: 0}, {Since: start + 30}, {Since: Beginning, History: true}, {Since: start + 3, Resources: []string{"NOTE"}}} {
		all, changes := mutlogtest.Pull(t, f.Log, alice, q)
		if changes.HasMore || changes.NextAfter != all[len(all)-1].Timestamp || changes.Total != int64(len(all)) {
			t.Errorf("%+v: got %+v", q, changes)
		}
		for limit := 1; limit <= len(all)+1; limit += mutlogtest.Size(7, 1) {
			q.Limit, q.After = limit, Beginning
			pages, size := []Mutation{}, 0
			for more := true; more; {
				page, changes := mutlogtest.Pull(t, f.Log, alice, q)
				pages, more, size = append(pages, page...), changes.HasMore, len(page)
				if more && size != limit {
					t.Fatalf("%+v: a page of %d", q, size)
				}
				if size > 0 && changes.NextAfter != page[size-1].Timestamp {
					t.Fatalf("%+v: continues after %d", q, changes.NextAfter)
				}
				q.After = changes.NextAfter
			}
			if diff := cmp.Diff(all, pages); diff != "" || size == 0 {
				t.Fatalf("limit %d: the last page has %d; -want +got:\n%s", limit, size, diff)
			}
		}
	}
}

// Rule 15: a change between two pages moves its resource behind them.
func TestPullKeysetPagesWhilePushing(t *testing.T) {
	f := newFixture(t)
	head := f.next(create("a", `{}`), create("b", `{}`), create("c", `{}`), create("d", `{}`))
	page, changes := mutlogtest.Pull(t, f.Log, alice, Query{Since: 0, Limit: 2})
	f.same([]Mutation{at(create("a", `{}`), start), at(create("b", `{}`), start+1)}, page)
	f.next(update("a", `{"x":1}`), remove("d"))
	rest, changes := mutlogtest.Pull(t, f.Log, alice, Query{Since: 0, After: changes.NextAfter, Limit: 10})
	f.same([]Mutation{at(create("c", `{}`), start+2), at(create("a", `{"x":1}`), head+1), at(remove("d"), head+2)}, rest)
	f.same(head+2, changes.Head)
}

// After has no effect where it is not later than the cursor.
func TestPullAfterBeforeCursor(t *testing.T) {
	f := newFixture(t)
	f.next(create("a", `{}`), create("b", `{}`), create("c", `{}`))
	for _, after := range []Timestamp{Beginning, 0, start, start + 1} {
		f.same([]Mutation{at(create("c", `{}`), start+2)}, f.pull(Query{Since: start + 1, After: after}))
	}
	f.same([]Mutation{at(create("b", `{}`), start+1), at(create("c", `{}`), start+2)}, f.pull(Query{Since: 0, After: start}))
}

// Numbered pages, for clients of the base protocol.
func TestPullNumberedPages(t *testing.T) {
	f := newFixture(t)
	var want []Mutation
	for i := range 7 {
		m := create(fmt.Sprint(i), `{}`)
		want = append(want, at(m, f.next(m, remove("other"))-1))
	}
	want = append(want, at(remove("other"), f.head()))
	for limit := 1; limit <= 9; limit++ {
		for page := int64(1); page <= 9; page++ {
			got, changes := mutlogtest.Pull(t, f.Log, alice, Query{Since: 0, Page: page, Limit: limit})
			low, high := min(int(page-1)*limit, len(want)), min(int(page)*limit, len(want))
			if diff := cmp.Diff(append([]Mutation{}, want[low:high]...), got); diff != "" {
				t.Errorf("page %d of %d: -want +got:\n%s", page, limit, diff)
			}
			if changes.Total != 8 || changes.HasMore != (int(page)*limit < 8) || changes.Head != f.head() {
				t.Errorf("page %d of %d: got %+v", page, limit, changes)
			}
		}
	}
	got, changes := mutlogtest.Pull(t, f.Log, alice, Query{Since: 0, Page: int64(MaxTimestamp), Limit: 1000})
	if len(got) != 0 || changes.HasMore || changes.Total != 8 {
		t.Errorf("the last page there can be: got %v, %+v", got, changes)
	}
}

// Rule 16: the history, from every cursor, a batch that the cursor divides
// included.
func TestPullHistory(t *testing.T) {
	f := newFixture(t)
	w := mutlogtest.Writer{Rand: rand.New(rand.NewPCG(mutlogtest.Seed(t), 1)), Resources: 5}
	want := []Mutation{}
	for range 20 {
		batch := w.Batch(6)
		answer := f.must(Push{Base: f.head(), Mutations: batch})
		for i, m := range batch {
			m.Timestamp, m.ResourceID = answer.Mutations[i].Timestamp, answer.Mutations[i].ResourceID
			want = append(want, m)
		}
	}
	f.same(want, f.pull(Query{Since: Beginning, History: true}))
	f.same(want, f.pull(Query{Since: 0, History: true}))
	for i, m := range want {
		f.same(append([]Mutation{}, want[i+1:]...), f.pull(Query{Since: m.Timestamp, History: true}))
	}
}

// Rule 15: a pull gives one state of the log, whatever is pushed while it goes
// on; here it reads in steps of a few mutations.
func TestPullIsOneState(t *testing.T) {
	f := newFixture(t)
	w := mutlogtest.Writer{Rand: rand.New(rand.NewPCG(mutlogtest.Seed(t), 1)), Resources: 30}
	for range 30 {
		f.next(w.Batch(6)...)
	}
	log := New(short{f.store}, DefaultLimits)
	for _, since := range []Timestamp{Beginning, 0, start + 40} {
		for _, history := range []bool{false, true} {
			want := f.pull(Query{Since: since, History: history})
			changes, err := log.Pull(t.Context(), alice, Query{Since: since, History: history})
			if err != nil {
				t.Fatal(err)
			}
			head, steps := changes.Head, 0
			got := []Mutation{}
			for mutations, err := range changes.All(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, mutations...)
				f.next(w.Batch(6)...)
				steps++
			}
			if diff := cmp.Diff(want, got); diff != "" || steps < 3 || changes.Head != head {
				t.Errorf("since %d, %d steps: -want +got:\n%s", since, steps, diff)
			}
		}
	}
}

// short is a store whose stretches are short.
type short struct{ Store }

type shortReader struct{ Reader }

func (s short) View(ctx context.Context, user User, fn func(Reader) error) error {
	return s.Store.View(ctx, user, func(tx Reader) error { return fn(shortReader{tx}) })
}

func (r shortReader) Changes(after, until Timestamp, n int) ([]Entry, Timestamp, error) {
	return r.Reader.Changes(after, until, min(n, 7))
}

func (r shortReader) History(after, until Timestamp, n int) ([]Entry, Timestamp, error) {
	return r.Reader.History(after, until, min(n, 7))
}

// Rule 13, 14 and 16 by an independent model: what every cursor of a random log
// is told, and that a device that held the state at that cursor is level then.
func TestPullAgainstModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(mutlogtest.Seed(t), 1))
	for _, resources := range []int{2, 12} {
		f := newFixture(t)
		w := mutlogtest.Writer{Rand: rnd, Resources: resources}
		for range 25 {
			f.next(w.Batch(6)...)
		}
		history := f.history()
		model := mutlogtest.Replay(history)
		for i := -2; i < len(history); i++ {
			since := Timestamp(min(i+1, 0)) // Beginning, 0, and then every timestamp
			if i >= 0 {
				since = history[i].Timestamp
			}
			f.same(model.Pull(since, Beginning), mutlogtest.Decoded(f.pull(Query{Since: since})))
		}
	}
}

// A pull that cannot go on says so, and never ends as if it were complete.
func TestPullErrors(t *testing.T) {
	f := newFixture(t)
	for range 20 {
		f.next(create("a", `{}`), create("b", `{}`))
	}
	broken := errors.New("broken")
	views := 0
	log := New(failing{f.store, func() error {
		if views++; views > 2 {
			return broken
		}
		return nil
	}}, DefaultLimits)
	changes, err := log.Pull(t.Context(), alice, Query{Since: Beginning})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := mutlogtest.Collect(t.Context(), changes); !errors.Is(err, broken) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := log.Pull(t.Context(), alice, Query{Since: Beginning}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := log.Head(t.Context(), alice); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	// Nor does one whose client has gone.
	ctx, cancel := context.WithCancel(t.Context())
	views = -100
	if changes, err = log.Pull(ctx, alice, Query{Since: Beginning}); err != nil {
		t.Fatal(err)
	}
	cancel()
	if got, err := mutlogtest.Collect(ctx, changes); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v", got, err)
	}
	// Whoever has enough of it may stop.
	if changes, err = log.Pull(t.Context(), alice, Query{Since: Beginning, History: true}); err != nil {
		t.Fatal(err)
	}
	for range changes.All(t.Context()) {
		break
	}
}

// failing is a store with short stretches whose views fail when fail does.
type failing struct {
	Store
	fail func() error
}

func (s failing) View(ctx context.Context, user User, fn func(Reader) error) error {
	if err := s.fail(); err != nil {
		return err
	}
	return s.Store.View(ctx, user, func(tx Reader) error { return fn(shortReader{tx}) })
}
