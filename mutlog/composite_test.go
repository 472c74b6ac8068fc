package mutlog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	. "tidemark/mutlog"
)

// links is a composite kind, whose key is two members.
var links = Kinds{"LINK": {Key: []string{"from", "to"}}, "NOTE": {}}

// access is what a device may do that has all scopes.
func access(k Kinds) Access { return k.Access(func(string) bool { return true }) }

// decode reads mutations as a server does, each a JSON object.
func decode(kinds Kinds, mutations ...string) ([]Mutation, error) {
	return DecodePush([]byte(`{"mutations":[`+strings.Join(mutations, ",")+`]}`), DefaultLimits, access(kinds))
}

// send pushes mutations on the head.
func (f *fixture) send(kinds Kinds, mutations ...string) (*Pushed, error) {
	f.t.Helper()
	decoded, err := decode(kinds, mutations...)
	if err != nil {
		return nil, err
	}
	return f.try(Push{Base: f.head(), Mutations: decoded, Access: access(kinds)})
}

// sent pushes what has to succeed.
func (f *fixture) sent(kinds Kinds, mutations ...string) *Pushed {
	f.t.Helper()
	pushed, err := f.send(kinds, mutations...)
	if err != nil {
		f.t.Fatal(err)
	}
	return pushed
}

// pulled returns what a pull gives, as it stands on the wire without timestamps.
func (f *fixture) pulled(q Query) []string {
	f.t.Helper()
	changes, err := f.Pull(context.Background(), alice, q)
	if err != nil {
		f.t.Fatal(err)
	}
	return wire(f.t, changes)
}

func wire(t *testing.T, changes *Changes) []string {
	t.Helper()
	lines := []string{}
	for mutations, err := range changes.All(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, wireOf(mutations)...)
	}
	return lines
}

func wireOf(mutations []Mutation) []string {
	lines := []string{}
	for _, m := range mutations {
		m.Timestamp = 0
		lines = append(lines, string(m.AppendJSON(nil)))
	}
	return lines
}

// messages returns what a refusal says, each fault as "member: message".
func messages(t *testing.T, err error) []string {
	t.Helper()
	var invalid *ValidationError
	if !errors.As(err, &invalid) {
		t.Fatalf("got %v, want a ValidationError", err)
	}
	list := []string{}
	for _, fault := range invalid.Faults {
		list = append(list, fault.Member+": "+fault.Message)
	}
	return list
}

// TestComposite is the life of a composite resource (rule 21).
func TestComposite(t *testing.T) {
	f := newFixture(t)
	pushed := f.sent(links,
		`{"type":"CREATE","resource":"LINK","data":{"to":2,"from":"a","x":1}}`,
		`{"type":"CREATE","resource":"LINK","resourceId":"a-3","data":{"from":"a","to":"3"}}`)
	created := pushed.Head
	f.same([]string{
		`{"type":"CREATE","resource":"LINK","resourceId":"a-2","data":{"to":2,"from":"a","x":1}}`,
		`{"type":"CREATE","resource":"LINK","resourceId":"a-3","data":{"from":"a","to":"3"}}`,
	}, wireOf(pushed.Mutations))

	pushed = f.sent(links,
		`{"type":"UPDATE","resource":"LINK","data":{"from":"\u0061","to":2,"x":null,"y":[1.50]}}`,
		`{"type":"UPDATE","resource":"LINK","resourceId":"a-2","data":{"z":0}}`,
		`{"type":"DELETE","resource":"LINK","data":{"to":"3","from":"a","because":"no"}}`)
	f.same([]string{
		`{"type":"UPDATE","resource":"LINK","resourceId":"a-2","data":{"to":2,"from":"\u0061","y":[1.50]}}`,
		`{"type":"UPDATE","resource":"LINK","resourceId":"a-2","data":{"to":2,"from":"\u0061","y":[1.50],"z":0}}`,
		`{"type":"DELETE","resource":"LINK","resourceId":"a-3","data":{"from":"a","to":"3"}}`,
	}, wireOf(pushed.Mutations))

	access := access(links)
	f.same([]string{
		`{"type":"UPDATE","resource":"LINK","data":{"to":2,"from":"\u0061","y":[1.50],"z":0}}`,
		`{"type":"DELETE","resource":"LINK","data":{"from":"a","to":"3"}}`,
	}, f.pulled(Query{Since: created, Access: access}))
	f.same([]string{
		`{"type":"CREATE","resource":"LINK","data":{"to":2,"from":"\u0061","y":[1.50],"z":0}}`,
	}, f.pulled(Query{Since: Beginning, Access: access}))
	f.same([]string{
		`{"type":"CREATE","resource":"LINK","data":{"to":2,"from":"a","x":1}}`,
		`{"type":"CREATE","resource":"LINK","data":{"from":"a","to":"3"}}`,
		`{"type":"UPDATE","resource":"LINK","data":{"from":"\u0061","to":2,"x":null,"y":[1.50]}}`,
		`{"type":"UPDATE","resource":"LINK","resourceId":"a-2","data":{"z":0}}`, // names it in no other way
		`{"type":"DELETE","resource":"LINK","data":{"to":"3","from":"a","because":"no"}}`,
	}, f.pulled(Query{Since: Beginning, History: true, Access: access}))
}

// TestCompositeSentBack: what a pull or the answer to a push gives can be
// pushed, and changes nothing that a pull tells (rule 21).
func TestCompositeSentBack(t *testing.T) {
	f := newFixture(t)
	answered := f.sent(links,
		`{"type":"CREATE","resource":"LINK","data":{"from":"a","to":1}}`,
		`{"type":"UPDATE","resource":"LINK","data":{"from":"a","to":1,"x":1}}`,
		`{"type":"CREATE","resource":"LINK","data":{"from":"b","to":1}}`,
		`{"type":"DELETE","resource":"LINK","data":{"from":"b","to":1}}`)
	all := Query{Since: 0, Access: access(links)}
	want := f.pulled(all)
	f.sent(links, want...)
	f.same(want, f.pulled(all))
	f.sent(links, wireOf(answered.Mutations)...)
	f.same(want, f.pulled(all))
}

// TestCompositeRefused is what rule 21 refuses before it looks at the log.
func TestCompositeRefused(t *testing.T) {
	const why = ": a key is a string that is not empty, or an integer"
	long := strings.Repeat("x", 64)
	tests := []struct {
		mutation string
		want     []string
	}{
		{`{"type":"CREATE","resource":"LINK","data":{}}`, []string{"data/from: Missing data/from at mutation[0]", "data/to: Missing data/to at mutation[0]"}},
		{`{"type":"CREATE","resource":"LINK","resourceId":"a-b","data":{"from":"a"}}`, []string{"data/to: Missing data/to at mutation[0]"}},
		{`{"type":"UPDATE","resource":"LINK","data":{"to":"b"}}`, []string{"data/from: Missing data/from at mutation[0]"}},
		{`{"type":"UPDATE","resource":"LINK"}`, []string{"data: Missing data at mutation[0]"}},
		{`{"type":"DELETE","resource":"LINK"}`, []string{"data/from: Missing data/from at mutation[0]", "data/to: Missing data/to at mutation[0]"}},
		{`{"type":"DELETE","resource":"LINK","data":[]}`, []string{"data: Invalid data at mutation[0]"}},
		{`{"type":"UPDATE","resource":"LINK","data":{"from":"a","to":null}}`, []string{"data/to: Invalid data/to at mutation[0]" + why}},
		{`{"type":"UPDATE","resource":"LINK","resourceId":"a-b","data":{"to":null}}`, []string{"data/to: Invalid data/to at mutation[0]" + why}},
		{`{"type":"CREATE","resource":"LINK","data":{"from":"","to":true}}`, []string{"data/from: Invalid data/from at mutation[0]" + why, "data/to: Invalid data/to at mutation[0]" + why}},
		{`{"type":"CREATE","resource":"LINK","data":{"from":"a","to":1.0}}`, []string{"data/to: Invalid data/to at mutation[0]" + why}},
		{`{"type":"CREATE","resource":"LINK","data":{"from":"a","to":1e0}}`, []string{"data/to: Invalid data/to at mutation[0]" + why}},
		{`{"type":"CREATE","resource":"LINK","data":{"from":"a","to":-0}}`, []string{"data/to: Invalid data/to at mutation[0]" + why}},
		{`{"type":"CREATE","resource":"LINK","data":{"from":{},"to":[]}}`, []string{"data/from: Invalid data/from at mutation[0]" + why, "data/to: Invalid data/to at mutation[0]" + why}},
		{`{"type":"CREATE","resource":"LINK","data":{"from":"` + long + `","to":"` + long + `"}}`, []string{"resourceId: Invalid resourceId at mutation[0]"}},
		{`{"type":"CREATE","resource":"LINK","data":{"from":"a\n","to":"b"}}`, []string{"resourceId: Invalid resourceId at mutation[0]"}},
		{`{"type":"CREATE","resource":"LINK","resourceId":"b-a","data":{"from":"a","to":"b"}}`, []string{"resourceId: Invalid resourceId at mutation[0]"}},
		{`{"type":"DELETE","resource":"LINK","resourceId":"b-a","data":{"from":"a","to":"b"}}`, []string{"resourceId: Invalid resourceId at mutation[0]"}},
		{`{"type":"UPDATE","resource":"NOTE","data":{}}`, []string{"resourceId: Missing resourceId at mutation[0]"}},
	}
	for _, test := range tests {
		_, err := decode(links, test.mutation)
		if err == nil {
			t.Errorf("%s: accepted", test.mutation)
			continue
		}
		if diff := cmp.Diff(test.want, messages(t, err)); diff != "" {
			t.Errorf("%s: -want +got:\n%s", test.mutation, diff)
		}
	}
}

// TestCompositeAmbiguous: other values that make the same identifier never take
// the place of the first (rule 21).
func TestCompositeAmbiguous(t *testing.T) {
	const refused = "resourceId: Invalid resourceId at mutation[0]: other values of from, to make the same"
	for _, deleted := range []bool{false, true} {
		f := newFixture(t)
		f.sent(links, `{"type":"CREATE","resource":"LINK","data":{"from":"a-b","to":"c"}}`)
		if deleted {
			f.sent(links, `{"type":"DELETE","resource":"LINK","data":{"from":"a-b","to":"c"}}`)
		}
		before := f.history()
		for _, kind := range []string{"CREATE", "UPDATE", "DELETE"} {
			_, err := f.send(links, `{"type":"`+kind+`","resource":"LINK","data":{"from":"a","to":"b-c"}}`)
			f.same([]string{refused}, messages(t, err))
			f.unchanged(before)
		}
		f.sent(links, `{"type":"UPDATE","resource":"LINK","data":{"from":"a\u002db","to":"c"}}`) // the same values
	}
	f := newFixture(t)
	_, err := f.send(links, `{"type":"CREATE","resource":"LINK","data":{"from":"a","to":1}}`,
		`{"type":"CREATE","resource":"LINK","data":{"from":"a","to":"1"}}`)
	f.same([]string{strings.Replace(refused, "[0]", "[1]", 1)}, messages(t, err))
}

// TestCompositeState: the data after an UPDATE that names its resource by
// resourceId must have the key (rule 21).
func TestCompositeState(t *testing.T) {
	f := newFixture(t)
	_, err := f.send(links, `{"type":"UPDATE","resource":"LINK","resourceId":"a-b","data":{"to":"b"}}`)
	f.same([]string{"data/from: Missing data/from at mutation[0]"}, messages(t, err))
	f.sent(links, `{"type":"CREATE","resource":"LINK","data":{"from":"a","to":"b"}}`)
	f.sent(links, `{"type":"UPDATE","resource":"LINK","resourceId":"a-b","data":{"to":"b"}}`)
	_, err = f.send(links, `{"type":"UPDATE","resource":"LINK","resourceId":"a-b","data":{"to":"c"}}`)
	f.same([]string{"resourceId: Invalid resourceId at mutation[0]"}, messages(t, err))
	_, err = f.send(links, `{"type":"DELETE","resource":"LINK","resourceId":"a-b"}`)
	f.same([]string{"data/from: Missing data/from at mutation[0]", "data/to: Missing data/to at mutation[0]"}, messages(t, err))
}

// TestCompositeLater: what is there when its kind becomes composite stays under
// its resourceId, by which it can be deleted (rule 21).
func TestCompositeLater(t *testing.T) {
	f := newFixture(t)
	f.sent(nil, `{"type":"CREATE","resource":"LINK","resourceId":"old","data":{"from":"a","to":"b"}}`,
		`{"type":"CREATE","resource":"LINK","resourceId":"c-d","data":{"from":"c","to":"d"}}`,
		`{"type":"DELETE","resource":"LINK","resourceId":"gone"}`)
	all := Query{Since: 0, Access: access(links)}
	f.same([]string{
		`{"type":"CREATE","resource":"LINK","resourceId":"old","data":{"from":"a","to":"b"}}`,
		`{"type":"CREATE","resource":"LINK","data":{"from":"c","to":"d"}}`,
		`{"type":"DELETE","resource":"LINK","resourceId":"gone"}`,
	}, f.pulled(all))
	_, err := f.send(links, `{"type":"UPDATE","resource":"LINK","resourceId":"old","data":{"x":1}}`)
	f.same([]string{"resourceId: Invalid resourceId at mutation[0]"}, messages(t, err))
	f.sent(links, `{"type":"DELETE","resource":"LINK","resourceId":"old"}`,
		`{"type":"CREATE","resource":"LINK","data":{"from":"a","to":"b"}}`)
	f.same([]string{
		`{"type":"CREATE","resource":"LINK","data":{"from":"c","to":"d"}}`,
		`{"type":"DELETE","resource":"LINK","resourceId":"gone"}`,
		`{"type":"DELETE","resource":"LINK","resourceId":"old"}`,
		`{"type":"CREATE","resource":"LINK","data":{"from":"a","to":"b"}}`,
	}, f.pulled(all))
}

// TestCompositeReplay: a repeat of a composite push is that push again, with
// and without the resourceId (rules 10 and 21).
func TestCompositeReplay(t *testing.T) {
	f := newFixture(t)
	first := f.sent(links, `{"type":"CREATE","resource":"LINK","data":{"from":"a","to":"b"}}`)
	for _, again := range []string{
		`{"type":"CREATE","resource":"LINK","data":{"to":"b","from":"a"}}`,
		`{"type":"CREATE","resource":"LINK","resourceId":"a-b","data":{"from":"a","to":"b"}}`,
	} {
		mutations, err := decode(links, again)
		if err != nil {
			t.Fatal(err)
		}
		got := f.must(Push{Base: Beginning, Mutations: mutations, Access: access(links)})
		if !got.Replayed || got.Head != first.Head {
			t.Errorf("%s: got %+v", again, got)
		}
		f.same(wireOf(first.Mutations), wireOf(got.Mutations))
	}
}

// TestCompositeConflict: a refusal names the resource, and a merged push tells
// what was missed as a pull does (rules 12 and 21).
func TestCompositeConflict(t *testing.T) {
	f := newFixture(t)
	base := f.sent(links, `{"type":"CREATE","resource":"LINK","data":{"from":"a","to":"b"}}`).Head
	f.sent(links, `{"type":"DELETE","resource":"LINK","data":{"from":"a","to":"b"}}`)
	stale, err := decode(links, `{"type":"UPDATE","resource":"LINK","data":{"from":"a","to":"b","x":1}}`,
		`{"type":"DELETE","resource":"LINK","data":{"from":"a","to":"b"}}`)
	if err != nil {
		t.Fatal(err)
	}
	conflicts := f.refuse(Push{Base: base, Mutations: stale, Access: access(links)}).Conflicts
	if len(conflicts) != 2 || conflicts[0].Client.ResourceID != "a-b" {
		t.Fatalf("got %+v", conflicts)
	}
	f.same(`{"from":"a","to":"b"}`, string(conflicts[0].Server.Data))
	f.same([]string{"x"}, conflicts[0].Fields) // a tombstone has the key, too
	f.same([]string{}, conflicts[1].Fields)    // deleted on both sides

	other, err := decode(links, `{"type":"CREATE","resource":"LINK","data":{"from":"c","to":"d"}}`)
	if err != nil {
		t.Fatal(err)
	}
	merged := f.must(Push{Base: base, Mutations: other, Merge: true, Access: access(links)})
	f.same([]string{`{"type":"DELETE","resource":"LINK","data":{"from":"a","to":"b"}}`}, wire(t, merged.Changes))
	f.same([]string{`{"type":"CREATE","resource":"LINK","resourceId":"c-d","data":{"from":"c","to":"d"}}`}, wireOf(merged.Mutations))

	f.sent(links, `{"type":"CREATE","resource":"LINK","data":{"from":"a","to":"b","y":1}}`)
	conflicts = f.refuse(Push{Base: base, Mutations: stale[1:], Client: "other", Access: access(links)}).Conflicts
	f.same([]string{"y"}, conflicts[0].Fields) // what is deleted keeps its key
}

// FuzzComposite: whatever two keys are, they get identifiers that are valid and
// hold the values, the data keeps its bytes, and the second does not take the
// place of the first unless it is the same key (rule 21).
func FuzzComposite(f *testing.F) {
	f.Add(`"a-b"`, `"c"`, `"a"`, `"b-c"`)
	f.Add(`1`, `"1"`, `"1"`, `1`)
	f.Add(`-1`, `0`, `"-1"`, `"\u0030"`)
	f.Add(`"é"`, `123456789012345678901234567890`, `"\u00e9"`, `""`)
	f.Fuzz(func(t *testing.T, from1, to1, from2, to2 string) {
		mutation := func(from, to string) string {
			return fmt.Sprintf(`{"type":"CREATE","resource":"LINK","data":{"from":%s,"x":{"to":0},"to":%s}}`, from, to)
		}
		fx := newFixture(t)
		first, err := fx.send(links, mutation(from1, to1))
		if err != nil {
			return
		}
		got := first.Mutations[0]
		if !ValidResourceID(got.ResourceID) || !bytes.Contains([]byte(mutation(from1, to1)), got.Data) {
			t.Fatalf("%q, data %s", got.ResourceID, got.Data)
		}
		a, b := plain(t, from1), plain(t, to1)
		if got.ResourceID != a+"-"+b {
			t.Fatalf("%s and %s make %q", from1, to1, got.ResourceID)
		}
		second, err := fx.send(links, mutation(from2, to2))
		if err != nil || second.Mutations[0].ResourceID != got.ResourceID {
			return
		}
		if a != plain(t, from2) || b != plain(t, to2) || (from1[0] == '"') != (from2[0] == '"') || (to1[0] == '"') != (to2[0] == '"') {
			t.Fatalf("%s and %s took the place of %s and %s", from2, to2, from1, to1)
		}
	})
}

// plain returns the text that a JSON string or number stands for.
func plain(t *testing.T, raw string) string {
	d := json.NewDecoder(strings.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Skip("several values") // "1, y: 2" is more than a value
	}
	return fmt.Sprint(v)
}
