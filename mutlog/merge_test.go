package mutlog

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// Rule 6: the examples of RFC 7396, appendix A, whose patch is an object; the
// targets that are no objects stand for a member here.
func TestMergePatchRFC(t *testing.T) {
	tests := []struct{ target, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"m":["a","b"]}`, `{"m":["c","d"]}`, `{"m":["c","d"]}`},
		{`{"m":{"a":"b"}}`, `{"m":["c"]}`, `{"m":["c"]}`},
		{`{"m":{"a":"foo"}}`, `{"m":null}`, `{}`},
		{`{"m":{"a":"foo"}}`, `{"m":"bar"}`, `{"m":"bar"}`},
		{`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
		{`{"m":[1,2]}`, `{"m":{"a":"b","c":null}}`, `{"m":{"a":"b"}}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	}
	for _, test := range tests {
		if got := MergePatch([]byte(test.target), []byte(test.patch)); string(got) != test.want {
			t.Errorf("%s with %s: got %s, want %s", test.target, test.patch, got, test.want)
		}
	}
}

// Rules 5 and 6: a merge keeps the order of members and the text of names and
// values that it does not replace, and compares names by what they mean.
func TestMergePatchKeepsText(t *testing.T) {
	tests := []struct{ name, target, patch, want string }{
		{"missing or deleted", ``, `{"a":1,"b":null,"c":{"d":null}}`, `{"a":1,"c":{}}`},
		{"order", `{"z":1,"a":2,"m":3}`, `{"a":0,"b":4,"z":9}`, `{"z":9,"a":0,"m":3,"b":4}`},
		{"order after a removal", `{"z":1,"a":2,"m":3}`, `{"a":null,"n":5}`, `{"z":1,"m":3,"n":5}`},
		{"removed and not added again", `{"a":1}`, `{"b":null}`, `{"a":1}`},
		{"numbers", `{"n":1731636500303123456789.10,"o":1e2}`, `{"p":-0.0,"q":9007199254740993}`,
			`{"n":1731636500303123456789.10,"o":1e2,"p":-0.0,"q":9007199254740993}`},
		{"strings", `{"s":"\u00e9\/é"}`, `{"t":"\ud83d\ude00"}`, `{"s":"\u00e9\/é","t":"\ud83d\ude00"}`},
		{"escaped name in the patch", `{"é":1,"b":2}`, `{"\u00e9":3}`, `{"é":3,"b":2}`},
		{"escaped name in the target", `{"\u0061":1}`, `{"a":2}`, `{"\u0061":2}`},
		{"both escaped otherwise", `{"\n":1}`, `{"\u000a":null}`, `{}`},
		{"name that only looks escaped", `{"\\u0061":1}`, `{"a":2}`, `{"\\u0061":1,"a":2}`},
		{"white space", "{ \"a\" : [ 1 , 2 ] ,\n\"b\":{ } }", ` { "c" : { "d" : 1 } } `, `{"a":[ 1 , 2 ],"b":{ },"c":{"d":1}}`},
		{"nulls inside arrays stay", `{}`, `{"a":[null,{"b":null}]}`, `{"a":[null,{"b":null}]}`},
		{"strings that look like JSON", `{"a":"{\"b\":1}"}`, `{"c":"null"}`, `{"a":"{\"b\":1}","c":"null"}`},
		{"names of JavaScript", `{"__proto__":1}`, `{"constructor":{"x":1},"__proto__":null}`, `{"constructor":{"x":1}}`},
		{"empty name", `{"":1}`, `{"":{"":2}}`, `{"":{"":2}}`},
	}
	for _, test := range tests {
		var target []byte
		if test.target != "" {
			target = []byte(test.target)
		}
		if got := MergePatch(target, []byte(test.patch)); string(got) != test.want {
			t.Errorf("%s:\n got %s\nwant %s", test.name, got, test.want)
		}
	}
}

// The result shares no bytes with what it was made of, which stays as it was.
func TestMergePatchSharesNothing(t *testing.T) {
	target, patch := []byte(`{"a":{"b":1},"c":2}`), []byte(`{"a":{"d":{"e":1}},"c":null,"f":"g"}`)
	got := MergePatch(target, patch)
	if string(target) != `{"a":{"b":1},"c":2}` || string(patch) != `{"a":{"d":{"e":1}},"c":null,"f":"g"}` {
		t.Errorf("changed its arguments: %s, %s", target, patch)
	}
	clear(target)
	clear(patch)
	if want := `{"a":{"b":1,"d":{"e":1}},"f":"g"}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Objects of many members do not make the merge take for ever: a push of a few
// kilobytes must not cost seconds.
func TestMergePatchManyMembers(t *testing.T) {
	object := func(escape string, value int) []byte {
		b := []byte{'{'}
		for i := range 5000 {
			b = fmt.Appendf(b, `"%s%d":%d,`, escape, i, value)
		}
		return append(bytes.TrimSuffix(b, []byte(",")), '}')
	}
	start := time.Now()
	got := MergePatch(object("é", 1), object(`\u00e9`, 2))
	differences(nil, &Mutation{Type: Update, Data: got}, &Entry{State: object(`\u00e9`, 3)})
	if want := object("é", 2); !bytes.Equal(got, want) {
		t.Error("got something else")
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("it took %v", d)
	}
}

func TestEqualJSON(t *testing.T) {
	tests := []struct {
		a, b string // "" is no data
		want bool
	}{
		{``, ``, true},
		{``, `{}`, false},
		{`{}`, ``, false},
		{`{}`, `{ }`, true},
		{`{"a":1,"b":[true,null]}`, "{\n\"b\": [true, null], \"a\": 1}", true},
		{`{"a":{"x":1,"y":2}}`, `{"a":{"y":2,"x":1}}`, true},
		{`{"a":"\u00e9\/"}`, `{"a":"é/"}`, true},
		{`{"\u0061":1}`, `{"a":1}`, true},
		{`{"a":[1,2]}`, `{"a":[2,1]}`, false},
		{`{"a":1}`, `{"a":"1"}`, false},
		{`{"a":1}`, `{"a":1.0}`, false}, // the text of numbers matters
		{`{"a":100}`, `{"a":1e2}`, false},
		{`{"a":9007199254740993}`, `{"a":9007199254740992}`, false},
		{`{"a":9007199254740993}`, `{ "a":9007199254740993}`, true},
		{`{"a":1.7976931348623157e309}`, `{ "a":1.7976931348623157e309}`, true},
		{`{"a":null}`, `{}`, false},
		{`{"a":false}`, `{"a":null}`, false},
		{`{"a":"` + strings.Repeat("x", 70_000) + `"}`, `{"a": "` + strings.Repeat("x", 70_000) + `"}`, true},
	}
	for _, test := range tests {
		var a, b []byte
		if test.a != "" {
			a = []byte(test.a)
		}
		if test.b != "" {
			b = []byte(test.b)
		}
		if got := equalJSON(a, b); got != test.want {
			t.Errorf("%.60s and %.60s: got %v", test.a, test.b, got)
		}
		if string(a) != test.a || string(b) != test.b {
			t.Errorf("%.60s and %.60s were changed", test.a, test.b)
		}
	}
}
