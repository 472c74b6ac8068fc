package mutlog

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

// Rule 5.
func TestValidResource(t *testing.T) {
	valid := []string{"A", "NOTE", "BOOKMARK_2", "A_", "Z9", strings.Repeat("A", 64)}
	invalid := []string{"", "note", "Note", "_A", "9A", "A-B", "A B", "A\n", "É", "A\x00", strings.Repeat("A", 65)}
	for _, s := range valid {
		if !ValidResource(s) {
			t.Errorf("%q is not valid", s)
		}
	}
	for _, s := range invalid {
		if ValidResource(s) {
			t.Errorf("%q is valid", s)
		}
	}
}

// Rule 5.
func TestValidResourceID(t *testing.T) {
	valid := []string{"a", "0", "01JBX", "a b", "ä/ö:#%\"\\", "日本", "😀", strings.Repeat("x", 128), strings.Repeat("é", 64)}
	invalid := []string{"", "\x00", "a\nb", "\x7f", "\u0085", "\u200e", "\u202e", "\ufeff", "\u2028", "\ue000", "\xff", "\xed\xa0\x80",
		strings.Repeat("x", 129), strings.Repeat("é", 65)}
	for _, s := range valid {
		if !ValidResourceID(s) {
			t.Errorf("%q is not valid", s)
		}
	}
	for _, s := range invalid {
		if ValidResourceID(s) {
			t.Errorf("%q is valid", s)
		}
	}
}

// The JSON of a mutation is the wire shape.
func TestMutationJSON(t *testing.T) {
	tests := []struct {
		m    Mutation
		want string
	}{
		{Mutation{Create, "NOTE", "a", []byte(`{"n": 1.50}`), 7},
			`{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{"n": 1.50},"timestamp":7}`},
		{Mutation{Delete, "NOTE", "a", nil, 1731636500303},
			`{"type":"DELETE","resource":"NOTE","resourceId":"a","timestamp":1731636500303}`},
		{Mutation{Type: Create, Resource: "NOTE", Data: []byte(`{}`)},
			`{"type":"CREATE","resource":"NOTE","data":{}}`},
		{Mutation{Delete, "NOTE", "\"\\é😀\u00a0", nil, 1},
			"{\"type\":\"DELETE\",\"resource\":\"NOTE\",\"resourceId\":\"\\\"\\\\é😀\u00a0\",\"timestamp\":1}"},
	}
	for _, test := range tests {
		got := test.m.AppendJSON([]byte("before "))
		if diff := cmp.Diff("before "+test.want, string(got)); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

// Whatever a string holds, quoting it gives a JSON string of the same value.
func TestAppendQuoted(t *testing.T) {
	for _, s := range []string{"", "a", `"`, `\`, "\n\t\x00\x1f\x7f", "é\u2028😀", "</script>"} {
		var back string
		if err := json.Unmarshal(AppendQuoted(nil, s), &back); err != nil || back != s {
			t.Errorf("%q: got %q, %v", s, back, err)
		}
	}
	for c := range 128 { // each byte at each place of the eight that are looked at together, and behind them
		for at := range 19 {
			s := strings.Repeat("x", at) + string(rune(c)) + strings.Repeat("y", 18-at)
			want, err := jsontext.AppendQuote(nil, s)
			if got := AppendQuoted(nil, s); err != nil || string(got) != string(want) {
				t.Fatalf("%q: got %s, want %s, %v", s, got, want, err)
			}
		}
	}
}

// A client reads what the server writes, and nothing that is wrong.
func TestMutationUnmarshalJSON(t *testing.T) {
	valid := map[string]Mutation{
		`{"type":"CREATE","resource":"NOTE","resourceId":"\u00e9","data":{ "n": 1.50 },"timestamp":7}`:  {Create, "NOTE", "é", []byte(`{ "n": 1.50 }`), 7},
		`{"timestamp":9007199254740991,"type":"DELETE","resource":"NOTE","resourceId":"a","later":[1]}`: {Delete, "NOTE", "a", nil, MaxTimestamp},
	}
	for s, want := range valid {
		var got Mutation
		if err := json.Unmarshal([]byte(s), &got); err != nil {
			t.Errorf("%s: %v", s, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got:\n%s", s, diff)
		}
	}
	invalid := []string{
		`null`, `[]`, `"x"`, `{}`, `{"type":"PUT","resource":"NOTE"}`, `{"type":"DELETE"}`, `{"type":"DELETE","resource":"note"}`,
		`{"type":"DELETE","resource":"NOTE","resourceId":""}`, `{"type":"DELETE","resource":"NOTE","timestamp":0}`,
		`{"type":"DELETE","resource":"NOTE","timestamp":"7"}`, `{"type":"DELETE","resource":"NOTE","timestamp":9007199254740992}`,
		`{"type":"CREATE","resource":"NOTE","data":[]}`, `{"type":"CREATE","type":"CREATE","resource":"NOTE"}`,
		`{"type":"CREATE","resource":"NOTE","data":{"a":1,"a":2}}`,
	}
	for _, s := range invalid {
		var m Mutation
		if err := m.UnmarshalJSON([]byte(s)); err == nil {
			t.Errorf("%s: got %+v", s, m)
		}
	}
}
