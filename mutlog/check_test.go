package mutlog_test

import (
	"context"
	"errors"
	"iter"
	"strings"
	"testing"

	. "tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// Every rule that a stored log can break is checked, and what is wrong is told
// with its place.
func TestCheckFindsBrokenRules(t *testing.T) {
	note := func(kind Type, id, data, state string, prev, born Timestamp) Entry {
		e := Entry{Mutation: Mutation{Type: kind, Resource: "NOTE", ResourceID: id}, Prev: prev, Born: born}
		if data != "" {
			e.Data = []byte(data)
		}
		if state != "" {
			e.State = []byte(state)
		}
		return e
	}
	// a valid log: a at 10, b at 11, a gone at 20, c at 21
	first := &Batch{Base: -1, Previous: -1, Entries: []Entry{
		note(Create, "a", `{"v":1}`, `{"v":1}`, -1, 10), note(Create, "b", `{"v":1}`, `{"v":1}`, -1, 11)}}
	second := &Batch{Base: 11, Previous: 11, Key: "key", Entries: []Entry{
		note(Delete, "a", "", "", 10, -1), note(Create, "c", `{}`, `{}`, -1, 21)}}
	log := func(third *Batch, at Timestamp) []*Batch {
		batches := []*Batch{stamped(first, 10), stamped(second, 20)}
		if third != nil {
			batches = append(batches, stamped(third, at))
		}
		return batches
	}
	third := func(entries ...Entry) *Batch { return &Batch{Base: 21, Previous: 21, Entries: entries} }
	valid := note(Update, "b", `{"w":2}`, `{"v":1,"w":2}`, 11, 11)
	with := func(change func(*Entry)) *Batch {
		e := valid
		change(&e)
		return third(e)
	}
	tests := []struct {
		name string
		log  []*Batch
		want string // "": sound
	}{
		{"empty", nil, ""},
		{"sound", log(third(valid), 30), ""},
		{"sound and merged", log(&Batch{Base: 11, Previous: 21, Entries: []Entry{valid}}, 30), ""},
		{"sound, a new life", log(third(note(Update, "a", `{"x":{"y":null}}`, `{"x":{}}`, 20, 30)), 30), ""},
		{"sound, twice in one batch", log(third(valid, note(Delete, "b", "", "", 30, -1), note(Create, "b", `{}`, `{}`, 31, 32)), 30), ""},

		{"rule 3: not later than the head", log(third(valid), 21), "mutation 21: it follows 21 and is not later"},
		{"rule 3: overlaps", log(third(valid, valid), 20), "and is not later"},
		{"rule 3: timestamp 0", []*Batch{stamped(&Batch{Base: -1, Previous: -1, Entries: []Entry{note(Create, "a", `{}`, `{}`, -1, 0)}}, 0)}, "out of range"},
		{"rule 3: timestamp 2^53", log(third(note(Update, "b", `{"w":2}`, `{"v":1,"w":2}`, 11, 11)), 1<<53), "out of range"},
		{"rule 2: previous head too low", log(&Batch{Base: 20, Previous: 20, Entries: []Entry{valid}}, 30), "mutation 30: its batch follows 20, the head before it is 21"},
		{"rule 2: previous head too high", log(&Batch{Base: 25, Previous: 25, Entries: []Entry{valid}}, 30), "its batch follows 25, the head before it is 21"},
		{"rule 2: does not begin with the beginning", log(nil, 0)[1:], "its batch follows 11, the head before it is -1"},
		{"rule 8: base later than the head", log(&Batch{Base: 22, Previous: 21, Entries: []Entry{valid}}, 30), "pushed on 22, later than the head before it, 21"},
		{"rule 5: resource", log(with(func(e *Entry) { e.Resource = "note" }), 30), `its resource is "note" "b" (rule 5)`},
		{"rule 5: resourceId", log(with(func(e *Entry) { e.ResourceID = "b\n" }), 30), "(rule 5)"},
		{"rule 5: no resourceId", log(with(func(e *Entry) { e.ResourceID = "" }), 30), "(rule 5)"},
		{"rule 5: data no JSON", log(with(func(e *Entry) { e.Data = []byte(`{"w":2`) }), 30), "mutation 30: its data is no valid JSON object (rule 5)"},
		{"rule 5: data no object", log(with(func(e *Entry) { e.Data = []byte(`[]`) }), 30), "no valid JSON object"},
		{"rule 5: data with duplicate names", log(with(func(e *Entry) { e.Data = []byte(`{"w":2,"w":2}`) }), 30), "no valid JSON object"},
		{"rule 5: data with NUL", log(with(func(e *Entry) { e.Data = []byte(`{"w":"\u0000"}`) }), 30), "no valid JSON object"},
		{"rule 5: data too deep", log(with(func(e *Entry) { e.Data = []byte(strings.Repeat(`{"w":`, 65) + `1` + strings.Repeat(`}`, 65)) }), 30), "no valid JSON object"},
		{"rule 5: data empty", log(with(func(e *Entry) { e.Data = []byte{} }), 30), "no valid JSON object"},
		{"rule 5: state no JSON", log(with(func(e *Entry) { e.State = []byte(`{"v":1,"w":2`) }), 30), "no valid JSON object"},
		{"rule 5: UPDATE without data", log(with(func(e *Entry) { e.Data = nil }), 30), "a UPDATE without data"},
		{"rule 5: CREATE without data", log(with(func(e *Entry) { e.Type, e.Data = Create, nil }), 30), "a CREATE without data"},
		{"rule 5: no type", log(with(func(e *Entry) { e.Type = "PUT" }), 30), `its type is "PUT"`},
		{"rule 6: an UPDATE not merged", log(with(func(e *Entry) { e.State = e.Data }), 30), "mutation 30: the data after it is not what its resource's past makes it (rule 6)"},
		{"rule 6: a digit differs", log(with(func(e *Entry) { e.State = []byte(`{"v":1,"w":2.0}`) }), 30), "(rule 6)"},
		{"rule 6: a DELETE leaves data", log(with(func(e *Entry) { e.Type = Delete; e.Born = -1 }), 30), "(rule 6)"},
		{"rule 6: a CREATE merges", log(with(func(e *Entry) { e.Type = Create }), 30), "(rule 6)"},
		{"rule 6: an UPDATE leaves a tombstone", log(with(func(e *Entry) { e.State = nil }), 30), "(rule 6)"},
		{"prev: too early", log(with(func(e *Entry) { e.Prev = 10 }), 30), "the mutation of its resource before it is 10, which is 11"},
		{"prev: left out", log(with(func(e *Entry) { e.Prev = -1 }), 30), "before it is -1, which is 11"},
		{"prev: of another resource", log(with(func(e *Entry) { e.Prev = 21 }), 30), "before it is 21, which is 11"},
		{"prev: in the same batch", log(third(valid, note(Delete, "b", "", "", 11, -1)), 30), "mutation 31: it says that the mutation of its resource before it is 11, which is 30"},
		{"rule 13: born too late", log(with(func(e *Entry) { e.Born = 30 }), 30), "mutation 30: it says that its resource lives since 30, which is 11 (rule 13)"},
		{"rule 13: born in an earlier life", log(third(note(Create, "a", `{}`, `{}`, 20, 10)), 30), "lives since 10, which is 30"},
		{"rule 13: a tombstone that lives", log(third(note(Delete, "b", "", "", 11, 11)), 30), "lives since 11, which is -1"},
		{"rule 13: a life without birth", log(with(func(e *Entry) { e.Born = -1 }), 30), "lives since -1, which is 11"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			store := mutlogtest.NewStore()
			for _, b := range test.log {
				if err := store.Update(t.Context(), alice, func(tx Tx) error { return tx.Append(b) }); err != nil {
					t.Fatal(err)
				}
			}
			problems := check(t, store)
			switch {
			case test.want == "" && problems != "":
				t.Errorf("got %s", problems)
			case test.want != "" && (!strings.Contains(problems, test.want) || !strings.Contains(problems, `user "alice"`)):
				t.Errorf("got %q, want %q", problems, test.want)
			}
		})
	}
}

// stamped returns b with timestamps from first.
func stamped(b *Batch, first Timestamp) *Batch {
	c := *b
	c.Entries = append([]Entry{}, b.Entries...)
	for i := range c.Entries {
		c.Entries[i].Timestamp = first + Timestamp(i)
	}
	return &c
}

// check returns what Check and CheckUser report, which must be the same.
func check(t *testing.T, store Store) string {
	t.Helper()
	var all, one []string
	if err := Check(t.Context(), store, func(problem string) { all = append(all, problem) }); err != nil {
		t.Fatal(err)
	}
	err := store.View(t.Context(), alice, func(tx Reader) error {
		return CheckUser(tx, alice, func(problem string) { one = append(one, problem) })
	})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(all, "\n") != strings.Join(one, "\n") {
		t.Errorf("Check reports %q, CheckUser %q", all, one)
	}
	return strings.Join(all, "\n")
}

// blind is a store that does not find what it holds.
type blind struct {
	Store
	hide func(Reader) Reader
}

func (s blind) View(ctx context.Context, user User, fn func(Reader) error) error {
	return s.Store.View(ctx, user, func(tx Reader) error { return fn(s.hide(tx)) })
}

type (
	noReceipts struct{ Reader }
	noBases    struct{ Reader }
	noResource struct{ Reader }
	highHead   struct{ Reader }
	structure  struct{ Store }
)

func (noReceipts) BatchByKey(string) (*Batch, error) { return nil, nil }
func (noBases) BatchesOn(Timestamp) iter.Seq2[*Batch, error] {
	return func(func(*Batch, error) bool) {}
}
func (noResource) Newest(r []Ref, _ Timestamp) ([]*Entry, error) { return make([]*Entry, len(r)), nil }
func (r highHead) Head() (Timestamp, error)                      { head, err := r.Reader.Head(); return head + 1, err }
func (structure) Check(_ context.Context, report func(string)) error {
	report("a page is lost")
	return nil
}

// What a log holds must also be found: by its key, its base, its resource.
func TestCheckFindsWhatIsNotFound(t *testing.T) {
	f := newFixture(t)
	f.must(Push{Base: f.head(), Key: "key", Mutations: []Mutation{create("a", `{}`)}})
	f.next(create("b", `{}`))
	tests := []struct {
		name string
		hide func(Reader) Reader
		want string
	}{
		{"receipts", func(r Reader) Reader { return noReceipts{r} }, "mutation 1731636500000: its batch would not be recognised"},
		{"bases", func(r Reader) Reader { return noBases{r} }, "mutation 1731636500001: its batch would not be recognised"},
		{"resources", func(r Reader) Reader { return noResource{r} }, "is not found as that"},
		{"the head", func(r Reader) Reader { return highHead{r} }, "it is the head, but the log ends with 1731636500001"},
	}
	for _, test := range tests {
		if problems := check(t, blind{f.store, test.hide}); !strings.Contains(problems, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, problems, test.want)
		}
	}
	if problems := ""; Check(t.Context(), structure{f.store}, func(p string) { problems += p }) != nil || problems != "a page is lost" {
		t.Errorf("structure: got %q", problems)
	}
}

// What keeps Check from going on is an error, and no clean bill.
func TestCheckErrors(t *testing.T) {
	f := newFixture(t)
	f.next(create("a", `{}`))
	broken := errors.New("broken")
	err := Check(t.Context(), failing{f.store, func() error { return broken }}, func(problem string) { t.Error(problem) })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}
