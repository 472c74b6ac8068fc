package mutlog_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	. "tidemark/mutlog"
)

// without is a schema: data must not have a member of this name.
type without string

func (name without) Validate(data []byte) []Violation {
	if !bytes.Contains(data, []byte(`"`+string(name)+`"`)) {
		return nil
	}
	return []Violation{{Path: "/" + string(name), Rule: "/not", Reason: "is not wanted"}}
}

var kinds = Kinds{
	"NOTE":   {Schema: without("bad")},
	"SECRET": {Scope: "secrets"},
	"SMALL":  {DataBytes: 10},
	"PLAIN":  {},
}

const unwanted = "data/bad: Invalid data/bad at mutation[%]: is not wanted (rule /not)"

func unwantedAt(index string) string { return strings.Replace(unwanted, "%", index, 1) }

// TestValidScope: a scope is a word that headers, claims and lists can hold
// (rule 23).
func TestValidScope(t *testing.T) {
	for scope, want := range map[string]bool{"sync": true, "https://id.example.com/notes.read+write?x=1": true, strings.Repeat("a", 255): true, "'": true,
		"": false, strings.Repeat("a", 256): false, "a b": false, "a,b": false, `a"`: false, `a\b`: false, "é": false, "a\n": false, "a\x7f": false} {
		if got := ValidScope(scope); got != want {
			t.Errorf("%q: %v", scope, got)
		}
	}
}

// TestKinds: only the kinds of a configuration may be pushed (rule 20).
func TestKinds(t *testing.T) {
	for body, want := range map[string]string{
		`{"type":"CREATE","resource":"PLAIN","data":{}}`:                       "",
		`{"type":"CREATE","resource":"OTHER","data":{}}`:                       `resource: Invalid resource: "OTHER" at mutation[0]`,
		`{"type":"DELETE","resource":"OTHER","resourceId":"a"}`:                `resource: Invalid resource: "OTHER" at mutation[0]`,
		`{"type":"CREATE","resource":"SMALL","data":{"a":"12345"}}`:            "data: Data must not exceed 10 bytes at mutation[0]",
		`{"type":"UPDATE","resource":"SMALL","resourceId":"a","data":{"a":1}}`: "",
	} {
		_, err := decode(kinds, body)
		switch {
		case err == nil && want == "":
		case err == nil:
			t.Errorf("%s: accepted", body)
		default:
			if diff := cmp.Diff([]string{want}, messages(t, err)); diff != "" {
				t.Errorf("%s: -want +got:\n%s", body, diff)
			}
		}
	}
	if _, err := DecodePush([]byte(`{"mutations":[{"type":"CREATE","resource":"SMALL","data":{"a":1}}]}`), Limits{Mutations: 1, DataBytes: 6}, access(kinds)); err == nil {
		t.Error("the bound of a kind goes beyond that of all")
	}
	f := newFixture(t)
	f.sent(kinds, `{"type":"CREATE","resource":"SMALL","resourceId":"a","data":{"a":1}}`)
	_, err := f.send(kinds, `{"type":"UPDATE","resource":"SMALL","resourceId":"a","data":{"b":2}}`)
	f.same([]string{"data: Data must not exceed 10 bytes at mutation[0]"}, messages(t, err))

	f.sent(nil, `{"type":"CREATE","resource":"OLD","resourceId":"a","data":{}}`)
	f.same([]string{
		`{"type":"CREATE","resource":"SMALL","resourceId":"a","data":{"a":1}}`,
		`{"type":"CREATE","resource":"OLD","resourceId":"a","data":{}}`, // stays readable
	}, f.pulled(Query{Since: Beginning, Access: access(kinds)}))
}

// TestSchema: the data after each mutation is judged, every fault is told, and
// nothing of the push is applied (rule 22).
func TestSchema(t *testing.T) {
	f := newFixture(t)
	f.sent(kinds, `{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{"good":1}}`)
	before := f.history()
	_, err := f.send(kinds,
		`{"type":"UPDATE","resource":"NOTE","resourceId":"a","data":{"bad":1}}`,
		`{"type":"UPDATE","resource":"NOTE","resourceId":"a","data":{"worse":1}}`,
		`{"type":"UPDATE","resource":"NOTE","resourceId":"a","data":{"bad":null}}`,
		`{"type":"CREATE","resource":"NOTE","data":{"bad":1}}`,
		`{"type":"CREATE","resource":"PLAIN","data":{"bad":1}}`,
		`{"type":"DELETE","resource":"NOTE","resourceId":"a","data":{"bad":1}}`)
	f.same([]string{unwantedAt("0"), unwantedAt("1"), unwantedAt("3")}, messages(t, err))
	f.unchanged(before)
	f.sent(kinds, `{"type":"UPDATE","resource":"NOTE","resourceId":"a","data":{"bad":null,"x":{"y":null}}}`)
}

// TestSchemaAndOtherFaults: they are told together, in the order of the push.
func TestSchemaAndOtherFaults(t *testing.T) {
	_, err := decode(kinds,
		`{"type":"CREATE","resource":"NOTE","data":{"bad":1}}`,
		`{"type":"CREATE","resource":"NOTE"}`,
		`{"type":"CREATE","resource":"NOTE","data":{"bad":2}}`,
		`{"type":"UPDATE","resource":"NOTE","data":{"bad":2}}`)
	want := []string{unwantedAt("0"), "data: Missing data at mutation[1]", unwantedAt("2"), "resourceId: Missing resourceId at mutation[3]"}
	if diff := cmp.Diff(want, messages(t, err)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestSchemaBeforeCursor: what is wrong with a CREATE no pull will mend, so that
// it is told whatever the cursor; what an UPDATE makes is known on the head only
// (rule 22).
func TestSchemaBeforeCursor(t *testing.T) {
	f := newFixture(t)
	f.sent(kinds, `{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{}}`)
	mutations, err := decode(kinds, `{"type":"UPDATE","resource":"NOTE","resourceId":"a","data":{"bad":1}}`,
		`{"type":"CREATE","resource":"NOTE","data":{"bad":1}}`)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.try(Push{Base: Beginning, Mutations: mutations, Access: access(kinds)})
	f.same([]string{unwantedAt("1")}, messages(t, err))
	f.refuse(Push{Base: Beginning, Mutations: mutations[:1], Access: access(kinds)})
}

// TestSchemaChanged: a push that was applied is answered again, and what is
// there is given, under a schema that refuses both (rule 22).
func TestSchemaChanged(t *testing.T) {
	f := newFixture(t)
	const create = `{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{"bad":1}}`
	f.sent(nil, create)
	mutations, err := decode(kinds, create)
	if err != nil {
		t.Fatal(err)
	}
	if again := f.must(Push{Base: Beginning, Mutations: mutations, Access: access(kinds)}); !again.Replayed {
		t.Error("not recognised")
	}
	f.same([]string{create}, f.pulled(Query{Since: Beginning, Access: access(kinds)}))
	f.sent(kinds, `{"type":"DELETE","resource":"NOTE","resourceId":"a"}`)
}

// TestScopes: nothing that a device gets is of a kind that is out of its scopes,
// and its cursor moves on all the same (rule 23).
func TestScopes(t *testing.T) {
	f := newFixture(t)
	outside := kinds.Access(func(string) bool { return false })
	note := `{"type":"CREATE","resource":"NOTE","resourceId":"n","data":{}}`
	base := f.sent(kinds, note).Head
	f.sent(kinds,
		`{"type":"CREATE","resource":"SECRET","resourceId":"s","data":{"pin":1}}`,
		`{"type":"CREATE","resource":"SECRET","resourceId":"t","data":{"pin":2}}`,
		`{"type":"CREATE","resource":"PLAIN","resourceId":"p","data":{}}`,
		`{"type":"UPDATE","resource":"SECRET","resourceId":"s","data":{"pin":3}}`,
		`{"type":"DELETE","resource":"SECRET","resourceId":"t"}`)
	plain := `{"type":"CREATE","resource":"PLAIN","resourceId":"p","data":{}}`
	for _, q := range []Query{{Since: Beginning}, {Since: 0}, {Since: Beginning, History: true}, {Since: 0, Limit: 2}, {Since: 0, Limit: 2, Page: 1}} {
		q.Access = outside
		f.same([]string{note, plain}, f.pulled(q))
	}
	changes, err := f.Pull(t.Context(), alice, Query{Since: 0, Limit: 2, Page: 1, Access: outside})
	if err != nil {
		t.Fatal(err)
	}
	wire(t, changes)
	if changes.Head != f.head() || changes.HasMore || changes.Total != 2 {
		t.Errorf("got %+v", changes)
	}

	for _, mutation := range []string{
		`{"type":"CREATE","resource":"SECRET","data":{}}`,
		`{"type":"UPDATE","resource":"SECRET","resourceId":"s"}`, // the scope is told before other faults
		`{"type":"DELETE","resource":"SECRET","resourceId":"none"}`,
	} {
		_, err := DecodePush([]byte(`{"mutations":[`+note+`,`+mutation+`],"x":1}`), DefaultLimits, outside)
		var refused *ScopeError
		if !errors.As(err, &refused) || *refused != (ScopeError{Index: 1, Resource: "SECRET", Scope: "secrets"}) {
			t.Errorf("%s: got %v", mutation, err)
		}
	}
	if _, err := DecodePush([]byte(`{"mutations":[{"type":"CREATE","resource":"SECRET","data":{}}`), DefaultLimits, outside); err == nil || errors.As(err, new(*ScopeError)) {
		t.Errorf("half a body: got %v", err)
	}

	mutations, err := decode(kinds, `{"type":"CREATE","resource":"NOTE","resourceId":"m","data":{}}`)
	if err != nil {
		t.Fatal(err)
	}
	push := Push{Base: base, Mutations: mutations, Merge: true, Access: outside}
	f.same([]string{plain}, wire(t, f.must(push).Changes))
	f.same([]string{plain}, wire(t, f.must(push).Changes)) // replayed
	push = Push{Base: base, Mutations: mutations, Access: access(kinds)}
	if got := wire(t, f.must(push).Changes); len(got) != 3 {
		t.Errorf("with all scopes: got %v", got)
	}
}

// TestMostJudged: what a schema may be compared with is known before a push.
func TestMostJudged(t *testing.T) {
	kinds := Kinds{"NOTE": {Schema: without("bad")}, "SMALL": {Schema: without("bad"), DataBytes: 50}, "PLAIN": {}}
	for mutation, want := range map[string]int{
		`{"type":"CREATE","resource":"PLAIN","data":{"a":12345}}`:              0,
		`{"type":"UPDATE","resource":"PLAIN","resourceId":"a","data":{"a":1}}`: 0,
		`{"type":"CREATE","resource":"NOTE","data":{"a":12345}}`:               11,
		`{"type":"UPDATE","resource":"NOTE","resourceId":"a","data":{"a":1}}`:  DefaultLimits.DataBytes,
		`{"type":"UPDATE","resource":"SMALL","resourceId":"a","data":{"a":1}}`: 50,
	} {
		mutations, err := decode(kinds, mutation, `{"type":"CREATE","resource":"PLAIN","data":{"a":"much longer than the others"}}`)
		if err != nil {
			t.Fatal(err)
		}
		if got := kinds.MostJudged(mutations, DefaultLimits); got != want {
			t.Errorf("%s: got %d, want %d", mutation, got, want)
		}
	}
	if !kinds.Judge() || (Kinds{"PLAIN": {}}).Judge() || Kinds(nil).Judge() {
		t.Error("Judge tells something else")
	}
}
